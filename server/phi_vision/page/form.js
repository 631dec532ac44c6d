// The question: its task, its fields, and what is said beside a field that is at fault.

import { byId, element, number, setText } from "./dom.js";
import { defaultNumCrops } from "./geometry.js";
import { costOf } from "./stage.js";

const FIELDS = ["files", "text", "crops", "pages", "max-tokens", "schema", "form"];
const INPUTS = { text: "text-input", crops: "crops", pages: "pages", "max-tokens": "max-tokens", schema: "schema" };

/** Caption, OCR, VQA. */
export const labelOf = ({ id }) => (id.length > 3 ? id[0].toUpperCase() + id.slice(1) : id.toUpperCase());

export class Form {
  server = null; // what `/v1/tasks` says of it
  tasks = [];
  wanted = null; // id of the task that was chosen before the server said which it has
  chosenCrops = null; // by the user; null: the server's own choice
  chosenByPage = null;
  badPlaces = new Set(); // of files that were refused

  /** @param onChange called when what is shown beside the form may have changed. */
  constructor(pictures, onChange) {
    this.pictures = pictures;
    byId("crops").addEventListener("input", ({ target }) => {
      const [chosen, usual] = [Number(target.value), defaultNumCrops(this.server, pictures.files.length)];
      this.chosenCrops = chosen === usual && !this.server.adaptive_crops ? null : chosen;
      onChange();
    });
    byId("show-crops").addEventListener("change", onChange);
    byId("by-page").addEventListener("change", ({ target }) => {
      this.chosenByPage = target.checked;
      onChange();
    });
    byId("tasks").addEventListener("change", onChange);
    for (const id of ["text-input", "schema", "max-tokens"]) byId(id).addEventListener("input", onChange);
  }

  /** Take over what `/v1/tasks` says. */
  serve({ data, server }) {
    const chosen = this.task?.id ?? this.wanted;
    this.server = server;
    this.tasks = data.filter(({ models }) => models.length);
    byId("crops").max = server.max_num_crops;
    const buttons = this.tasks.map(({ id }) => element("label", {},
      element("input", { type: "radio", name: "task", value: id }),
      element("span", {}, labelOf({ id }))));
    byId("tasks").replaceChildren(byId("tasks").querySelector("legend"), ...buttons);
    this.choose(chosen ?? this.tasks[0].id);
  }

  /** Choose a task, and a text to ask with; null leaves the text that is there. Works before the tasks are known. */
  choose(id, text = null) {
    this.wanted = id;
    const button = byId("tasks").querySelector(`input[value="${CSS.escape(id)}"]`);
    if (button) button.checked = true;
    if (text !== null) byId("text-input").value = text;
  }

  get task() {
    const id = byId("tasks").querySelector("input:checked")?.value;
    return this.tasks.find((task) => task.id === id) ?? null;
  }

  /** Whether files are read page by page: documents and several pictures are, where nothing speaks against it. */
  get byPage() {
    const { files } = this.pictures;
    const wanted = this.chosenByPage ?? (files.length > 1 || files.some(({ isDocument }) => isDocument));
    return wanted && this.canGoByPage;
  }

  /** `/v1/ocr` reads text, in the words of the task. */
  get canGoByPage() {
    return this.task?.id === "ocr" && !byId("text-input").value.trim() && !byId("schema").value.trim() &&
      !byId("max-tokens").value && this.chosenCrops === null;
  }

  get numCrops() {
    return this.byPage ? null : this.chosenCrops;
  }

  draw() {
    const { server, task, pictures: { files } } = this;
    if (!server) return;
    const asksBack = task.prompt === null;
    setText(byId("task-words"), task.description);
    const place = byId(asksBack ? "question" : "own-words");
    if (byId("text-field").parentElement !== place) place.append(byId("text-field"));
    byId("text-field").hidden = false;
    setText(byId("text-label"), asksBack ? "Question" : "In your own words");
    byId("text-input").placeholder = task.prompt ?? "What do you want to know about it?";
    byId("text-input").required = asksBack;
    byId("by-page-field").hidden = task.id !== "ocr";
    byId("by-page").checked = this.byPage;
    byId("by-page").disabled = !this.canGoByPage;
    byId("pages-field").hidden = !files.some(({ isDocument }) => isDocument);
    byId("max-tokens").placeholder = number(task.max_tokens);
    byId("crops-field").hidden = this.byPage;
    for (const id of ["max-tokens", "schema"]) byId(id).disabled = this.byPage;
    const crops = this.numCrops ?? (this.byPage ? server.num_crops : defaultNumCrops(server, Math.max(1, files.length)));
    byId("crops").value = crops;
    setText(byId("crops-value"), String(crops));
    setText(byId("cost"), costOf(files, server, this.numCrops, this.byPage));
  }

  /** What is asked, see `requests.js`; null where a field is at fault, which is said beside it. */
  read() {
    this.clearFaults();
    const { files } = this.pictures;
    const text = byId("text-input").value.trim();
    let schema = null;
    if (!files.length) this.showFault("files", "Choose a picture or a document first.");
    else if (this.task.prompt === null && !text) this.showFault("text", "Ask a question about the picture.");
    else if (byId("schema").value.trim()) {
      try {
        schema = JSON.parse(byId("schema").value);
      } catch (error) {
        this.showFault("schema", `This is no JSON: ${error.message}`);
      }
      if (schema !== null && (typeof schema !== "object" || Array.isArray(schema))) {
        this.showFault("schema", "A JSON schema is an object.");
      }
    }
    const pages = byId("pages-field").hidden ? "" : byId("pages").value.trim();
    if (/(^|\D)0+(\D|$)/.test(pages)) this.showFault("pages", "The first page is 1.");
    const tokens = byId("max-tokens");
    if (tokens.validity.badInput) this.showFault("max-tokens", "This is no number.");
    if (this.hasFault) return null;
    return {
      task: this.task,
      server: this.server,
      files: [...files],
      text,
      schema,
      pages,
      maxTokens: tokens.value === "" ? null : Number(tokens.value),
      numCrops: this.numCrops,
      byPage: this.byPage,
    };
  }

  /** Say what is wrong beside the field, and go there. */
  showFault(field, words, place = null) {
    const [note, input] = [byId(`${field}-fault`), byId(INPUTS[field])];
    this.hasFault = true;
    if (place !== null) this.badPlaces.add(place);
    note.hidden = false;
    setText(note, words);
    input?.setAttribute("aria-invalid", "true");
    if (input?.closest("details")) input.closest("details").open = true;
    if (input && !input.disabled) input.focus();
  }

  clearFaults() {
    this.hasFault = false;
    this.badPlaces.clear();
    for (const field of FIELDS) {
      byId(`${field}-fault`).hidden = true;
      byId(INPUTS[field])?.removeAttribute("aria-invalid");
    }
  }
}
