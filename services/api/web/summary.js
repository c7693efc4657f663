/** What a finished batch comes to. Every kind has its own summary: any JSON is shown, photographs in a form of their own. */

import { $, fill, make } from "./dom.js";
import { number, plural, volume } from "./words.js";

const KINDS = { "photos.inventory": photos };

/** Levels of nesting that are laid out; what is deeper is shown as JSON. */
const DEEPEST = 4;

export function showSummary({ kind, summary }) {
  const section = $("summary");
  section.hidden = summary === null || summary === undefined;
  if (section.hidden) {
    return;
  }
  let content;
  try {
    content = KINDS[kind]?.(summary);
  } catch {
    // a summary of another version of that kind
  }
  section.replaceChildren(make("h2", {}, "Summary"), ...(content ?? [any(summary)]));
}

function photos({ photos: count, totalItems, totalVolume, byRoom, items, withoutDetector }) {
  const content = [
    make("dl", { className: "figures" }, ...figure("Photos", number(count)), ...figure("Things", number(totalItems)), ...figure("Volume", volume(totalVolume))),
  ];
  if (withoutDetector) {
    content.push(make("p", { className: "hint" }, `No detector looked at ${plural(withoutDetector, "photo")}, so nothing was recognised there.`));
  }
  if (!totalItems) {
    return content;
  }
  const rooms = Object.entries(byRoom).map(([room, total]) => [capital(room), total.photos, total.items, total.volume]);
  const largest = Math.max(...items.map((item) => item.volume), 0.001);
  const things = items.map((item) => [capital(item.label), item.count, item.volume, (item.volume / largest) * 100]);
  content.push(
    make(
      "div",
      { className: "tables" },
      table("By room", ["Room", "Photos", "Things", "Volume"], rooms.map(([room, ...rest]) => [room, number(rest[0]), number(rest[1]), volume(rest[2])])),
      table("Things", ["Thing", "Count", "Volume", ""], things.map(([label, n, size, share]) => [label, number(n), volume(size), shareBar(share)])),
    ),
    make("p", { className: "quiet" }, "Things are counted per photo: two photos of one chair are two chairs."),
  );
  return content;
}

function figure(name, value) {
  return [make("div", {}, make("dt", {}, name), make("dd", {}, value))];
}

function shareBar(percent) {
  const bar = make("div", { className: "bar thin", ariaHidden: "true" }, make("div", { className: "fill" }));
  fill(bar, percent);
  return bar;
}

function table(caption, heads, rows) {
  return make(
    "table",
    {},
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...rows.map(([first, ...rest]) => make("tr", {}, make("th", { scope: "row" }, first), ...rest.map((cell) => make("td", {}, cell))))),
  );
}

function any(value, depth = 0) {
  if (typeof value === "number") {
    return make("span", {}, number(value));
  }
  if (value === null || typeof value !== "object" || depth === DEEPEST) {
    return make("span", {}, typeof value === "string" ? value : JSON.stringify(value));
  }
  if (Array.isArray(value)) {
    return isTable(value)
      ? table("", Object.keys(value[0]).map(spaced), value.map((row) => Object.values(row).map((cell) => (typeof cell === "number" ? number(cell) : String(cell ?? "")))))
      : make("ul", {}, ...value.map((item) => make("li", {}, any(item, depth + 1))));
  }
  const pairs = Object.entries(value).map(([name, inner]) => make("div", {}, make("dt", {}, spaced(name)), make("dd", {}, any(inner, depth + 1))));
  return make("dl", { className: "pairs" }, ...pairs);
}

/** A list of flat objects with the same fields. */
function isTable(list) {
  const flat = (row) => row !== null && typeof row === "object" && Object.values(row).every((cell) => cell === null || typeof cell !== "object");
  const shape = (row) => Object.keys(row).join();
  return list.length > 0 && list.every((row) => flat(row) && shape(row) === shape(list[0]));
}

const capital = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);

/** `totalItems` as `Total items` */
const spaced = (name) => capital(name.replace(/([a-z0-9])([A-Z])/g, (_, before, letter) => `${before} ${letter.toLowerCase()}`));
