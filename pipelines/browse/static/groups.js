// Rows that belong together, side by side: copies with what they copy, the images of a prompt.
import { ask } from "./api.js";
import { cardOf } from "./card.js";
import { count, el, say } from "./dom.js";
import { showRow } from "./detail.js";
import { state } from "./state.js";

const SHOWN = 20;
const TITLES = {
  duplicate_of: { name: "groups of copies", none: "No row was dropped as the copy of another." },
  prompt_key: { name: "prompts", none: "No prompt has a row of the filter." },
};

export function groupsTab(run, by) {
  const list = el("ol", { class: "groups" });
  const place = el("span", { role: "status" });
  const [back, on] = [["Back", -SHOWN], ["Further", SHOWN]].map(([text, step]) =>
    el("button", { onclick: () => load(offset + step) }, text));
  let offset = 0;

  async function load(from) {
    offset = Math.max(0, from);
    const told = await ask("groups", { by, offset, limit: SHOWN, view: state.view });
    const last = Math.min(told.total, offset + SHOWN);
    place.textContent = told.total ? `${count(offset + 1)} to ${count(last)} of ${count(told.total)} ${TITLES[by].name}` : TITLES[by].none;
    back.disabled = offset === 0;
    on.disabled = last >= told.total;
    list.replaceChildren(...told.groups.map((group) => one(group)));
    list.parentElement.scrollTop = 0;
    say(place.textContent);
  }

  function one(group) {
    const cards = group.rows.map((row) => card(row, by === "duplicate_of" ? "copy" : ""));
    if (group.original) cards.unshift(card(group.original, "stands for them"));
    else if (by === "duplicate_of") cards.unshift(el("li", { class: "card lone" }, "The row that stands for these is not in the set any more."));
    const left = group.count - group.rows.length;
    if (left > 0) cards.push(el("li", { class: "card lone" }, `and ${count(left)} more`));
    const first = group.rows[0];
    const title = by === "prompt_key" ? first?.caption || "(no prompt)" : group.key;
    return el("li", {}, el("h2", { dir: "auto" }, title),
      by === "prompt_key" ? el("p", { class: "note" }, promptLine(group, first)) : null,
      el("ul", { class: "side-by-side" }, cards));
  }

  function promptLine(group, first) {
    const parts = [group.key];
    if (first?.negative_prompt) parts.push(`not: ${first.negative_prompt}`);
    const model = run.models.generate;
    if (model) parts.push(`model: ${typeof model === "string" ? model : JSON.stringify(model)}`);
    return parts.join(", ");
  }

  const card = (row, label) => el("li", { class: "card" },
    cardOf(row, { scores: run.scores, open: () => showRow(row), label, captioned: by !== "prompt_key" }));

  load(0);
  return el("section", { class: "page wide", "aria-label": TITLES[by].name },
    el("div", { class: "row" }, place, el("span", { class: "buttons" }, back, on)), list);
}
