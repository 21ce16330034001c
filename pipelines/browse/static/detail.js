// One row, enlarged: its picture, its life as `why` tells it, and the whole row of the ledger.
import { ask } from "./api.js";
import { pictureOf, settingsOf, thenOf, verdictOf, words } from "./card.js";
import { byId, copy, count, el, number } from "./dom.js";
import { isMarked, mark } from "./marks.js";
import { change } from "./state.js";

const dialog = byId("detail");
let shown = null; // {grid, index}, or null where the row stands alone

dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => {
  const { grid, index } = shown ?? {};
  if (grid?.element.isConnected) grid.focus(index);
  shown = null;
});
dialog.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step && shown?.grid && !event.target.matches("input, textarea")) move(step);
  if (event.key === "x") dialog.querySelector("input.mark")?.click();
});

async function move(step) {
  const { grid, index } = shown;
  const row = await grid.row(index + step);
  if (row && shown) showRow(row, grid, index + step);
}

export async function showRow(row, grid = null, index = 0) {
  shown = { grid, index };
  const body = el("div", { class: "body" }, el("p", {}, "…"));
  const buttons = el("div", { class: "buttons" },
    grid && el("button", { disabled: index === 0, onclick: () => move(-1) }, "Previous"),
    grid && el("button", { disabled: index + 1 >= grid.total, onclick: () => move(1) }, "Next"),
    el("button", { onclick: () => dialog.close(), autofocus: true }, "Close"));
  const place = grid ? `${count(index + 1)} of ${count(grid.total)}` : "";
  dialog.replaceChildren(
    el("div", { class: "head" },
      el("h2", { id: "detail-title" }, row.key, " ", verdictOf(row), thenOf(row)),
      el("span", { class: "place" }, place), buttons),
    body);
  if (!dialog.open) dialog.showModal();
  const told = await ask("row", { place: row.__place });
  if (shown?.index === index) body.replaceChildren(...partsOf(row, told));
}

function partsOf(row, { row: ledger, why }) {
  const { row: { caption, ...identity }, verdict, scores, ...stages } = why;
  const more = [];
  if (row.prompt_key) more.push(others("Images of this prompt", "prompt_key", row.prompt_key));
  if (row.duplicate_of) more.push(others("Copies of the same row", "duplicate_of", row.duplicate_of));
  return [
    el("div", { class: "left" },
      pictureOf(row, "full"),
      el("p", { class: "caption", dir: "auto" }, row.caption || "(no caption)"),
      settingsOf(row),
      why.models?.generate ? el("p", { class: "note" }, `model: ${shownValue(why.models.generate)}`) : null,
      row.negative_prompt ? el("p", { class: "note", dir: "auto" }, `not: ${row.negative_prompt}`) : null,
      el("div", { class: "buttons" },
        el("label", { class: "marking" },
          el("input", { type: "checkbox", class: "mark", value: row.key, checked: isMarked(row),
            onchange: (event) => mark(row.key, event.target.checked) }), " for a takedown"),
        el("button", { onclick: (event) => copy(row.key, event.target) }, "Copy the key"), more)),
    el("div", { class: "right" },
      listOf("Verdict", verdict ?? {}),
      listOf("Row", identity),
      scores ? listOf("Scores, beside the run's thresholds", scores) : null,
      Object.entries(stages).map(([name, found]) => listOf(words(name), found)),
      el("details", {}, el("summary", {}, "The whole row of the ledger"), listOf("", ledger, { nulls: true })),
    ),
  ];
}

const others = (label, column, value) => el("button", {
  onclick: () => {
    dialog.close();
    change({ tab: "rows", view: { where: [{ column, op: "is", value }] } }, { push: true });
  },
}, label);

function listOf(title, found, { nulls = false } = {}) {
  const entries = Object.entries(found).filter(([, value]) => nulls || value !== null);
  if (!entries.length) return null;
  return el("section", {}, title && el("h3", {}, title),
    el("dl", {}, entries.map(([name, value]) =>
      [el("dt", {}, Array.isArray(found) ? String(Number(name) + 1) : name), el("dd", { dir: "auto" }, shownValue(value))])));
}

function shownValue(value) {
  if (value === null) return "–";
  if (typeof value === "object") return JSON.stringify(value, null, 1);
  return typeof value === "number" ? number(value) : String(value);
}
