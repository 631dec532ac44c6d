"use strict";

// What is shown: filters, search, order, the current item, and the keys. The address says which view is open.

const SEARCH_WAIT_MS = 250;
const FILTERS = {
  failed: { label: "Failed", takes: (item) => item.status === "failed" },
  truncated: { label: "Truncated", takes: (item) => item.status === "truncated" },
  repetition: { label: "Repetition", takes: (item) => item.status === "repetition" },
  blank: { label: "Blank", takes: (item) => item.status === "blank" },
  low: { label: "Low confidence", takes: (item) => item.percent != null && item.percent < state.threshold },
  complete: { label: "Complete", takes: (item) => item.status === "complete" },
  waiting: { label: "Waiting", takes: (item) => item.status === "waiting" },
};
const ORDERS = { // what comes first has the lowest rank
  percent: (item) => item.percent ?? 101,
  milliseconds: (item) => -(item.milliseconds ?? -1),
};

const state = {
  filters: new Set(), // names of FILTERS; none: all items
  cause: null, // of failed items
  order: "number",
  threshold: 0, // of confidence, in percent
  pattern: null, // what is searched for
  found: null, // Map: place of an item -> what stands around the hit, "" where it is in the name
  current: null, // place of the item that is open
};
let list;
let searches = 0;

function refresh() {
  const chosen = [...state.filters].map((name) => FILTERS[name].takes);
  const places = [];
  items.forEach((item, place) => {
    if (state.found && !state.found.has(place)) return;
    if (state.cause !== null && item.cause !== state.cause) return;
    if (!chosen.length || chosen.some((takes) => takes(item))) places.push(place);
  });
  const rank = ORDERS[state.order];
  if (rank) places.sort((one, other) => rank(items[one]) - rank(items[other]));
  list.show(places);
  byId("count").textContent = places.length === items.length ? counted(places.length, "item")
    : `${number(places.length)} of ${counted(items.length, "item")}`;
  drawFilters();
  drawPosition();
}

function drawFilters() {
  const chips = Object.entries(FILTERS).map(([name, { label, takes }]) => {
    const count = items.filter(takes).length;
    if (!count && name === "waiting") return null;
    const pressed = state.filters.has(name);
    const others = [...state.filters].filter((other) => other !== name);
    const click = () => setFilters(pressed ? others : [...others, name], null);
    const disabled = !count && !pressed;
    const attributes = { type: "button", "data-filter": name, "aria-pressed": String(pressed), disabled, click };
    return element("button", attributes, `${label} `, element("b", {}, number(count)));
  });
  const click = () => setFilters(state.filters, null);
  const named = { type: "button", "aria-pressed": "true", "aria-label": `Cause ${state.cause}: remove`, click };
  const cause = state.cause === null ? null : element("button", named, `${state.cause} ×`);
  const focused = document.activeElement?.dataset?.filter;
  byId("filters").replaceChildren(...[...chips, cause].filter(Boolean));
  if (focused) byId("filters").querySelector(`[data-filter="${focused}"]`)?.focus();
}

function setFilters(names, cause) {
  state.filters = new Set(names);
  state.cause = state.filters.has("failed") ? cause : null;
  list.box.scrollTop = 0;
  refresh();
}

function rowOf(place) {
  const item = items[place];
  const slash = item.key.lastIndexOf("/");
  const snippet = state.found?.get(place);
  const below = snippet ? marked(snippet, [], state.pattern) : [item.key.slice(0, Math.max(0, slash))];
  const unsure = FILTERS.low.takes(item) ? "unsure" : "";
  const confidence = item.percent == null ? "" : percentage(item.percent);
  return [
    element("span", { class: "name", title: item.key }, item.key.slice(slash + 1)),
    element("span", { class: `percent ${unsure}` }, confidence),
    element("span", { class: "below" }, ...below),
    item.status === "complete" ? null : element("span", { class: `dot ${item.status}` }, item.status),
  ];
}

async function search(query) {
  const turn = ++searches;
  const pattern = patternOf(query);
  state.pattern = pattern;
  state.found = pattern && new Map();
  items.forEach((item, place) => {
    if (pattern && item.key.search(pattern) >= 0) state.found.set(place, "");
  });
  list.box.scrollTop = 0;
  refresh();
  redrawText();
  byId("searching").hidden = !pattern;
  if (!pattern) return;
  const redrawEvery = Math.ceil(run.starts.length / 50);
  let pieces = 0;
  const progress = (found, searched) => {
    if (turn !== searches) return false;
    for (const [place, snippet] of found) state.found.set(place, snippet);
    byId("progress").max = items.length;
    byId("progress").value = searched;
    byId("progress").hidden = searched === items.length;
    byId("searched").textContent = searched === items.length ? `All ${number(searched)} texts searched`
      : `${number(searched)} of ${number(items.length)} texts searched`;
    if (++pieces % redrawEvery === 0 || searched === items.length) refresh();
    return true;
  };
  try {
    await searchTexts(pattern, progress);
  } catch (error) {
    if (turn === searches) byId("searched").textContent = error.message;
  }
}

function redrawText() {
  if (viewer.details) drawText(state.threshold, state.pattern);
}

function setThreshold(value) {
  state.threshold = Number(value);
  for (const slider of document.querySelectorAll(".threshold")) slider.value = value;
  for (const output of document.querySelectorAll(".threshold-value")) output.textContent = percentage(value);
  refresh();
  redrawText();
}

function thresholdSlider() {
  const input = (event) => setThreshold(event.target.value);
  return element("label", { class: "slider" }, "Low is below ",
    element("input", { class: "threshold", type: "range", min: 1, max: 100, value: state.threshold, input }),
    element("output", { class: "threshold-value" }, percentage(state.threshold)));
}

/** Show what the address names: `#items`, `#13` for the thirteenth item, else the overview. */
function route() {
  const name = location.hash.slice(1);
  const place = /^\d+$/.test(name) && Number(name) <= items.length ? Number(name) - 1 : -1;
  state.current = place >= 0 ? place : null;
  document.body.dataset.view = place >= 0 ? "item" : name === "items" ? "items" : "overview";
  byId("viewer").hidden = place < 0;
  byId("overview").hidden = place >= 0;
  const title = `${run.name} · batch report`;
  document.title = place >= 0 ? `${items[place].key} · ${title}` : title;
  for (const link of document.querySelectorAll("#top nav a")) {
    const isHere = link.hash === `#${document.body.dataset.view}`;
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  list.select(state.current);
  drawPosition();
  if (place < 0) return;
  drawItem(place, state.threshold, state.pattern);
  if (!list.box.offsetParent) byId("item").focus(); // on a phone the list is not in sight
}

function drawPosition() {
  const index = list.places.indexOf(state.current);
  byId("position").textContent = index < 0 ? "" : `${number(index + 1)} of ${number(list.places.length)}`;
  byId("previous").disabled = index <= 0;
  byId("next").disabled = index === list.places.length - 1;
}

function show(place) {
  const address = `#${place + 1}`;
  if (state.current === null) location.hash = address;
  else location.replace(address); // going through items is one step of the browser's history
}

/** Open the item that stands so many rows further down; the first or last where there are not as many. */
function step(rows) {
  const { places } = list;
  if (!places.length) return;
  let index = places.indexOf(state.current);
  if (index < 0 && rows < 0) index = places.length;
  show(places[Math.max(0, Math.min(places.length - 1, index + rows))]);
}

const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  ArrowRight: () => step(1),
  ArrowLeft: () => step(-1),
  "/": () => {
    if (!list.box.offsetParent) location.hash = "#items";
    byId("query").focus();
    byId("query").select();
  },
  Escape: () => { location.hash = "#overview"; },
};
const LIST_KEYS = { // where nothing else scrolls by them
  ArrowDown: () => step(1),
  ArrowUp: () => step(-1),
  PageDown: () => step(list.rowsInSight),
  PageUp: () => step(-list.rowsInSight),
  Home: () => step(-list.places.length),
  End: () => step(list.places.length),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { target } = event;
  if (target === byId("query")) {
    if (!["Escape", "Enter", "ArrowDown"].includes(event.key)) return;
    event.preventDefault();
    if (event.key === "Escape") clearSearch();
    list.box.focus();
    return;
  }
  if (target.matches("input, select") && event.key !== "/") return;
  const inList = target === list.box || target === document.body;
  const action = KEYS[event.key] ?? (inList ? LIST_KEYS[event.key] : null);
  if (!action) return;
  event.preventDefault();
  action();
}

function clearSearch() {
  byId("query").value = "";
  search("");
}

function start() {
  byId("missing").hidden = true;
  byId("top").hidden = byId("panes").hidden = false;
  byId("name").textContent = run.name;
  state.threshold = run.low_confidence;
  list = new VirtualList(byId("list"), rowOf, show);
  const filter = (names, cause = null) => {
    setFilters(names, cause);
    location.hash = "#items";
  };
  drawOverview(byId("overview"), { filter, threshold: thresholdSlider });
  let waiting;
  byId("query").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => search(event.target.value), SEARCH_WAIT_MS);
  });
  byId("order").addEventListener("change", (event) => {
    state.order = event.target.value;
    list.box.scrollTop = 0;
    refresh();
  });
  byId("marking-threshold").addEventListener("input", (event) => setThreshold(event.target.value));
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  addEventListener("keydown", onKey);
  addEventListener("hashchange", route);
  setThreshold(state.threshold);
  route();
}

if (run) start();
