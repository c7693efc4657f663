/** The log pane. It follows the end, unless somebody has scrolled up to read. */

import { $, make, say, scheduled } from "./dom.js";
import { clock, plural } from "./words.js";

/** Lines in the page at once; `BatchState` keeps more, for when a filter leaves fewer of them. */
const MOST = 2000;

/** Pixels from the end within which the pane counts as being at the end. */
const NEAR = 24;

/** Levels that are said beside the line; its colour alone would not do. */
const WORDS = { phase: "▸", success: "ok", warn: "warning", error: "error" };

const LEVELS = {
  all: null,
  steps: new Set(["phase", "success", "warn", "error"]),
  trouble: new Set(["warn", "error"]),
};

export class Log {
  #pane = $("log");
  #waiting = [];
  #following = true;
  #only = null;
  #levels = null;
  #lines;
  #name;
  #file;

  /**
   * `lines()` gives all lines that are kept, `name(jobId)` what a job is called, `file(query)` where all lines are that
   * the query (`job`, `level`) asks for.
   */
  constructor({ lines, name, file }) {
    this.#lines = lines;
    this.#name = name;
    this.#file = file;
    $("download").addEventListener("click", () => this.#download({ job: this.#only, levels: this.#levels }));
    $("missing").querySelector("button").addEventListener("click", () => this.#download());
    $("level").addEventListener("change", () => {
      this.#levels = LEVELS[$("level").value];
      this.rebuild();
    });
    this.#pane.addEventListener("scroll", () => {
      const { scrollTop, scrollHeight, clientHeight } = this.#pane;
      this.#following = scrollHeight - scrollTop - clientHeight < NEAR;
      $("newest").hidden = this.#following;
    }, { passive: true });
    $("newest").addEventListener("click", () => {
      this.#following = true;
      this.#draw();
    });
  }

  add(lines) {
    this.#waiting.push(...lines.filter(this.#wanted));
    this.#draw();
  }

  /** Lines of this job alone; null: of all. */
  showOnly(jobId) {
    this.#only = jobId;
    this.rebuild();
  }

  rebuild() {
    this.#pane.replaceChildren();
    this.#waiting = [...this.#lines()].filter(this.#wanted);
    this.#draw();
  }

  showMissing({ count }) {
    $("missing").hidden = count === 0;
    say($("missing").querySelector("span"), count === 0 ? "" : `${plural(count, "older line")} not shown here.`);
  }

  /** Without a link in the page, which would show the ticket to whoever looks at its source. */
  #download({ job = null, levels = null } = {}) {
    const query = { ...(job && { job }), ...(levels && { level: [...levels].join() }) };
    make("a", { href: this.#file(query), download: "" }).click();
  }

  #wanted = ({ jobId, level }) =>
    (this.#only === null || jobId === this.#only) && (this.#levels === null || this.#levels.has(level));

  #draw = scheduled(() => {
    const added = this.#waiting.slice(-MOST);
    this.#waiting = [];
    this.#pane.append(...added.map((line) => this.#element(line)));
    const excess = this.#pane.childElementCount - MOST;
    if (excess > 0) {
      const gone = [...this.#pane.children].slice(0, excess);
      const height = this.#following ? 0 : this.#pane.scrollHeight;
      gone.forEach((element) => element.remove());
      // What somebody reads stays where it is, also where the browser does not see to that itself.
      this.#pane.scrollTop -= this.#following ? 0 : height - this.#pane.scrollHeight;
    }
    if (this.#following) {
      this.#pane.scrollTop = this.#pane.scrollHeight;
    }
  });

  #element({ jobId, attempt, at, level, text }) {
    const element = make(
      "p",
      { className: "line" },
      make("time", { dateTime: at }, clock(at)),
      make("span", { className: "who" }, this.#name(jobId) + (attempt > 1 ? ` (attempt ${attempt})` : "")),
      ...(level in WORDS ? [make("span", { className: "level" }, WORDS[level])] : []),
      make("span", { className: "text" }, text),
    );
    element.dataset.level = level;
    return element;
  }
}
