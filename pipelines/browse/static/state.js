// What is looked at, kept in the address so that it can be gone back to.

const EMPTY = { tab: "rows", view: {} };
export const state = { ...EMPTY };
const listeners = new Set();

export const onChange = (listener) => listeners.add(listener);

function read() {
  let found = {};
  try {
    found = JSON.parse(decodeURIComponent(location.hash.slice(1)) || "{}");
  } catch {
    found = {};
  }
  for (const name of Object.keys(state)) delete state[name];
  Object.assign(state, EMPTY, typeof found === "object" ? found : {});
}

export function change(part, { push = false, quiet = false } = {}) {
  Object.assign(state, part);
  const address = `#${encodeURIComponent(JSON.stringify(state))}`;
  history[push ? "pushState" : "replaceState"](null, "", address);
  for (const listener of quiet ? [] : listeners) listener();
}

// The view with another part; what is undefined, or all, leaves it.
export function changeView(part) {
  const view = { ...state.view, ...part };
  for (const [name, value] of Object.entries(view)) {
    if (value === undefined || value === "" || value === false) delete view[name];
  }
  change({ view });
}

addEventListener("popstate", () => {
  if (!location.hash.startsWith("#%7B") && location.hash !== "") return;
  read();
  for (const listener of listeners) listener();
});
read();
