"use strict";

// The page that an item was read from, as far as a browser shows it without the network.

const PDF_WAIT_MS = 150; // a PDF is opened when the reader stays, not for each that is passed

function drawPage(box, { source, rotation }, key) {
  box.hidden = !source; // a line of a batch file has none
  if (!source) return;
  const nothing = (why) => element("p", { class: "nothing quiet" }, why);
  const name = source.name.replace(/^.*\//, "") + (source.page ? `, page ${source.page}` : "");
  const href = source.kind === "pdf" ? `${source.href}#page=${source.page ?? 1}` : source.href;
  const link = element("a", { href, target: "_blank", rel: "noopener noreferrer", title: source.name }, name);
  const bar = element("div", { class: "bar-above" }, link);
  const title = `Page of ${key}`;
  if (source.kind === "picture") {
    const sheet = element("div", { class: `sheet turned-${rotation ?? 0}` });
    const zoom = element("button", { type: "button", click: () => enlarge(sheet, zoom) }, "Enlarge");
    const click = (event) => enlarge(sheet, zoom, event);
    const error = () => {
      zoom.remove();
      box.replaceChildren(bar, nothing("The picture is not there any more, or it cannot be shown."));
    };
    sheet.append(element("img", { src: source.href, alt: title, click, error }));
    bar.append(zoom);
    box.replaceChildren(bar, element("div", { class: "frame" }, sheet));
  } else if (source.kind === "pdf" && navigator.pdfViewerEnabled) {
    box.replaceChildren(bar);
    setTimeout(() => {
      const src = `${href}&navpanes=0&view=Fit`;
      if (bar.isConnected) box.append(element("iframe", { class: "frame", src, title }));
    }, PDF_WAIT_MS);
  } else if (/^https?:/i.test(source.href)) {
    box.replaceChildren(bar, nothing("The page is on the network, from where this report loads nothing by itself."));
  } else {
    box.replaceChildren(bar, nothing("Browsers do not show files of this kind within a page."));
  }
}

/** Between a sheet that fits and one of more than twice the size, with the point in sight that was clicked. */
function enlarge(sheet, button, event) {
  const frame = sheet.parentElement;
  const { left, top, width, height } = sheet.getBoundingClientRect();
  const [x, y] = event ? [(event.clientX - left) / width, (event.clientY - top) / height] : [0.5, 0];
  const large = sheet.classList.toggle("large");
  button.textContent = large ? "Fit" : "Enlarge";
  frame.scrollLeft = x * sheet.clientWidth - frame.clientWidth / 2;
  frame.scrollTop = y * sheet.clientHeight - frame.clientHeight / 2;
}
