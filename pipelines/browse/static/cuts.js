// Two revisions side by side: what only one of them keeps.
import { ask } from "./api.js";
import { count, el } from "./dom.js";
import { Grid } from "./grid.js";
import { showRow } from "./detail.js";
import { change, state } from "./state.js";

export async function cutsTab(run) {
  const cuts = await ask("cuts");
  if (!cuts.length) {
    return el("p", { class: "page" }, "The run has no other cut: none was made, or a clean-up removed it. ",
      `After another cut (--steps ${run.steps}) the pictures that changed are here.`);
  }
  const chosen = cuts.find((cut) => cut.fingerprint === state.against) ?? cuts[0];
  const told = (cut) => `${cut.made?.slice(0, 16).replace("T", " ") ?? "earlier"}: ${count(cut.kept)} kept (${cut.fingerprint.slice(0, 8)})`;
  const panes = [["gained", "Kept only then"], ["lost", "Kept only now"]].map(([which, title]) => {
    const head = el("h2", {}, title);
    const grid = new Grid({
      label: title, scores: () => run.scores,
      fetchPage: (offset, limit) => ask("rows", { offset, limit, view: { ...state.view, against: chosen.fingerprint, change: which } }),
      onTotal: (total) => { head.textContent = `${title}: ${count(total)}`; },
      onOpen: async (index) => showRow(await grid.row(index), grid, index),
    });
    grid.reload();
    return el("div", { class: "pane" }, head, grid.element);
  });
  return el("section", { class: "cuts", "aria-label": "Revisions" },
    el("div", { class: "row" },
      el("label", {}, "Beside the present cut", el("select", { id: "against", onchange: (event) => change({ against: event.target.value }) },
        cuts.map((cut) => el("option", { value: cut.fingerprint, selected: cut === chosen }, told(cut))))),
      el("p", {}, `Then ${count(chosen.kept)} rows were kept, now ${count(run.kept)} are. The filters of “Rows” hold here too.`)),
    el("div", { class: "panes" }, panes));
}
