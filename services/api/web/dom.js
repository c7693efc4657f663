/** The page's elements. Text that came from somewhere always goes in as text. */

export const $ = (id) => document.getElementById(id);

/** A new element: `make("td", { className: "number" }, "12")`; children are elements or text. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Sets a text, but only if it differs: most updates change few of them. */
export function say(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

/** Fills a bar; `percent` from 0 to 100. */
export function fill(bar, percent) {
  bar.firstElementChild.style.setProperty("--filled", percent / 100);
  bar.setAttribute("aria-valuenow", percent);
}

/** Runs `draw` before the next frame, once, however often it was asked for. */
export function scheduled(draw) {
  let waiting = false;
  return () => {
    if (!waiting) {
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        draw();
      });
    }
  };
}
