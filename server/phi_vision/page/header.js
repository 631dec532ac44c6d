// The header: what is served, whether it is ready, its queue, and its memory.

import { hasKey, request } from "./api.js";
import { byId, element, gibibytes, number, setText } from "./dom.js";

const WHEN_READY_MS = 5000;
const WHEN_NOT_MS = 1500;

let timer = null;

/**
 * Look at the server now and then, as long as the page is looked at. `onChange` gets `ready`, `starting`, `busy`
 * (another reason that the server gives) or `gone`; `mayAsk` says whether the queue is asked for, which takes the key.
 */
export function watchServer(mayAsk, onChange) {
  const look = async () => {
    clearTimeout(timer);
    if (document.hidden) return;
    const state = await readiness();
    const isUp = state.kind === "ready" || state.kind === "busy";
    await onChange(state.kind);
    drawState(state, isUp && mayAsk() ? await queue() : null);
    timer = setTimeout(look, state.kind === "ready" ? WHEN_READY_MS : WHEN_NOT_MS);
  };
  document.addEventListener("visibilitychange", look);
  look();
}

async function readiness() {
  let answer;
  try {
    answer = await fetch("readyz", { cache: "no-store" });
  } catch {
    return { kind: "gone", words: "No connection" };
  }
  if (answer.ok) return { kind: "ready", words: "Ready" };
  let told = {};
  try {
    told = await answer.json();
  } catch {
    // a proxy's page, for example
  }
  if (told.status === "downloading") {
    return { kind: "starting", words: `Downloading the weights: ${number(told.percent ?? 0)} %`, percent: told.percent };
  }
  if (told.status === "loading") return { kind: "starting", words: "Loading the model" };
  return { kind: "busy", words: told.status ?? `Not ready (HTTP ${answer.status})` };
}

async function queue() {
  try {
    return await (await request("v1/queue")).json();
  } catch {
    return null; // the server has just gone: the next look says so
  }
}

function drawState({ kind, words, percent }, counts) {
  byId("state").className = `dot ${{ ready: "good", starting: "going", busy: "warning", gone: "bad" }[kind]}`;
  setText(byId("state"), words);
  setText(byId("queue"), counts ? `${number(counts.requests)} of ${number(counts.max_requests)} requests` : "");
  byId("start").hidden = kind !== "starting";
  if (kind !== "starting") return;
  setText(byId("start-words"), words);
  const bar = byId("start-bar");
  if (percent == null) bar.removeAttribute("value");
  else bar.value = percent;
}

/** Say what is served. */
export function drawServed({ model, demo }) {
  setText(byId("model"), model);
  byId("demo").hidden = byId("demo-note").hidden = !demo;
}

const PARTS = {
  weights: ["Weights of the text model", "text_weights_bytes"],
  vision: ["Weights of the vision tower", "vision_weights_bytes"],
  activations: ["Activations", "activations_bytes"],
  runtime: ["Runtime", "runtime_bytes"],
  cache: ["KV cache", "kv_available_bytes"],
};

/** The memory plan as a bar; hidden where memory was not planned or the key is missing. */
export async function drawPlan() {
  let plan;
  let actual;
  try {
    ({ plan, actual } = await (await request("v1/plan")).json());
  } catch {
    plan = null;
  }
  byId("plan").hidden = !plan;
  if (!plan) return;
  const parts = Object.entries(PARTS).map(([kind, [words, field]]) => ({ kind, words, bytes: plan[field] }));
  const used = parts.reduce((sum, { bytes }) => sum + bytes, 0);
  parts.push({ kind: "free", words: "Not used", bytes: Math.max(0, plan.total_bytes - used) });
  byId("plan-bar").replaceChildren(...parts.map(({ kind, bytes }) => {
    const part = element("i", { class: kind });
    part.style.flexGrow = bytes / plan.total_bytes;
    return part;
  }));
  setText(byId("plan-sum"), `${gibibytes(used)} of ${gibibytes(plan.total_bytes)}`);
  const rows = parts.map(({ kind, words, bytes }) =>
    element("li", {}, element("i", { class: kind }), words, element("b", {}, gibibytes(bytes))));
  byId("plan-parts").replaceChildren(...rows);
  setText(byId("plan-words"), `Profile ${plan.profile}: weights ${plan.weights}, KV cache ${plan.kv_dtype}. ` +
    `A context of ${number(plan.max_model_len)} tokens, ${number(plan.pictures_at_once)} pictures at once. ` +
    `The KV cache holds ${number(actual.kv_tokens)} tokens.`);
}

/** The dialog that asks for the key. `onKey` is called once there is one. */
export function setUpKey(setKey, onKey) {
  const dialog = byId("key-dialog");
  const field = byId("key");
  byId("key-open").addEventListener("click", () => askForKey(""));
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (!/^[\x21-\x7e]+$/.test(text)) {
      showKeyFault("A key has letters, digits and signs, and no spaces.");
      return;
    }
    setKey(text, byId("key-keep").checked);
    dialog.close();
    onKey();
  });
  byId("key-forget").addEventListener("click", () => {
    setKey("", false);
    dialog.close();
    onKey();
  });
  byId("key-cancel").addEventListener("click", () => dialog.close());
}

export function askForKey(fault) {
  const dialog = byId("key-dialog");
  byId("key").value = "";
  byId("key-forget").hidden = !hasKey();
  showKeyFault(fault);
  if (!dialog.open) dialog.showModal();
}

function showKeyFault(words) {
  byId("key-fault").hidden = !words;
  setText(byId("key-fault"), words);
}
