// The answer: its text as it comes, words marked that the model was not sure of, how it ended, and what it took.

import { wordsOf } from "./confidence.js";
import { byId, counted, duration, element, number, percentage, setText } from "./dom.js";

// How a run stands, in words. A mark says the same with a colour.
const WORDS = {
  waiting: ["Waiting for the first word", "going"],
  answering: ["Answering", "going"],
  full: ["The server is full", "warning"],
  complete: ["Complete", "good"],
  truncated: ["Cut off: it reached its limit of tokens", "warning"],
  repetition: ["Cut off: it began to repeat itself", "warning"],
  blank: ["Blank: nothing was read", "quiet"],
  partly: ["Done, but not every page is complete", "warning"],
  stopped: ["Stopped: this is what had come", "quiet"],
  lost: ["The connection was lost: this is what had come", "bad"],
  failed: ["Failed", "bad"],
};

let drawn = null; // {id, sections: [{node, at, tail}]}: what is on the page of which run

/** Draw the run, or what has changed of it. */
export function drawAnswer(run, markBelow) {
  byId("answer").hidden = !run;
  if (!run) return;
  const isGoing = run.state === "waiting" || run.state === "answering" || run.state === "full";
  if (drawn?.id !== run.id || drawn.markBelow !== markBelow) {
    // Screen readers say an answer when it is new, not when words of it are marked anew.
    byId("text").setAttribute("aria-live", drawn?.id === run.id ? "off" : "polite");
    drawn = { id: run.id, markBelow, sections: [] };
    byId("text").replaceChildren();
  }
  byId("text").setAttribute("aria-busy", String(isGoing));
  run.sections.forEach((section, place) => drawSection(section, place, run, markBelow, isGoing));
  const [words, kind] = WORDS[run.state];
  byId("ending").className = `dot ${kind}`;
  setText(byId("ending"), run.asked.byPage && run.state === "waiting" ? "Reading" : words);
  drawTrouble(run);
  drawFacts(run);
  const marks = run.sections.flatMap(({ words }) => words).filter(({ share }) => share != null);
  const low = marks.filter(({ share }) => share < markBelow).length;
  byId("marking").hidden = !marks.length || isGoing;
  setText(byId("marked"), `${number(low)} of ${counted(marks.length, "word")}`);
  byId("after").hidden = isGoing || !run.sections.length;
}

function drawSection(section, place, run, markBelow, isGoing) {
  let view = drawn.sections[place];
  if (!view) {
    const tail = document.createTextNode("");
    const body = element("div", { class: "words", dir: "auto" }, tail);
    const [words, kind] = WORDS[section.status] ?? [];
    const head = section.title && element("h3", {}, section.title,
      element("span", { class: `dot ${kind}` }, [words, ...section.notes].join(" · ")));
    byId("text").append(element("section", {}, head, body));
    view = drawn.sections[place] = { body, tail, at: 0 };
  }
  const { text } = section;
  // A word is marked once it has ended: only what is new becomes nodes.
  const end = isGoing ? text.search(/\S*$/) : text.length;
  if (end > view.at) {
    const words = section.words.length ? section.words : wordsOf(text.slice(0, end), section.tokens, view.at);
    view.tail.before(...marked(text, words, view.at, end, markBelow));
    view.at = end;
  }
  setText(view.tail, text.slice(end));
}

function marked(text, words, from, to, markBelow) {
  const nodes = [];
  let at = from;
  for (const { start, end, share } of words) {
    if (share == null || share >= markBelow || start < from || end > to) continue;
    const told = element("span", { class: "unseen" }, ` (${percentage(share)} sure)`);
    nodes.push(text.slice(at, start));
    nodes.push(element("mark", { class: share < markBelow / 2 ? "very" : "", title: `${percentage(share)} sure` },
      text.slice(start, end), told));
    at = end;
  }
  return [...nodes, text.slice(at, to)];
}

/** What went wrong, and what can be done. */
function drawTrouble(run) {
  byId("trouble").hidden = !run.error;
  byId("retry").hidden = run.state === "waiting" || run.state === "answering";
  if (!run.error) return;
  setText(byId("trouble-words"), run.error.message);
  setText(byId("countdown"), run.retryInS ? ` Asking again in ${run.retryInS} s.` : "");
  setText(byId("retry"), run.retryNow ? "Ask now" : "Ask again");
}

function drawFacts(run) {
  const { usage, firstTokenMs, tokensPerS, totalMs, rope, model } = run;
  const known = [
    ["Tokens", usage.completion_tokens > 0 && `${number(usage.prompt_tokens)} in, ${number(usage.completion_tokens)} out`],
    ["First token", firstTokenMs != null && duration(firstTokenMs)],
    ["Speed", tokensPerS != null && `${number(tokensPerS)} tokens/s`],
    ["In all", totalMs != null && duration(totalMs)],
    ["Rope", ropeOf(rope, usage, run.asked.server)],
    ["Model", model],
  ].filter(([, value]) => value);
  byId("facts").replaceChildren(...known.map(([name, value]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

/** A stream says what it starts with; beyond the window of the short factors it goes on with the long ones. */
function ropeOf(rope, usage, server) {
  const total = usage.prompt_tokens + usage.completion_tokens;
  return rope === "short" && total > server.short_window + 1 ? "short, then long" : rope;
}

/** The whole text, the pages of a document under their names. */
export function textOf({ sections }) {
  if (sections.length === 1) return sections[0].text;
  return sections.map(({ title, text }) => `--- ${title} ---\n${text}`).join("\n\n");
}

export function markdownOf({ sections }) {
  if (sections.length === 1) return sections[0].text;
  return sections.map(({ title, text }) => `## ${title}\n\n${text}`).join("\n\n");
}

/** All that is known of a run, as JSON. */
export function jsonOf(run) {
  const { asked, sections, state, model, usage, rope, firstTokenMs, tokensPerS, totalMs } = run;
  const pages = sections.map(({ title, text, status, notes, words }) => ({
    title, text, status, notes,
    words: words.map(({ start, end, share }) => ({ text: text.slice(start, end), confidence: share })),
  }));
  const files = asked.files.map(({ name, type, width, height }) => ({ name, type, width, height }));
  return JSON.stringify({
    model, task: asked.task.id, text: asked.text, schema: asked.schema, files, status: state, answer: pages, usage,
    rope, first_token_ms: firstTokenMs, tokens_per_s: tokensPerS, total_ms: totalMs,
  }, null, 2);
}

export const isEmpty = (run) => !run.sections.some(({ text }) => text.trim());
