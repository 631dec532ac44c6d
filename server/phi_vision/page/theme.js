"use strict";

// Before the page is drawn: the colours that the user chose last time; without a choice, the system's.
try {
  const chosen = localStorage.getItem("phi-vision-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // this browser keeps nothing
}
