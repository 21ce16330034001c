// A row as a card: its picture, its verdict, its scores, its caption.
import { picture } from "./api.js";
import { el, number } from "./dom.js";
import { isMarked, mark } from "./marks.js";

export const words = (name) => name.replaceAll("_", " ");

export function verdictOf(row) {
  if (row.kept) return el("span", { class: "verdict kept" }, "kept");
  return el("span", { class: "verdict dropped", title: row.rule ?? row.reason }, words(row.reason ?? "dropped"));
}

export function thenOf(row) {
  if (!("then" in row)) return null;
  const then = row.then;
  const told = then === null ? "not there" : then.kept ? "kept" : words(then.reason ?? "dropped");
  return el("span", { class: "then" }, `then: ${told}`);
}

export function pictureOf(row, size = "small") {
  if (row.width === null || !row.sha256) return nothing(row.error_message ?? "no picture stored");
  const alt = (row.caption ?? "").slice(0, 200) || "a picture without a caption";
  const image = el("img", { src: picture(row, size), alt, decoding: "async" });
  image.addEventListener("error", () => image.replaceWith(nothing("the picture is not there, or cannot be read")));
  return image;
}

const nothing = (text) => el("span", { class: "none" }, text.slice(0, 160));

// The columns that a card shows: the one that is sorted by comes first.
function scoresOf(row, shown) {
  const names = shown.filter((name) => row[name] !== null && row[name] !== undefined);
  return el("span", { class: "scores" },
    names.map((name) => el("span", {}, `${words(name)} `, el("b", {}, number(row[name])))));
}

export function settingsOf(row) {
  if (row.sampler === undefined) return null;
  const told = [row.sampler, `${row.num_inference_steps} steps`, `guidance ${number(row.guidance_scale)}`,
    `seed ${row.seed}`, `image ${row.image_index}`];
  return el("span", { class: "settings" }, told.join(", "));
}

export function cardOf(row, { scores, open, inGrid = false, label = "", captioned = true }) {
  const box = el("input", {
    type: "checkbox", class: "mark", value: row.key, tabindex: inGrid ? -1 : 0,
    "aria-label": `Mark ${row.key} for a takedown`, checked: isMarked(row),
    onchange: (event) => mark(row.key, event.target.checked),
  });
  const title = `Open ${(row.caption ?? row.key).slice(0, 80)}`;
  return [
    el("button", { class: "open", "aria-label": title, tabindex: inGrid ? -1 : 0, onclick: open }, pictureOf(row)),
    el("span", { class: "box" }, box),
    el("span", { class: "told" },
      el("span", { class: "line" }, label && el("b", { class: "label" }, label), verdictOf(row), thenOf(row)),
      scoresOf(row, scores),
      settingsOf(row),
      captioned ? el("span", { class: "caption", dir: "auto" }, row.caption || "(no caption)") : null),
  ];
}
