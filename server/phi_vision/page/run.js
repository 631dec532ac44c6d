// One question from sending to its end: the stream, pages that come together, waiting where the server is full.

import { ApiError, events, request } from "./api.js";
import { Tokens, wordsOf } from "./confidence.js";
import { requestsOf } from "./requests.js";

const MOST_WAIT_S = 300; // for a server that is full
const ENDS = { stop: "complete", length: "truncated", repetition: "repetition" }; // vLLM's words

let count = 0;

/** A question and what has come of it. `state`: waiting, answering, full, or how it ended. */
export function newRun(asked) {
  return {
    id: ++count,
    asked,
    state: "waiting",
    sections: [], // {title, text, tokens, words, status, notes}: the answer, or a page each
    error: null, // ApiError
    retryInS: null,
    retryNow: null, // while it waits: ends the wait
    model: "",
    usage: { prompt_tokens: 0, completion_tokens: 0 },
    firstTokenMs: null,
    totalMs: null,
    tokensPerS: null,
    rope: "",
  };
}

/** Ask. Calls `update` after each change; the run itself says how it ended. */
export async function perform(run, update, signal) {
  try {
    for (const file of run.asked.files) await read(file);
    const requests = requestsOf(run.asked, (file) => file.url64);
    for (const [place, { path, body }] of requests.entries()) {
      const file = run.asked.byPage ? run.asked.files[place] : null;
      await untilTaken(run, update, signal, () =>
        file ? readPages(run, path, body, file, requests.length, signal) : stream(run, path, body, update, signal));
      update();
    }
    run.state = endOf(run);
  } catch (error) {
    if (signal.aborted) run.state = "stopped";
    else if (error instanceof ApiError) {
      run.state = error.status === 0 ? "lost" : "failed";
      run.error = error;
    } else throw error;
  } finally {
    if (run.state === "waiting" || run.state === "answering") run.state = "failed";
    run.retryNow = null;
    update();
  }
}

async function read(file) {
  try {
    await file.dataUrl();
  } catch {
    throw new ApiError(`${file.name} cannot be read any more.`, { status: 400, param: "document" });
  }
}

function endOf({ sections }) {
  if (sections.length === 1) return sections[0].status;
  return sections.every(({ status }) => status === "complete" || status === "blank") ? "complete" : "partly";
}

/** Ask again while the server says that it is full and when to come back. */
async function untilTaken(run, update, signal, ask) {
  for (let waitedS = 0; ;) {
    run.state = "waiting";
    update();
    try {
      return await ask();
    } catch (error) {
      const waitS = error.retryAfterS;
      if (waitS == null || (waitedS += waitS) > MOST_WAIT_S) throw error;
      run.error = error;
      await countDown(run, waitS, update, signal);
      run.error = null;
    }
  }
}

async function countDown(run, seconds, update, signal) {
  run.state = "full";
  const early = new Promise((resolve) => {
    run.retryNow = resolve;
    signal.addEventListener("abort", resolve, { once: true });
  });
  let over = false;
  early.then(() => { over = true; });
  for (run.retryInS = seconds; run.retryInS > 0 && !over; run.retryInS--) {
    update();
    await Promise.race([early, new Promise((resolve) => setTimeout(resolve, 1000))]);
  }
  run.retryNow = run.retryInS = null;
  signal.throwIfAborted();
}

/** As text, where it is not larger than what the server takes: it would close the connection without a word. */
function textOf(body, { max_body_mb: most }) {
  const text = JSON.stringify(body);
  if (text.length <= most * 1e6) return text;
  const size = Math.ceil(text.length / 1e6);
  throw new ApiError(`This is ${size} MB to send, of ${most} MB at most in one request.`, { status: 413, param: "document" });
}

async function stream(run, path, body, update, signal) {
  const sent = performance.now();
  const streamed = { ...body, stream: true, stream_options: { include_usage: true }, logprobs: true };
  const response = await request(path, { body: textOf(streamed, run.asked.server), signal });
  run.rope = response.headers.get("x-phi-vision-rope") ?? "";
  const tokens = new Tokens();
  const section = { title: "", text: "", tokens: tokens.placed, words: [], status: null, notes: [] };
  run.sections = [section];
  run.state = "answering";
  let last = sent;
  try {
    for await (const { model, choices, usage } of events(response, signal)) {
      run.model = model ?? run.model;
      const choice = choices[0];
      if (choice?.delta.content) {
        last = performance.now();
        run.firstTokenMs ??= last - sent;
        section.text += choice.delta.content;
      }
      tokens.add(section.text, choice?.logprobs?.content);
      if (choice?.finish_reason) section.status = ENDS[choice.finish_reason] ?? "failed";
      if (usage) run.usage = usage;
      update();
    }
  } finally {
    run.totalMs = performance.now() - sent;
    section.words = wordsOf(section.text, section.tokens);
  }
  const { completion_tokens: answered } = run.usage;
  if (answered > 1 && last > sent + run.firstTokenMs) {
    run.tokensPerS = (answered - 1) / ((last - sent - run.firstTokenMs) / 1000);
  }
  section.status ??= "failed"; // no end was told
  if (section.status === "complete" && !section.text.trim()) section.status = "blank";
}

async function readPages(run, path, body, file, numFiles, signal) {
  const sent = performance.now();
  const response = await request(path, { body: textOf(body, run.asked.server), signal });
  const answer = await response.json();
  run.model = answer.model;
  run.totalMs = (run.totalMs ?? 0) + performance.now() - sent;
  for (const page of answer.pages) {
    const name = numFiles > 1 ? `${file.name}, page` : "Page";
    const title = file.isDocument ? `${name} ${page.index + 1}` : file.name;
    run.sections.push({ title, text: page.markdown, tokens: [], words: wordsOfPage(page), status: page.status,
      notes: notesOf(page) });
    run.usage.prompt_tokens += page.usage.prompt_tokens;
    run.usage.completion_tokens += page.usage.completion_tokens;
  }
}

/** The server counts characters, JavaScript UTF-16 units. */
function wordsOfPage({ markdown, confidence_scores: scores }) {
  const units = [];
  let at = 0;
  for (const character of markdown) {
    units.push(at);
    at += character.length;
  }
  return (scores?.word_confidence_scores ?? []).map(({ text, confidence, start_index: index }) => (
    { start: units[index], end: units[index] + text.length, share: confidence }));
}

function notesOf({ rotation, tiles, attempts, error, confidence_scores: scores }) {
  const sure = scores?.average_page_confidence_score;
  return [
    sure != null && `${Math.floor(100 * sure)} % sure`,
    rotation > 0 && `turned by ${rotation}°`,
    tiles > 1 && `read in ${tiles} parts`,
    attempts.length > 1 && `${attempts.length} attempts`,
    error,
  ].filter(Boolean);
}
