"use strict";

// The data comes as scripts that call `received`, because a page opened from a file may not fetch.

const KEPT_PIECES = 60; // some 12,000 items with their texts, tens of megabytes

let run = null; // what is known of the run
let items = []; // {key, status, percent, milliseconds, cause}, in the order of the run

const arrived = new Map(); // what a script brought, until its `load` event
const pieces = new Map(); // number of a piece -> promise of its items' details; the last used comes last

function received(name, id, rows, about) {
  if (name !== "index") {
    arrived.set(name, { id, rows });
    return;
  }
  run = { ...about, id };
  items = rows.map(([key, status, percent, milliseconds, cause]) => ({ key, status, percent, milliseconds, cause }));
}

/** What the viewer shows of an item. Rejects with a sentence for the user. */
async function detailsOf(place) {
  let piece = run.starts.length - 1;
  while (run.starts[piece] > place) piece--;
  return (await loadPiece(piece))[place - run.starts[piece]];
}

function loadPiece(piece) {
  let loading = pieces.get(piece);
  if (!loading) {
    loading = loadScript(String(piece + 1).padStart(4, "0"));
    loading.catch(() => pieces.delete(piece));
  }
  pieces.delete(piece);
  pieces.set(piece, loading);
  if (pieces.size > KEPT_PIECES) pieces.delete(pieces.keys().next().value);
  return loading;
}

function loadScript(name) {
  return new Promise((resolve, reject) => {
    const script = element("script", { src: `report/${name}.js` });
    script.addEventListener("error", () => {
      script.remove();
      reject(new Error(`The file report/${name}.js is not there.`));
    });
    script.addEventListener("load", () => {
      script.remove();
      const found = arrived.get(name);
      arrived.delete(name);
      if (found?.id === run.id) resolve(found.rows);
      else reject(new Error("The report has been written anew since this page was opened: reload it."));
    });
    document.head.append(script);
  });
}

/** A phrase, whatever its case and the spaces and line ends between its words; null for nothing. */
function patternOf(query) {
  const words = query.trim().split(/\s+/).map((word) => word.replace(/[\^$\\.*+?()[\]{}|/]/g, "\\$&"));
  return words[0] ? new RegExp(words.join("\\s+"), "giu") : null;
}

/** Where it was found, with what stands around it; null where it was not. */
function snippetOf(details, pattern) {
  const text = details.text ?? details.error?.message ?? "";
  pattern.lastIndex = 0;
  const found = pattern.exec(text);
  if (!found) return null;
  const start = Math.max(0, found.index - 24);
  const shown = text.slice(start, found.index + 80).replace(/\s+/g, " ");
  return (start ? "…" : "") + shown;
}

/** Search the texts of all items, a piece after the other. Calls back after each with what it found, and how far
 * it is; stops when that returns false. */
async function searchTexts(pattern, callback) {
  for (const [piece, start] of run.starts.entries()) {
    const rows = await loadPiece(piece);
    const found = [];
    rows.forEach((details, row) => {
      const snippet = snippetOf(details, pattern);
      if (snippet !== null) found.push([start + row, snippet]);
    });
    if (!callback(found, start + rows.length)) return;
  }
}
