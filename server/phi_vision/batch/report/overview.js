"use strict";

// The run at a glance: totals, how the items ended, why some failed, which took long, how sure the model was.

const SLOWEST = 10;
const PER_SECOND = "_per_s"; // ends the name of a rate: pages_per_s
const IN_TOTALS = ["items", "done", "failed", "waiting", "seconds"]; // of the summary
const BANDS = [[99, 101], [95, 99], [90, 95], [80, 90], [50, 80], [0, 50]]; // of confidence, in percent

/** `actions`: `filter(names, cause)` shows some of the items in the list, `threshold()` is what makes the slider. */
function drawOverview(box, actions) {
  const counts = countBy(items, (item) => item.status);
  box.replaceChildren(
    element("header", {},
      element("h2", {}, counted(items.length, "item")),
      element("p", { class: "quiet" }, `Written ${written(run.written)}`),
      run.summary.items > items.length ? element("p", {}, leftOut()) : null),
    totals(counts),
    endings(counts, actions),
    element("div", { class: "cards" },
      card("Failures by cause", failures(actions), "Nothing failed."),
      card("Slowest", slowest(), "No times are known."),
      card("Confidence", confidences(actions), "No confidence is known."),
      card("The run", facts(), "")));
}

function countBy(list, keyOf) {
  const counts = new Map();
  for (const each of list) {
    const key = keyOf(each);
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}

const leftOut = () => `This report holds the first ${number(items.length)} of ${number(run.summary.items)} items; `
  + "all are in the results.";

const written = (time) => new Date(time).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

const rateName = () => Object.keys(run.summary).find((name) => name.endsWith(PER_SECOND) && run.summary[name] != null);

function totals(counts) {
  const [failed, waiting] = [counts.get("failed") ?? 0, counts.get("waiting") ?? 0];
  const done = items.length - failed - waiting;
  const { seconds } = run.summary;
  const rate = rateName();
  const tokens = run.prompt_tokens + run.completion_tokens;
  const inAndOut = `${compact(run.prompt_tokens)} in, ${compact(run.completion_tokens)} out`;
  const tiles = [
    ["Done", number(done), waiting ? `of ${number(items.length)}` : ""],
    ["Failed", number(failed), failed ? percentage(number((100 * failed) / items.length)) : "", failed ? "bad" : ""],
    waiting && ["Waiting", number(waiting), "not answered yet"],
    rate && [`${capitalized(rate.slice(0, -PER_SECOND.length))} a second`, number(run.summary[rate]), ""],
    tokens > 0 && ["Tokens", compact(tokens), inAndOut],
    seconds != null && ["Wall time", duration(seconds), ""],
  ];
  return element("dl", { class: "tiles" }, ...tiles.filter(Boolean).map(([name, value, note, kind]) =>
    element("div", { class: `tile ${kind ?? ""}` },
      element("dt", {}, name), element("dd", {}, value), element("dd", { class: "quiet" }, note))));
}

function endings(counts, actions) {
  const present = STATUSES.filter((status) => counts.has(status));
  const parts = present.map((status) => {
    const part = element("span", { class: `part ${status}` });
    part.style.flexGrow = counts.get(status);
    return part;
  });
  const legend = present.map((status) =>
    element("li", {},
      element("button", { type: "button", class: `dot ${status}`, click: () => actions.filter([status]) },
        `${status} `, element("b", {}, number(counts.get(status))))));
  return element("section", { "aria-label": "How the items ended" },
    element("div", { class: "stack", "aria-hidden": "true" }, ...parts),
    element("ul", { class: "legend" }, ...legend));
}

function card(title, content, otherwise) {
  const shown = content ?? (otherwise && element("p", { class: "quiet" }, otherwise));
  return shown ? element("section", { class: "card" }, element("h3", {}, title), shown) : null;
}

function failures(actions) {
  const causes = [...countBy(items.filter((item) => item.cause), (item) => item.cause)];
  if (!causes.length) return null;
  const most = Math.max(...causes.map(([, count]) => count));
  causes.sort((one, other) => other[1] - one[1]);
  return element("ul", { class: "bars bad" }, ...causes.map(([cause, count]) =>
    element("li", {},
      element("button", { type: "button", click: () => actions.filter(["failed"], cause) },
        element("span", {}, cause), bar(count / most), element("b", {}, number(count))),
      element("p", { class: "quiet" }, run.examples[cause] ?? ""))));
}

function slowest() {
  const timed = items.map((item, place) => [item, place]).filter(([item]) => item.milliseconds != null);
  timed.sort(([one], [other]) => other.milliseconds - one.milliseconds);
  if (!timed.length) return null;
  return element("ol", { class: "slowest" }, ...timed.slice(0, SLOWEST).map(([item, place]) =>
    element("li", {},
      element("a", { href: `#${place + 1}`, title: item.key }, item.key),
      element("b", {}, duration(item.milliseconds / 1000)))));
}

function confidences(actions) {
  const known = items.filter((item) => item.percent != null);
  if (!known.length) return null;
  const counts = BANDS.map(([from, to]) => known.filter(({ percent }) => from <= percent && percent < to).length);
  const most = Math.max(...counts);
  return element("div", {},
    element("ul", { class: "bars" }, ...BANDS.map(([from, to], band) =>
      element("li", {},
        element("span", {}, `${from} to ${Math.min(to, 100)} %`), bar(counts[band] / most),
        element("b", {}, number(counts[band]))))),
    actions.threshold());
}

function bar(share) {
  const filled = element("i", {});
  filled.style.width = `${100 * share}%`;
  filled.hidden = !share;
  return element("span", { class: "bar", "aria-hidden": "true" }, filled);
}

/** What else the summary says, as it is. */
function facts() {
  const shownAbove = [...IN_TOTALS, rateName()];
  const rest = Object.entries(run.summary).filter(
    ([name, value]) => !shownAbove.includes(name) && value != null && value !== "");
  if (!rest.length) return null;
  const shown = (value) => {
    if (typeof value === "number") return number(value);
    return Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value);
  };
  return element("dl", { class: "facts" }, ...rest.flatMap(([name, value]) =>
    [element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, shown(value))]));
}
