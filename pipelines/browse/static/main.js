// The page: its head, its views, and what is shown of them.
import { ask } from "./api.js";
import { byId, count, el, fault, say } from "./dom.js";
import { cutsTab } from "./cuts.js";
import { showRow } from "./detail.js";
import { filterBar } from "./filters.js";
import { Grid } from "./grid.js";
import { groupsTab } from "./groups.js";
import { numMarked, onMarks, takedownTab } from "./marks.js";
import { movedTab } from "./moved.js";
import { change, onChange, state } from "./state.js";

let run = null;
let rounds = 0;

const TABS = {
  rows: { text: () => "Rows", make: rowsTab },
  moved: { text: () => "Thresholds", make: () => movedTab(run) },
  cuts: { text: () => "Revisions", make: () => cutsTab(run) },
  copies: { text: () => `Duplicates${run.copies ? ` ${count(run.copies)}` : ""}`, make: () => groupsTab(run, "duplicate_of") },
  prompts: { text: () => "Prompts", make: () => groupsTab(run, "prompt_key"), isThere: () => run.is_generated },
  takedown: { text: () => `Takedown${numMarked() ? ` ${count(numMarked())}` : ""}`, make: () => takedownTab(run) },
};

function rowsTab() {
  const place = el("p", { class: "total" }, "…");
  const scores = () => [...new Set([state.view.sort, ...(state.view.where ?? []).map((test) => test.column), ...run.scores]
    .filter((name) => name && (run.scores.includes(name) || kindOf(name) === "number")))];
  const grid = new Grid({
    label: "Rows", scores,
    fetchPage: (offset, limit) => ask("rows", { offset, limit, view: state.view }),
    onTotal: (total) => {
      place.textContent = total === 1 ? "1 row" : `${count(total)} rows`;
      say(place.textContent);
    },
    onOpen: async (index) => showRow(await grid.row(index), grid, index),
  });
  grid.reload();
  return el("section", { class: "rows", "aria-label": "Rows" }, filterBar(run), place, grid.element);
}

const kindOf = (name) => run.columns.find((column) => column.name === name)?.kind;

function drawTabs() {
  byId("tabs").replaceChildren(...Object.entries(TABS).filter(([, tab]) => tab.isThere?.() ?? true).map(([name, tab]) =>
    el("li", {}, el("button", { "aria-current": state.tab === name ? "page" : null, "data-tab": name,
      onclick: () => change({ tab: name }, { push: true }) }, tab.text()))));
}

// What was in hand stays in hand, where it is there again.
async function draw() {
  const tab = TABS[state.tab] && (TABS[state.tab].isThere?.() ?? true) ? state.tab : "rows";
  const held = document.activeElement?.id || document.activeElement?.dataset?.tab;
  const start = document.activeElement?.selectionStart;
  const wasOpen = document.querySelector("details.filters")?.open;
  const round = ++rounds;
  drawTabs();
  const made = await TABS[tab].make();
  if (round !== rounds) return;
  byId("content").replaceChildren(made);
  const filters = made.querySelector?.("details.filters");
  if (filters && wasOpen !== undefined) filters.open = wasOpen;
  const again = held && (byId(held) ?? document.querySelector(`[data-tab="${CSS.escape(held)}"]`));
  if (again && again !== document.activeElement) {
    again.focus();
    if (again.type === "search") again.setSelectionRange(start, start);
  }
}

onChange(draw);
onMarks(() => {
  drawTabs();
  if (state.tab === "takedown") draw();
});

try {
  run = await ask("run");
  document.body.classList.toggle("generated", run.is_generated);
  document.title = `${run.name}: browse`;
  byId("title").textContent = run.name;
  const share = run.rows ? ` (${(100 * run.kept / run.rows).toFixed(1)}%)` : "";
  byId("summary").textContent = `${run.job}, revision ${run.revision}: ${count(run.kept)} of ${count(run.rows)} rows are kept${share}`;
  await draw();
} catch (error) {
  fault(error.message);
}
