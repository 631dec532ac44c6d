// The page as a whole: what happens when something is chosen, asked, answered or refused.

import { drawAnswer, isEmpty, jsonOf, markdownOf, textOf } from "./answer.js";
import { hasKey, request, setKey } from "./api.js";
import { byId, element, percentage, setText } from "./dom.js";
import { Form, labelOf } from "./form.js";
import { askForKey, drawPlan, drawServed, setUpKey, watchServer } from "./header.js";
import { Pictures, takeFromAnywhere } from "./pictures.js";
import { faultOf } from "./requests.js";
import { newRun, perform } from "./run.js";
import { snippetsOf } from "./snippets.js";
import { drawStage } from "./stage.js";
import { keep } from "./storage.js";

const EXAMPLES = [
  { file: "sign.png", name: "Sign", task: "ocr" },
  { file: "shapes.png", name: "Shapes", task: "vqa", text: "What color is the circle?" },
  { file: "invoice.png", name: "Invoice", task: "ocr" },
  { file: "scene.webp", name: "Scene", task: "caption" },
];
const FREE_TEXT_MARK = 0.5; // where many words would do, a share says less than of text that is read
const THEMES = { "": "system", light: "light", dark: "dark" };
const MEDIA_TYPES = { txt: "text/plain", md: "text/markdown", json: "application/json" };

const pictures = new Pictures();
const form = new Form(pictures, drawQuestion);
let run = null; // the one that is shown
let going = null; // AbortController of the one that is at work
let past = []; // runs, the last one first
let markBelow = FREE_TEXT_MARK;
let isReady = false;
let wantsKey = false; // the server has refused; the user is asked once, not at every look
let language = "curl";
let frame = null;

function drawQuestion() {
  form.draw();
  drawStage(pictures, form.server, form.byPage ? form.server.num_crops : form.chosenCrops, form.badPlaces);
  byId("send").disabled = !isReady || !form.server || going !== null || pictures.coming > 0;
  setText(byId("send"), wantsKey ? "A key is needed" : isReady && form.server ? "Ask" : "Waiting for the server");
  byId("stop").hidden = going === null;
}

/** Draw the answer before the next frame, however many pieces of it come until then. */
function drawSoon() {
  frame ??= requestAnimationFrame(drawNow);
}

function drawNow() {
  if (frame !== null) cancelAnimationFrame(frame);
  frame = null;
  drawAnswer(run, markBelow);
}

async function connect() {
  let told;
  try {
    told = await (await request("v1/tasks")).json();
  } catch (error) {
    wantsKey = error.status === 401;
    if (wantsKey) askForKey(hasKey() ? "The server does not take this key." : "");
    return;
  }
  wantsKey = false;
  form.serve(told);
  drawServed(told.server);
  drawPlan();
  drawQuestion();
}

async function ask(asked) {
  going = new AbortController();
  const mine = run = newRun(asked);
  past = [run, ...past];
  setThreshold(asked.task.id === "ocr" ? asked.server.low_confidence : FREE_TEXT_MARK);
  drawQuestion();
  drawHistory();
  drawNow();
  byId("answer").scrollIntoView({ block: "nearest" });
  try {
    await perform(mine, drawSoon, going.signal);
  } finally {
    going = null;
    drawQuestion();
    drawNow();
    drawHistory();
  }
  if (mine.error) tell(mine);
  drawCode();
}

/** What the server refused, beside the field at fault. */
function tell(failed) {
  const { error, asked } = failed;
  if (error.status === 401) {
    askForKey(hasKey() ? "The server does not take this key." : "");
    return;
  }
  if (error.status < 400 || error.status >= 500 || error.status === 429) return;
  const { field, file } = faultOf(error.param, asked);
  const name = field === "files" && asked.files.length > 1 ? `${asked.files[file ?? 0].name}: ` : "";
  form.showFault(field, name + error.message, field === "files" ? file ?? 0 : null);
  drawQuestion();
  if (isEmpty(failed)) forget(failed);
}

/** A question that was refused is no part of the history: its fields say what to mend. */
function forget(refused) {
  past = past.filter((other) => other !== refused);
  if (run === refused) run = past[0] ?? null;
  drawHistory();
  drawNow();
}

function drawHistory() {
  byId("history").hidden = past.length < 2;
  byId("past").replaceChildren(...past.map((each) => {
    const { asked } = each;
    const file = asked.files[0];
    const text = textOf(each).trim().slice(0, 120) || each.state;
    const names = asked.files.length === 1 ? file.name : `${file.name} and ${asked.files.length - 1} more`;
    return element("li", {}, element("button", {
      type: "button", disabled: going !== null, "aria-pressed": String(each === run), click: () => lookBack(each),
    },
    file.width ? element("img", { src: file.address, alt: "" }) : element("span", { class: "sheet", "aria-hidden": "true" }),
    element("span", {}, element("b", {}, [labelOf(asked.task), asked.text].filter(Boolean).join(": ")),
      element("span", { class: "quiet" }, ` ${names}`)),
    element("span", { class: "first" }, text)));
  }));
}

function lookBack(earlier) {
  run = earlier;
  form.clearFaults();
  form.choose(earlier.asked.task.id, earlier.asked.text);
  pictures.replace(earlier.asked.files);
  drawHistory();
  drawNow();
  drawCode();
}

function setThreshold(share) {
  markBelow = share;
  byId("mark-below").value = Math.round(100 * share);
  setText(byId("mark-below-value"), percentage(Math.round(100 * share) / 100));
}

function drawCode() {
  if (!run) return;
  const snippets = snippetsOf(run.asked, document.baseURI, hasKey());
  byId("languages").replaceChildren(...Object.keys(snippets).map((name) => element("button", {
    type: "button", "aria-pressed": String(name === language),
    click: () => {
      language = name;
      drawCode();
      byId("languages").querySelector("[aria-pressed=true]").focus();
    },
  }, { curl: "curl", python: "Python", javascript: "JavaScript" }[name])));
  setText(byId("snippet"), snippets[language]);
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    setText(byId("said"), `${what} copied`);
  } catch { // only pages of https and of this machine may
    const area = element("textarea", { class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    setText(byId("said"), document.execCommand("copy") ? `${what} copied` : "This browser does not let the page copy");
    area.remove();
  }
}

function save(kind) {
  const text = { txt: textOf, md: markdownOf, json: jsonOf }[kind](run);
  const address = URL.createObjectURL(new Blob([text], { type: MEDIA_TYPES[kind] }));
  const name = run.asked.files[0].name.replace(/\.[^.]*$/, "");
  element("a", { href: address, download: `${name}.${kind}` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

async function exampleOf(file) {
  const answer = await fetch(`page/examples/${file}`);
  if (!answer.ok) throw new Error(answer.statusText);
  return answer.blob();
}

async function tryExample({ file, task, text }) {
  let blob;
  try {
    blob = await pictures.waitFor(exampleOf(file));
  } catch {
    form.showFault("files", "The example could not be fetched from the server: try it again, or choose a file.");
    return;
  }
  pictures.replace([]);
  await pictures.add([new File([blob], file, { type: blob.type })]);
  form.choose(task, text ?? "");
  drawQuestion();
  (form.task?.prompt === null ? byId("text-input") : byId("send")).focus();
}

function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  keep("theme", name);
  byId("theme").setAttribute("aria-label", `Theme: ${THEMES[name]}`);
  byId("theme").title = `Theme: ${THEMES[name]}`;
}

function setUp() {
  setTheme(document.documentElement.dataset.theme ?? "");
  byId("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const current = document.documentElement.dataset.theme ?? "";
    setTheme(names[(names.indexOf(current) + 1) % names.length]);
  });
  byId("examples").append(element("p", { class: "quiet" }, "or try one of these"),
    ...EXAMPLES.map((example) => element("button", { type: "button", click: () => tryExample(example) },
      element("img", { src: `page/examples/${example.file}`, alt: "" }), example.name)));
  for (const [buttons, input] of [[".choose", "file-input"], [".photo", "camera-input"]]) {
    for (const button of document.querySelectorAll(buttons)) button.addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", async ({ target }) => {
      await pictures.add(target.files);
      target.value = ""; // the same file can be chosen again
    });
  }
  takeFromAnywhere(pictures);
  pictures.addEventListener("change", () => {
    form.clearFaults();
    drawQuestion();
  });
  byId("clear").addEventListener("click", () => {
    pictures.replace([]);
    document.querySelector("#drop .choose").focus();
  });
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const asked = byId("send").disabled ? null : form.read();
    drawQuestion();
    if (asked) ask(asked);
  });
  byId("form").noValidate = true;
  addEventListener("keydown", (event) => {
    if (byId("key-dialog").open) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit();
    if (event.key === "Escape") going?.abort();
  });
  byId("stop").addEventListener("click", () => going?.abort());
  byId("retry").addEventListener("click", () => (run.retryNow ? run.retryNow() : ask(run.asked)));
  byId("copy").addEventListener("click", () => copy(textOf(run), "Text"));
  byId("copy-code").addEventListener("click", () => copy(byId("snippet").textContent, "Code"));
  for (const button of document.querySelectorAll(".save")) {
    button.addEventListener("click", () => save(button.dataset.kind));
  }
  byId("mark-below").addEventListener("input", ({ target }) => {
    setThreshold(target.value / 100);
    drawNow();
  });
  setUpKey(setKey, connect);
  watchServer(() => form.server !== null && !wantsKey, async (kind) => {
    const wasReady = isReady;
    isReady = kind === "ready" || kind === "busy";
    if (isReady && (!wasReady || !form.server) && !wantsKey) await connect();
    drawQuestion();
  });
  drawQuestion();
}

setUp();
