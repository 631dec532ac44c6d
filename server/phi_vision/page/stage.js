// The picture that is looked at, with the crops as the model gets them, and all pictures in a row below it.

import { byId, element, megabytes, number, setText } from "./dom.js";
import { CROP_PX, cropGrid, defaultNumCrops, mostTokens, numCrops } from "./geometry.js";

const SVG = "http://www.w3.org/2000/svg";

/**
 * Draw all of it.
 * @param server what `/v1/tasks` says of it; null before it is known.
 * @param chosen crops at most; null: the server's own choice.
 * @param badPlaces of files that were refused.
 */
export function drawStage(pictures, server, chosen, badPlaces) {
  const { files, current } = pictures;
  byId("drop").hidden = files.length > 0;
  byId("stage").hidden = files.length === 0;
  if (!current) return;
  const grid = gridOf(current, files, server, chosen);
  const isShown = current.width > 0;
  byId("canvas").hidden = !isShown;
  byId("no-canvas").hidden = isShown;
  if (isShown) drawCanvas(current, byId("show-crops").checked ? grid : null);
  else drawNoCanvas(current);
  setText(byId("canvas-caption"), captionOf(current, grid));
  drawStrip(pictures, badPlaces);
}

function gridOf(file, files, server, chosen) {
  if (!server || !file.width) return null;
  return cropGrid(file.width, file.height, numCrops(file, server, files.length, chosen));
}

function captionOf({ name, width, height, blob, isDocument }, grid) {
  if (isDocument || !width) return `${name}, ${megabytes(blob.size)}`;
  const size = `${name}, ${number(width)} × ${number(height)} pixels`;
  if (!grid) return size;
  const crops = grid.rows * grid.columns === 1 ? "1 crop" : `${grid.columns} × ${grid.rows} crops`;
  return `${size}: ${crops} and the whole picture, ${number(grid.tokens)} tokens`;
}

function drawCanvas({ address, name, width, height }, grid) {
  const canvas = byId("canvas");
  const [columns, rows] = grid ? [grid.columns, grid.rows] : [width, height];
  canvas.style.setProperty("--columns", columns);
  canvas.style.setProperty("--rows", rows);
  const image = byId("picture");
  if (image.src !== address) image.src = address;
  image.alt = name;
  const [across, down] = [columns * CROP_PX, rows * CROP_PX];
  const place = grid
    ? [grid.left / across, grid.top / down, grid.resizedWidth / across, grid.resizedHeight / down]
    : [0, 0, 1, 1];
  ["left", "top", "width", "height"].forEach((side, at) => { image.style[side] = `${100 * place[at]}%`; });
  canvas.querySelector("svg")?.remove();
  if (grid) canvas.append(linesOf(grid));
}

function linesOf({ rows, columns }) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  let path = "";
  for (let x = 1; x < columns; x++) path += `M${x} 0V${rows}`;
  for (let y = 1; y < rows; y++) path += `M0 ${y}H${columns}`;
  for (const name of ["under", "over"]) { // seen on light and on dark pictures
    const line = document.createElementNS(SVG, "path");
    line.setAttribute("class", name);
    line.setAttribute("d", path);
    svg.append(line);
  }
  return svg;
}

function drawNoCanvas(file) {
  const words = file.isDocument ? "The server draws the pages of this document."
    : "This browser cannot show the picture; the server may be able to.";
  const link = element("a", { href: file.address, target: "_blank", rel: "noopener" }, "Open it in a tab");
  byId("no-canvas").replaceChildren(
    element("span", { class: "sheet", "aria-hidden": "true" }, file.name.split(".").pop().slice(0, 4)),
    element("p", {}, words), element("p", {}, link));
}

function drawStrip(pictures, badPlaces) {
  const { files, shown } = pictures;
  const focused = document.activeElement?.closest?.("#strip") ? document.activeElement.dataset.key : null;
  const tiles = files.map((file, place) => {
    const inside = file.width ? element("img", { src: file.address, alt: "" })
      : element("span", { class: "sheet", "aria-hidden": "true" }, file.name.split(".").pop().slice(0, 4));
    const isBad = badPlaces.has(place);
    return element("li", { class: isBad ? "bad" : "" },
      element("button", {
        type: "button", class: "thumb", "data-key": `show-${place}`, "aria-pressed": String(place === shown),
        "aria-label": isBad ? `${file.name}, refused` : file.name, title: file.name, click: () => pictures.show(place),
      }, inside),
      element("button", {
        type: "button", class: "remove", "data-key": `remove-${place}`, "aria-label": `Remove ${file.name}`,
        click: () => pictures.remove(place),
      }, "×"));
  });
  byId("strip").replaceChildren(...tiles);
  if (focused) (byId("strip").querySelector(`[data-key="${focused}"]`) ?? byId("add")).focus();
}

/** What the pictures cost, before they are sent. */
export function costOf(files, server, chosen, byPage) {
  if (!server || !files.length) return "";
  const [documents, others] = [files.filter((file) => !file.width), files.filter((file) => file.width)];
  if (byPage) {
    return `Each page: up to ${number(mostTokens(server.num_crops))} tokens, more where it is read again`;
  }
  const sum = others.reduce((tokens, file) => tokens + gridOf(file, files, server, chosen).tokens, 0);
  const context = `of ${number(server.max_model_len)}`;
  if (!documents.length) {
    const fits = sum < server.max_model_len ? "" : ": more than the context holds";
    return `${files.length === 1 ? "Picture" : "Pictures"}: ${number(sum)} tokens ${context}${fits}`;
  }
  const single = mostTokens(chosen ?? defaultNumCrops(server, 1));
  const several = mostTokens(chosen ?? defaultNumCrops(server, 2));
  if (others.length) return `Pictures: ${number(sum)} tokens, and up to ${number(several)} for each page, ${context}`;
  const alone = documents.length === 1 && single !== several ? ` (${number(single)} if it is the only one)` : "";
  return `Each page: up to ${number(several)} tokens${alone} ${context}`;
}
