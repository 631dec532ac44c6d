"use strict";

// An item: its page beside its text, the words marked that the model was not sure of.

const viewer = { place: null, details: null };

/** Draw an item: what the list knows at once, the rest when its piece is there. */
async function drawItem(place, threshold, pattern) {
  if (viewer.place !== place) {
    Object.assign(viewer, { place, details: null });
    const name = items[place].key.lastIndexOf("/") + 1;
    byId("item").replaceChildren(
      element("span", { class: "quiet" }, items[place].key.slice(0, name)), items[place].key.slice(name));
    byId("facts").replaceChildren();
    byId("page").replaceChildren();
    byId("text").replaceChildren();
    byId("marking").hidden = byId("attempts").hidden = true;
  }
  let details;
  try {
    details = await detailsOf(place);
  } catch (error) {
    if (viewer.place === place) showNote(error.message, "error");
    return;
  }
  if (viewer.place !== place) return;
  if (!viewer.details) {
    viewer.details = details;
    byId("facts").replaceChildren(...factsOf(items[place], details));
    drawPage(byId("page"), details, items[place].key);
    drawAttempts(details.attempts ?? []);
    byId("answer").scrollTop = byId("text").scrollTop = 0;
  }
  drawText(threshold, pattern);
  byId("text").querySelector(".hit")?.scrollIntoView({ block: "center" });
}

function factsOf(item, details) {
  const { usage, rotation, tiles, model, server, asked } = details;
  const known = [
    ["Status", element("span", { class: `dot ${item.status}` }, item.status)],
    ["Confidence", item.percent != null && percentage(item.percent)],
    ["Time", item.milliseconds != null && duration(item.milliseconds / 1000)],
    ["Tokens", usage && `${number(usage.prompt_tokens ?? 0)} in, ${number(usage.completion_tokens ?? 0)} out`],
    ["Turned by", rotation && `${rotation}°`],
    ["Tiles", tiles > 1 && tiles],
    ["Asked", asked > 1 && `${asked} times`],
    ["Model", model],
    ["Server", server],
  ];
  return known.filter(([, value]) => value).map(([name, value]) =>
    element("div", { class: name.toLowerCase() }, element("dt", {}, name), element("dd", {}, value)));
}

function drawText(threshold, pattern) {
  const { text, words = [], error } = viewer.details;
  const { status } = items[viewer.place];
  byId("marking").hidden = !words.length;
  if (error) {
    const http = error.status ? `HTTP ${error.status}` : null;
    showNote(error.message, "error", [error.cause, http].filter(Boolean).join(", "));
  } else if (status === "waiting") {
    showNote("This item has not been answered yet. Start the same command again to go on.");
  } else if (!text) {
    showNote(status === "blank" ? "This page is blank." : "The answer is empty.");
  } else {
    const unsure = unsureWords(words, threshold, text.length);
    byId("text").replaceChildren(...marked(text, unsure, pattern));
    byId("marked").textContent = `${number(unsure.length)} of ${counted(words.length / 3, "word")}`;
  }
}

function showNote(message, kind = "", more = "") {
  byId("marking").hidden = true;
  byId("text").replaceChildren(element("div", { class: `note ${kind}` },
    element("p", {}, message), more && element("p", { class: "quiet" }, more)));
}

/** Of `words` (start, length, percent, start ...) those below a bound. */
function unsureWords(words, threshold, length) {
  const found = [];
  for (let at = 0; at < words.length; at += 3) {
    const [start, percent] = [words[at], words[at + 2]];
    const end = start + words[at + 1];
    if (percent < threshold && end <= length) found.push({ start, end, percent });
  }
  return found.sort((one, other) => one.start - other.start);
}

/** The text as nodes, with marks around unsure words and around what was searched for. Both may overlap. */
function marked(text, unsure, pattern) {
  const hits = [];
  for (const { 0: found, index } of pattern ? text.matchAll(pattern) : []) {
    hits.push({ start: index, end: index + found.length });
  }
  const edges = new Set([0, text.length]);
  for (const { start, end } of [...unsure, ...hits]) edges.add(start).add(end);
  const sorted = [...edges].sort((one, other) => one - other);
  const nodes = [];
  let [word, hit] = [0, 0];
  for (let at = 0; at + 1 < sorted.length; at++) {
    const start = sorted[at];
    while (unsure[word]?.end <= start) word++;
    while (hits[hit]?.end <= start) hit++;
    const part = text.slice(start, sorted[at + 1]);
    const inWord = unsure[word]?.start <= start;
    const inHit = hits[hit]?.start <= start;
    if (!inWord && !inHit) {
      nodes.push(part);
      continue;
    }
    const kinds = [inWord && "unsure", inHit && "hit"].filter(Boolean).join(" ");
    const mark = element("mark", { class: kinds, title: inWord && percentage(unsure[word].percent) }, part);
    if (inWord) mark.style.setProperty("--doubt", 100 - unsure[word].percent);
    nodes.push(mark);
  }
  return nodes;
}

function drawAttempts(attempts) {
  const box = byId("attempts");
  box.hidden = attempts.length < 2;
  box.open = false;
  box.firstElementChild.textContent = `${counted(attempts.length, "attempt")} at this page`;
  const columns = ["purpose", "rotation", "tiles", "temperature", "status", "confidence"];
  const shown = (name, value) => {
    if (value == null) return "";
    return name === "confidence" ? percentage(Math.floor(100 * value)) : String(value);
  };
  box.lastElementChild.replaceChildren(element("table", {},
    element("thead", {}, element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...attempts.map((attempt) =>
      element("tr", {}, ...columns.map((name) => element("td", {}, shown(name, attempt[name]))))))));
}
