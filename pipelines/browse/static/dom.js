// Elements made of texts alone: whatever a list holds, it never becomes markup.

export function el(tag, properties = {}, ...children) {
  const made = document.createElementNS(
    ["svg", "rect", "line"].includes(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml",
    tag,
  );
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

export const byId = (id) => document.getElementById(id);

export const count = (number) => Number(number).toLocaleString("en");

export function number(value) {
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(4)));
}

// A message for everybody: shown by whoever calls, and read aloud.
export function say(text) {
  byId("said").textContent = text;
}

export function fault(text) {
  byId("fault").hidden = !text;
  byId("fault").textContent = text ?? "";
}

export async function copy(text, from) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied");
    if (from) flash(from, "Copied");
  } catch {
    say("This browser lets nothing be copied: select the text");
  }
}

function flash(button, text) {
  const before = button.textContent;
  button.textContent = text;
  setTimeout(() => { button.textContent = before; }, 1200);
}

// Calls only the last of many in a row, after a while.
export function later(work, wait = 120) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), wait);
  };
}
