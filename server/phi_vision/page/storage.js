// What stays in the browser: only what the user chose. A browser may refuse to keep anything.

const PREFIX = "phi-vision-";

export function recall(name) {
  try {
    return localStorage.getItem(PREFIX + name) ?? "";
  } catch {
    return "";
  }
}

/** Keep a text; an empty one is forgotten. */
export function keep(name, text) {
  try {
    if (text) localStorage.setItem(PREFIX + name, text);
    else localStorage.removeItem(PREFIX + name);
  } catch {
    // then it lasts as long as the page
  }
}
