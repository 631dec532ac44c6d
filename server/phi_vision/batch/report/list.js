"use strict";

const ROW_PX = 54;
const SPARE_ROWS = 8; // drawn above and below what is seen

/** A list of any length, of which only what is seen is in the document. */
class VirtualList {
  /** `draw(place)` gives the children of the row of an item, `open(place)` is called when one is chosen. */
  constructor(box, draw, open) {
    this.box = box;
    this.places = [];
    this.current = null;
    this.drawContent = draw;
    this.spacer = element("div", { role: "presentation" });
    box.append(this.spacer);
    box.addEventListener("scroll", () => this.drawSoon());
    box.addEventListener("click", (event) => {
      const row = event.target.closest("[data-place]");
      if (row) open(Number(row.dataset.place));
    });
    new ResizeObserver(() => this.drawSoon()).observe(box);
  }

  show(places) {
    this.places = places;
    this.spacer.style.height = `${places.length * ROW_PX}px`;
    this.draw();
  }

  /** Mark an item as the current one and bring it into sight; null for none. */
  select(place) {
    this.current = place;
    const index = this.places.indexOf(place);
    if (index >= 0) {
      const top = index * ROW_PX;
      const { scrollTop, clientHeight } = this.box;
      if (top < scrollTop) this.box.scrollTop = top;
      else if (top + ROW_PX > scrollTop + clientHeight) this.box.scrollTop = top + ROW_PX - clientHeight;
    }
    this.draw();
  }

  get rowsInSight() {
    return Math.max(1, Math.floor(this.box.clientHeight / ROW_PX) - 1);
  }

  drawSoon() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    const { scrollTop, clientHeight } = this.box;
    const first = Math.max(0, Math.floor(scrollTop / ROW_PX) - SPARE_ROWS);
    const last = Math.min(this.places.length, Math.ceil((scrollTop + clientHeight) / ROW_PX) + SPARE_ROWS);
    const rows = [];
    for (let index = first; index < last; index++) rows.push(this.row(index));
    this.spacer.replaceChildren(...rows);
    if (rows.some((row) => row.id === "current")) this.box.setAttribute("aria-activedescendant", "current");
    else this.box.removeAttribute("aria-activedescendant");
  }

  row(index) {
    const place = this.places[index];
    const isCurrent = place === this.current;
    const attributes = {
      role: "option", class: "row", id: isCurrent ? "current" : null, "data-place": place,
      "aria-selected": String(isCurrent), "aria-posinset": index + 1, "aria-setsize": this.places.length,
    };
    const row = element("div", attributes, ...this.drawContent(place));
    row.style.transform = `translateY(${index * ROW_PX}px)`;
    row.style.height = `${ROW_PX}px`;
    return row;
  }
}
