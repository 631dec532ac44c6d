"use strict";

// Elements, and numbers for people. Whatever comes from the data becomes a text node or an attribute, never HTML.

const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

const STATUSES = ["complete", "truncated", "repetition", "blank", "failed", "waiting"];

const number = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 2 : value < 100 ? 1 : 0 });
const compact = (value) => value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
const percentage = (value) => `${value} %`;
const capitalized = (word) => word[0].toUpperCase() + word.slice(1);
const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  const [hours, minutes, rest] = [seconds / 3600, (seconds / 60) % 60, Math.round(seconds) % 60].map(Math.floor);
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${rest} s` : `${rest} s`;
}
