// The row of choices above the grid: search, verdict, reason, any column, order.
import { words } from "./card.js";
import { count, el, later } from "./dom.js";
import { changeView, state } from "./state.js";

const OPS = { number: { least: "at least", most: "at most" }, text: { contains: "contains", is: "is" } };
const ANY = { missing: "is missing", there: "is there" };

export function filterBar(run) {
  const isNarrow = matchMedia("(max-width: 52rem)").matches;
  const asked = chips(run);
  const told = asked.length ? ` (${asked.length} in force)` : "";
  return el("details", { class: "filters", open: !isNarrow },
    el("summary", {}, `Search, filter, sort${told}`),
    el("div", { class: "row" }, search(), verdict(run), reasons(run), order(run)),
    el("div", { class: "row" }, adder(run), el("span", { class: "chips" }, asked)));
}

function search() {
  const soon = later((text) => changeView({ text: text.trim() }), 200);
  return el("label", {}, "Search",
    el("input", { type: "search", value: state.view.text ?? "", placeholder: "caption, URL or key",
      id: "search", oninput: (event) => soon(event.target.value) }));
}

function options(entries, chosen) {
  return entries.map(([value, text]) => el("option", { value, selected: value === chosen }, text));
}

function verdict(run) {
  const found = [["all", `all ${count(run.rows)}`], ["kept", `kept ${count(run.kept)}`],
    ["dropped", `dropped ${count(run.rows - run.kept)}`]];
  return el("label", {}, "Verdict",
    el("select", { id: "verdict", onchange: (event) => changeView({ show: event.target.value === "all" ? undefined : event.target.value }) },
      options(found, state.view.show ?? "all")));
}

// One choice for step, reason and rule: each narrows the one before.
function reasons(run) {
  const { step, reason, rule } = state.view;
  const chosen = JSON.stringify([step ?? null, reason ?? null, rule ?? null]);
  const make = (parts, text) => el("option", { value: JSON.stringify(parts), selected: JSON.stringify(parts) === chosen }, text);
  const steps = new Map();
  for (const each of run.reasons) {
    const found = steps.get(each.step) ?? new Map();
    found.set(each.reason, [...(found.get(each.reason) ?? []), each]);
    steps.set(each.step, found);
  }
  const sum = (rows) => rows.reduce((all, each) => all + each.rows, 0);
  const groups = [...steps].map(([name, found]) => el("optgroup", { label: `dropped by ${name}` },
    make([name, null, null], `${name}: all ${count(sum([...found.values()].flat()))}`),
    [...found].flatMap(([why, each]) => [
      make([name, why, null], `${words(why)} (${count(sum(each))})`),
      ...each.filter((one) => one.rule !== null).map((one) => make([name, why, one.rule], `  ${one.rule} (${count(one.rows)})`)),
    ])));
  return el("label", {}, "Reason",
    el("select", { id: "reason", onchange: (event) => {
      const [of, why, by] = JSON.parse(event.target.value);
      changeView({ step: of ?? undefined, reason: why ?? undefined, rule: by ?? undefined });
    } }, make([null, null, null], "any"), groups));
}

function order(run) {
  const names = [...run.scores, ...run.columns.map((column) => column.name).filter((name) => !run.scores.includes(name))];
  const found = [["", "as listed"], ...names.map((name) => [name, words(name)])];
  return el("span", { class: "together" },
    el("label", {}, "Order",
      el("select", { id: "order", onchange: (event) => {
        const isScore = run.scores.includes(event.target.value);
        changeView({ sort: event.target.value, descending: isScore });
      } }, options(found, state.view.sort ?? ""))),
    el("button", { id: "direction", "aria-pressed": String(Boolean(state.view.descending)),
      onclick: () => changeView({ descending: !state.view.descending }) }, state.view.descending ? "↓ falling" : "↑ rising"));
}

// A test on any column.
function adder(run) {
  const kinds = Object.fromEntries(run.columns.map((column) => [column.name, column.kind]));
  const column = el("select", { id: "column", onchange: () => fit() }, options(run.columns.map(({ name }) => [name, words(name)]), run.scores[0] ?? "caption"));
  const op = el("select", { id: "op", onchange: () => fit() });
  const value = el("input", { id: "value", placeholder: "value" });
  const fit = () => {
    const before = op.value;
    op.replaceChildren(...options(Object.entries({ ...OPS[kinds[column.value]], ...ANY }), before));
    value.hidden = op.value in ANY;
    value.inputMode = op.value in OPS.number ? "decimal" : "text";
  };
  const add = (event) => {
    event.preventDefault();
    const isNumber = op.value in OPS.number;
    if (isNumber && (value.value.trim() === "" || !Number.isFinite(Number(value.value)))) {
      value.setCustomValidity("give a number");
      value.reportValidity();
      return;
    }
    const test = { column: column.value, op: op.value };
    if (!(op.value in ANY)) test.value = isNumber ? Number(value.value) : value.value;
    changeView({ where: [...(state.view.where ?? []), test] });
  };
  value.addEventListener("input", () => value.setCustomValidity(""));
  fit();
  return el("form", { class: "together", onsubmit: add },
    el("label", {}, "Column", column), el("label", {}, "Test", op), el("label", {}, "Value", value),
    el("button", {}, "Add filter"));
}

function chips(run) {
  const { where = [], text, show, step, reason, rule } = state.view;
  const told = { ...OPS.number, ...OPS.text, ...ANY };
  const found = where.map((test, at) => chip(`${words(test.column)} ${told[test.op]} ${test.value ?? ""}`,
    () => changeView({ where: where.length > 1 ? where.filter((_, other) => other !== at) : undefined })));
  if (text) found.push(chip(`“${text}”`, () => changeView({ text: undefined })));
  if (show) found.push(chip(show, () => changeView({ show: undefined })));
  if (step) found.push(chip([step, reason && words(reason), rule].filter(Boolean).join(": "),
    () => changeView({ step: undefined, reason: undefined, rule: undefined })));
  return found;
}

const chip = (text, remove) => el("button", { class: "chip", onclick: remove, "aria-label": `Remove the filter ${text}` }, text, " ×");
