// A grid over any number of rows: only what is seen is there, and asked for.
import { el } from "./dom.js";
import { cardOf } from "./card.js";
import { mark } from "./marks.js";

const PAGE = 60;
const PAGES_HELD = 60;
const TALLEST_PX = 6_000_000; // browsers lay out no more; a longer list scrolls faster than it looks
const OVERSCAN = 2;

export class Grid {
  // fetchPage(offset, limit) gives {total, rows}; onOpen(index) shows one; onTotal(total) is told.
  constructor({ label, fetchPage, scores, onOpen, onTotal = () => {}, narrow = false }) {
    Object.assign(this, { fetchPage, scores, onOpen, onTotal, narrow });
    this.space = el("div", { class: "space", role: "presentation" });
    this.element = el("div", { class: "grid", role: "group", "aria-label": label, tabindex: -1 }, this.space);
    this.element.addEventListener("scroll", () => this.#drawSoon());
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.element.addEventListener("focusin", (event) => this.#focused(event));
    this.observer = new ResizeObserver(() => this.#drawSoon());
    this.observer.observe(this.element);
    this.total = 0;
    this.active = 0;
    this.round = 0;
    this.pages = new Map();
    this.lines = new Map();
  }

  async reload() {
    this.round += 1;
    this.pages.clear();
    this.#clear();
    this.active = 0;
    this.element.scrollTop = 0;
    await this.#page(0);
  }

  async row(index) {
    if (index < 0 || index >= this.total) return null;
    const page = await this.#page(Math.floor(index / PAGE));
    return page[index % PAGE] ?? null;
  }

  #page(number) {
    if (!this.pages.has(number)) {
      const round = this.round;
      const found = this.fetchPage(number * PAGE, PAGE).then((told) => {
        if (round !== this.round) return [];
        if (told.total !== this.total || number === 0) {
          this.total = told.total;
          this.element.dataset.total = told.total;
          this.element.setAttribute("role", told.total ? "grid" : "group"); // a grid has rows
          this.onTotal(told.total);
        }
        found.rows = told.rows;
        this.#drawSoon();
        return told.rows;
      });
      found.catch(() => this.pages.delete(number));
      this.pages.set(number, found);
      for (const old of this.pages.keys()) {
        if (this.pages.size <= PAGES_HELD) break;
        if (old !== number) this.pages.delete(old);
      }
    }
    return this.pages.get(number);
  }

  #drawSoon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.#draw();
    });
  }

  #measure() {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const gap = rem * 0.6;
    const width = this.element.clientWidth - 2 * gap;
    const least = width < 30 * rem ? 9.5 * rem : 12.5 * rem;
    this.columns = Math.max(1, Math.floor((width + gap) / (least + gap)));
    this.cardPx = (width - gap * (this.columns - 1)) / this.columns;
    const told = parseFloat(getComputedStyle(document.body).getPropertyValue("--told"));
    this.linePx = this.cardPx + told * rem + gap;
    this.gapPx = gap;
    this.numLines = Math.ceil(this.total / this.columns);
    this.seenPx = this.element.clientHeight;
    this.realPx = this.numLines * this.linePx + gap;
    this.heightPx = Math.min(this.realPx, TALLEST_PX);
  }

  // Where the list would be scrolled to if it were as tall as it is.
  #virtualTop() {
    const room = this.heightPx - this.seenPx;
    return room <= 0 ? 0 : (this.element.scrollTop / room) * (this.realPx - this.seenPx);
  }

  #draw() {
    if (!this.element.isConnected || this.element.clientWidth === 0) return;
    const columnsBefore = this.columns;
    this.#measure();
    if (columnsBefore !== this.columns) this.#clear();
    if (this.total) this.element.setAttribute("aria-rowcount", String(this.numLines));
    else this.element.removeAttribute("aria-rowcount");
    this.space.style.height = `${this.heightPx}px`;
    this.space.style.setProperty("--card-px", `${this.cardPx}px`);
    const top = this.#virtualTop();
    const first = Math.max(0, Math.floor(top / this.linePx) - OVERSCAN);
    const last = Math.min(this.numLines - 1, Math.ceil((top + this.seenPx) / this.linePx) + OVERSCAN);
    for (const [number, line] of this.lines) {
      if (number < first || number > last) this.#drop(number, line);
    }
    for (let number = first; number <= last; number += 1) {
      const line = this.lines.get(number) ?? this.#makeLine(number);
      line.style.transform = `translateY(${this.element.scrollTop - top + number * this.linePx + this.gapPx}px)`;
      this.#fill(line);
    }
    this.shown = { first: first * this.columns, last: Math.min(this.total, (last + 1) * this.columns) - 1 };
    const isFocused = this.element.contains(document.activeElement);
    if (!isFocused && (this.active < this.shown.first || this.active > this.shown.last)) {
      this.active = Math.max(0, Math.min(this.total - 1, Math.floor(top / this.linePx) * this.columns));
    }
    this.#rove();
  }

  #makeLine(number) {
    const line = el("div", { class: "cells", role: "row", "aria-rowindex": number + 1 });
    for (let column = 0; column < this.columns; column += 1) {
      const index = number * this.columns + column;
      if (index >= this.total) break;
      const cell = el("div", { class: "card waits", role: "gridcell", tabindex: -1, "data-index": index });
      line.append(cell);
    }
    this.lines.set(number, line);
    this.space.append(line);
    return line;
  }

  #fill(line) {
    for (const cell of line.querySelectorAll(".waits")) {
      const index = Number(cell.dataset.index);
      const page = this.#page(Math.floor(index / PAGE));
      const row = page.rows?.[index % PAGE];
      if (!row) continue;
      cell.classList.remove("waits");
      cell.dataset.key = row.key;
      cell.append(...cardOf(row, { scores: this.scores(), open: () => this.onOpen(index), inGrid: true }));
    }
  }

  #drop(number, line) {
    if (line.contains(document.activeElement)) this.element.focus({ preventScroll: true });
    line.remove();
    this.lines.delete(number);
  }

  #clear() {
    for (const [number, line] of this.lines) this.#drop(number, line);
  }

  #cell(index) {
    return this.space.querySelector(`[data-index="${index}"]`);
  }

  #rove() {
    for (const cell of this.space.querySelectorAll('[tabindex="0"]')) cell.tabIndex = -1;
    const cell = this.#cell(this.active);
    if (cell) cell.tabIndex = 0;
  }

  #focused(event) {
    const cell = event.target.closest?.("[data-index]");
    if (cell) this.active = Number(cell.dataset.index);
    this.#rove();
  }

  focus(index) {
    this.active = Math.max(0, Math.min(this.total - 1, index));
    const line = Math.floor(this.active / this.columns);
    const [above, below] = [line * this.linePx, (line + 1) * this.linePx + this.gapPx];
    const top = this.#virtualTop();
    const wanted = above < top ? above : below > top + this.seenPx ? below - this.seenPx : top;
    const scale = (this.heightPx - this.seenPx) / Math.max(1, this.realPx - this.seenPx);
    if (wanted !== top) this.element.scrollTop = wanted * scale;
    this.#draw();
    this.#cell(this.active)?.focus({ preventScroll: true });
  }

  #key(event) {
    if (event.altKey || event.metaKey || event.target.matches("input, select, textarea")) return;
    const page = Math.max(1, Math.floor(this.seenPx / this.linePx)) * this.columns;
    const start = this.active - (this.active % this.columns);
    const moves = {
      ArrowLeft: this.active - 1, ArrowRight: this.active + 1,
      ArrowUp: this.active - this.columns, ArrowDown: this.active + this.columns,
      PageUp: this.active - page, PageDown: this.active + page,
      Home: event.ctrlKey ? 0 : start, End: event.ctrlKey ? this.total - 1 : start + this.columns - 1,
    };
    if (event.key in moves) {
      const goal = moves[event.key];
      const stays = event.key.startsWith("Arrow") && (goal < 0 || goal >= this.total);
      if (!stays) this.focus(goal);
    } else if (event.key === "Enter" && event.target.matches("[data-index]")) {
      this.onOpen(this.active);
    } else if (event.key === "x" && !event.ctrlKey) {
      const cell = this.#cell(this.active);
      if (cell?.dataset.key) mark(cell.dataset.key);
    } else {
      return;
    }
    event.preventDefault();
  }
}
