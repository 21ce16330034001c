// A threshold moved: how many rows would be kept, which pictures change, and the YAML of it.
import { ask, lastOf } from "./api.js";
import { words } from "./card.js";
import { copy, count, el, later, number } from "./dom.js";
import { Grid } from "./grid.js";
import { showRow } from "./detail.js";
import { change, state } from "./state.js";

const LOW = ["min", "above"];
const NAMES = { min: "at least (min)", above: "above", max: "at most (max)", below: "below" };

export function movedTab(run) {
  const numbers = run.columns.filter((column) => column.kind === "number").map((column) => column.name);
  const bounded = [...new Set(run.bounds.map((bound) => bound.column))];
  const names = [...new Set([...bounded, ...run.scores, ...numbers])];
  const column = names.includes(state.column) ? state.column : names[0];
  if (!column) return el("p", { class: "page" }, "This run has no column of numbers.");
  const own = run.bounds.filter((bound) => bound.column === column);
  const bound = state.bound in NAMES ? state.bound : own[0]?.bound ?? "min";
  const now = own.find((each) => each.bound === bound)?.value ?? null;

  const counts = el("p", { class: "counts", role: "status" }, "…");
  const yaml = el("pre", { tabindex: 0, id: "yaml" });
  const slider = el("input", { type: "range", id: "slider", step: "any", "aria-label": `${words(column)}, ${NAMES[bound]}` });
  const exact = el("input", { type: "number", id: "exact", step: "any" });
  const picture = el("div", { class: "histogram" });
  const asks = lastOf();
  let wanted = typeof state.value === "number" ? state.value : now;
  let which = state.change === "gained" ? "gained" : "lost";

  const toggles = ["lost", "gained"].map((name) => el("button", {
    "aria-pressed": String(name === which), "data-which": name,
    onclick: () => { which = name; keep(); press(); grid.reload(); },
  }));
  const press = () => toggles.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.which === which)));
  const keep = () => change({ column, bound, value: wanted, change: which }, { quiet: true });
  const grid = new Grid({
    label: "Pictures that would change",
    scores: () => [...new Set([column, ...run.scores])],
    fetchPage: (offset, limit) => ask("rows", { offset, limit, view: {
      moved: { column, bound, value: wanted ?? 0 }, change: which, sort: column,
      descending: LOW.includes(bound) === (which === "lost"),
    } }),
    onOpen: async (index) => showRow(await grid.row(index), grid, index),
  });

  async function update() {
    if (wanted === null || !Number.isFinite(wanted)) return;
    keep();
    const told = await asks("moved", { moved: { column, bound, value: wanted } });
    const about = run.unsettled.length ? "about " : "";
    counts.replaceChildren(el("b", {}, `${about}${count(told.then)} rows kept`),
      ` of ${count(run.rows)}, ${count(told.now)} now`);
    toggles[0].textContent = `No longer kept: ${count(told.lost)}`;
    toggles[1].textContent = `Newly kept: ${count(told.gained)}`;
    yaml.textContent = told.yaml.join("\n");
    grid.reload();
  }
  const soon = later(update, 60);
  const set = (value, from) => {
    wanted = value;
    if (from !== slider) slider.value = value;
    if (from !== exact) exact.value = number(value);
    showAt(picture, value);
    soon();
  };
  slider.addEventListener("input", () => set(Number(Number(slider.value).toPrecision(4)), slider));
  exact.addEventListener("input", () => { if (exact.value !== "") set(Number(exact.value), exact); });

  ask("column", { name: column }).then((told) => {
    if (told.low === null) { counts.textContent = "No row has a value."; return; }
    const low = Math.min(told.low, now ?? told.low), high = Math.max(told.high, now ?? told.high);
    Object.assign(slider, { min: low, max: high });
    picture.replaceChildren(histogram(told));
    Object.assign(picture, { low: told.low, high: told.high });
    set(wanted ?? (LOW.includes(bound) ? low : high));
  }).catch(() => {});

  const pick = (id, label, entries, chosen, onchange) => el("label", {}, label, el("select", { id, onchange },
    entries.map(([value, text]) => el("option", { value, selected: value === chosen }, text))));
  const command = `latent-foundry ${run.job} --config my.yaml --steps ${run.steps}`;
  return el("section", { class: "moved", "aria-label": "Thresholds" },
    el("div", { class: "side" },
      el("div", { class: "row" },
        pick("moved-column", "Column", names.map((name) => [name, bounded.includes(name) ? `${words(name)} (has one)` : words(name)]), column,
          (event) => change({ column: event.target.value, bound: undefined, value: undefined })),
        pick("moved-bound", "Keep what is", Object.entries(NAMES), bound,
          (event) => change({ bound: event.target.value, value: undefined }))),
      picture, slider,
      el("div", { class: "row" }, el("label", {}, "Value", exact),
        now === null ? el("span", {}, "The run has no such threshold.") :
          el("button", { onclick: () => set(now) }, `Back to ${number(now)}`)),
      counts,
      run.unsettled.length ? el("p", { class: "note" }, `Only a cut settles: ${run.unsettled.join("; ")}.`) : null,
      el("details", { open: !matchMedia("(max-width: 52rem)").matches }, el("summary", {}, "The YAML to copy"), yaml,
        el("button", { onclick: (event) => copy(`${yaml.textContent}\n`, event.target) }, "Copy the YAML"),
        el("pre", { tabindex: 0 }, command))),
    el("div", { class: "main" }, el("div", { class: "buttons" }, toggles), grid.element));
}

function histogram(told) {
  const most = Math.max(1, ...told.kept.map((kept, at) => kept + told.dropped[at]));
  const bars = told.kept.flatMap((kept, at) => [
    el("rect", { class: "dropped", x: at, width: 0.9, y: 40 * (1 - (kept + told.dropped[at]) / most), height: 40 * told.dropped[at] / most }),
    el("rect", { class: "kept", x: at, width: 0.9, y: 40 * (1 - kept / most), height: 40 * kept / most }),
  ]);
  const rows = told.kept.reduce((all, kept) => all + kept, 0);
  return el("svg", { viewBox: `0 0 ${told.kept.length} 40`, preserveAspectRatio: "none", role: "img",
    "aria-label": `How ${words(told.column)} is distributed, from ${number(told.low)} to ${number(told.high)}; ${count(rows)} kept rows` },
    bars, el("line", { class: "at", y1: 0, y2: 40 }));
}

function showAt(picture, value) {
  const line = picture.querySelector("line");
  if (!line || picture.high === picture.low) return;
  const at = 40 * (value - picture.low) / (picture.high - picture.low);
  for (const name of ["x1", "x2"]) line.setAttribute(name, Math.max(0, Math.min(40, at)));
}
