// Rows that are marked for a takedown, kept while this window is open.
import { ask } from "./api.js";
import { copy, count, el, say } from "./dom.js";
import { state } from "./state.js";

const NAME = `marks ${location.pathname}`;
const marked = new Set(JSON.parse(sessionStorage.getItem(NAME) ?? "[]"));
const listeners = new Set();

export const isMarked = (row) => marked.has(row.key);
export const numMarked = () => marked.size;
export const onMarks = (listener) => listeners.add(listener);

function changed() {
  sessionStorage.setItem(NAME, JSON.stringify([...marked]));
  for (const box of document.querySelectorAll("input.mark")) box.checked = marked.has(box.value);
  for (const listener of listeners) listener();
}

export function mark(key, isOn = !marked.has(key)) {
  if (isOn) marked.add(key);
  else marked.delete(key);
  changed();
  say(isOn ? `${key} is marked, ${count(marked.size)} in all` : `${key} is not marked any more`);
}

export function takedownTab(run) {
  const keys = [...marked].sort().join("\n");
  const command = `latent-foundry takedown ${shellWord(run.run)} --keys keys.txt`;
  const empty = "Nothing is marked. Mark rows by their box, or by the key x.";
  const all = el("button", { onclick: () => markAll() }, "Mark every row of the filter");
  return el("section", { class: "page", "aria-labelledby": "takedown-title" },
    el("h2", { id: "takedown-title" }, "Takedown list"),
    el("p", {}, marked.size ? `${count(marked.size)} marked rows, by their keys. Nothing is taken down here: ` +
      "save the list as keys.txt, then give the command." : empty),
    el("div", { class: "buttons" }, all,
      el("button", { disabled: !marked.size, onclick: (event) => copy(`${keys}\n`, event.target) }, "Copy the list"),
      el("button", { disabled: !marked.size, onclick: () => { marked.clear(); changed(); } }, "Clear it")),
    el("label", { for: "keys" }, "Keys, one a line"),
    el("textarea", { id: "keys", readonly: true, rows: 12, spellcheck: "false" }, keys),
    el("h3", {}, "The command"),
    el("pre", { tabindex: 0 }, command),
    el("button", { onclick: (event) => copy(command, event.target) }, "Copy the command"));
}

async function markAll() {
  const told = await ask("keys", { view: state.view });
  for (const key of told.keys) marked.add(key);
  changed();
  say(`${count(told.keys.length)} rows are marked${told.is_cut ? ", the first of them" : ""}`);
}

function shellWord(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
