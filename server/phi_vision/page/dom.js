// Elements, and numbers for people. Texts become text nodes or attributes, never HTML.

export const byId = (id) => document.getElementById(id);

/** An element; an attribute that is a function listens to the event of its name. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child != null && child !== false));
  return made;
}

/** Set an element's text where it differs, so that a live region says each thing once. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export const number = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
export const percentage = (share) => `${Math.floor(100 * share)} %`;
export const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
export const gibibytes = (bytes) => (bytes < 1e8 ? `${number(bytes / 2 ** 20)} MiB` : `${number(bytes / 2 ** 30)} GiB`);
export const megabytes = (bytes) => (bytes < 1e5 ? `${number(bytes / 1e3)} kB` : `${number(bytes / 1e6)} MB`);
export const duration = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
