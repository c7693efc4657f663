/**
 * The list of jobs. Only the rows in sight exist, so that ten thousand jobs are as quick as ten: all rows have the same
 * height, and a row that scrolls out of sight is used for the one that scrolls in.
 */

import { $, fill, make, say, scheduled } from "./dom.js";
import { number, plural, STATES } from "./words.js";

const CHIPS = [
  ["all", "All", "total"],
  ["PROCESSING", STATES.PROCESSING, "processing"],
  ["QUEUED", STATES.QUEUED, "queued"],
  ["COMPLETED", STATES.COMPLETED, "completed"],
  ["FAILED", STATES.FAILED, "failed"],
  ["CANCELLED", STATES.CANCELLED, "cancelled"],
];

/** Rows kept ready above and below those in sight. */
const SPARE = 4;

export class Rows {
  #jobs = [];
  #places = new Map(); // job id to its index in #jobs
  #shown = [];
  #pool = [];
  #state = "all";
  #search = "";
  #stale = true;
  #selected = null;
  #onSelect;
  #table = $("jobs");
  #space = this.#table.querySelector(".space");
  #chips = new Map();

  /** `onSelect` gets a job, or null. */
  constructor(onSelect) {
    this.#onSelect = onSelect;
    for (const [state, word, count] of CHIPS) {
      const tally = make("b", {}, "0");
      const chip = make("button", { type: "button", className: "chip" }, word, " ", tally);
      chip.dataset.state = state;
      chip.addEventListener("click", () => this.#filter({ state }));
      this.#chips.set(state, { chip, tally, count });
      $("states").append(chip);
    }
    $("search").addEventListener("input", () => this.#filter({ search: $("search").value.trim().toLowerCase() }));
    $("follow").addEventListener("change", this.draw);
    this.#table.addEventListener("scroll", this.draw, { passive: true });
    for (const moved of ["wheel", "touchmove", "keydown", "pointerdown"]) {
      this.#table.addEventListener(moved, () => { $("follow").checked = false; }, { passive: true });
    }
    new ResizeObserver(this.draw).observe(this.#table);
  }

  get selected() {
    return this.#selected;
  }

  /** `changed` are jobs; with `reset` there are no others. */
  update(batch, changed, reset) {
    if (reset) {
      this.#jobs = [];
      this.#places.clear();
    }
    let grown = false;
    for (const job of changed) {
      const place = this.#places.get(job.id);
      if (place === undefined) {
        this.#jobs.push(job);
        this.#places.set(job.id, this.#jobs.length - 1);
        grown = true;
      } else {
        this.#jobs[place] = job;
      }
    }
    if (grown) {
      this.#jobs.sort((a, b) => a.position - b.position);
      this.#jobs.forEach((job, place) => this.#places.set(job.id, place));
    }
    for (const { chip, tally, count } of this.#chips.values()) {
      say(tally, number(batch.counts[count]));
      chip.classList.toggle("none", batch.counts[count] === 0);
      chip.hidden = count === "cancelled" && batch.counts.cancelled === 0;
    }
    this.#stale = true;
    this.draw();
  }

  /** The job of this id as it is now. */
  job(id) {
    return this.#jobs[this.#places.get(id)];
  }

  select(id) {
    this.#selected = this.#selected === id ? null : id;
    this.#onSelect(this.#selected === null ? null : this.job(this.#selected));
    this.draw();
  }

  draw = scheduled(() => {
    if (this.#stale) {
      this.#choose();
    }
    const height = this.#rowHeight();
    this.#space.style.setProperty("height", `${this.#shown.length * height}px`);
    this.#follow(height);
    const seen = Math.ceil(this.#table.clientHeight / height) + 2 * SPARE;
    const first = Math.max(0, Math.min(Math.floor(this.#table.scrollTop / height) - SPARE, this.#shown.length - seen));
    const last = Math.min(this.#shown.length, first + seen);
    this.#grow(last - first);
    this.#pool.forEach((row, n) => {
      // A row keeps to one place as long as it is in sight, and its keyboard focus with it.
      const size = this.#pool.length;
      const index = first + ((((n - first) % size) + size) % size);
      row.element.hidden = index >= last;
      if (index < last) {
        row.show(this.#shown[index], index, height, this.#shown[index].id === this.#selected);
      }
    });
  });

  #filter(wish) {
    this.#state = wish.state ?? this.#state;
    this.#search = wish.search ?? this.#search;
    this.#table.scrollTop = 0;
    this.#stale = true;
    this.draw();
  }

  #choose() {
    const [state, search] = [this.#state, this.#search];
    const has = (text) => text?.toLowerCase().includes(search);
    this.#shown =
      state === "all" && search === ""
        ? this.#jobs
        : this.#jobs.filter(
            (job) =>
              (state === "all" || job.status === state) &&
              (search === "" || has(job.name) || has(job.message) || has(job.error?.message)),
          );
    this.#stale = false;
    for (const [name, { chip }] of this.#chips) {
      chip.setAttribute("aria-pressed", name === state);
    }
    const [shown, all] = [this.#shown.length, this.#jobs.length];
    say($("shown"), shown === all ? "" : `showing ${number(shown)} of ${number(all)}`);
    this.#table.setAttribute("aria-rowcount", shown + 1);
  }

  /** Keeps what runs in sight, until somebody scrolls themselves. */
  #follow(height) {
    const index = $("follow").checked ? this.#shown.findIndex(({ status }) => status === "PROCESSING") : -1;
    const head = this.#table.firstElementChild.offsetHeight;
    const room = this.#table.clientHeight - head - height;
    const top = index * height - this.#table.scrollTop;
    if (index >= 0 && (top < 0 || top > room)) {
      this.#table.scrollTop = Math.max(0, index * height - room / 3);
    }
  }

  #rowHeight() {
    return parseFloat(getComputedStyle(this.#table).getPropertyValue("--row")) || 40;
  }

  #grow(count) {
    while (this.#pool.length < count) {
      const row = new Row(this);
      this.#pool.push(row);
      this.#space.append(row.element);
    }
  }
}

class Row {
  #id = null;

  constructor(rows) {
    this.name = make("button", { type: "button" });
    this.name.addEventListener("click", () => rows.select(this.#id));
    this.state = make("span", { className: "state" });
    this.bar = make("span", { className: "bar" }, make("span", { className: "fill" }));
    this.bar.setAttribute("role", "progressbar");
    this.bar.setAttribute("aria-valuemin", 0);
    this.bar.setAttribute("aria-valuemax", 100);
    this.percent = make("span", { className: "percent" });
    this.message = make("span", { className: "message" });
    const measure = make("span", { className: "measure" }, this.bar, this.percent);
    const cells = [make("span", { className: "name" }, this.name), this.state, measure, this.message];
    cells.forEach((cell) => cell.setAttribute("role", "cell"));
    this.element = make("div", { className: "job" }, ...cells);
    this.element.setAttribute("role", "row");
  }

  show(job, index, height, selected) {
    // A bar does not glide from where another job stands.
    this.element.classList.toggle("fresh", this.#id !== job.id);
    this.#id = job.id;
    this.element.style.setProperty("transform", `translateY(${index * height}px)`);
    this.element.dataset.state = job.status;
    this.element.setAttribute("aria-rowindex", index + 2);
    say(this.name, job.name);
    this.name.title = job.name;
    this.name.setAttribute("aria-pressed", selected);
    say(this.state, STATES[job.status]);
    const percent = ["COMPLETED", "FAILED", "CANCELLED"].includes(job.status) ? 100 : job.progress;
    fill(this.bar, percent);
    this.bar.setAttribute("aria-label", `Progress of ${job.name}`);
    say(this.percent, `${job.progress} %`);
    const message = describe(job);
    say(this.message, message);
    this.message.title = message;
  }
}

/** What a job says of itself, in one line. */
export function describe(job) {
  const { status, error, items } = job;
  const parts = [job.attempt > 1 ? `attempt ${job.attempt}` : ""];
  if (error) {
    parts.push(status === "QUEUED" ? `${error.message} (will be tried again)` : error.message);
  } else {
    parts.push(
      status === "PROCESSING" ? (job.cancelRequested ? "is being cancelled" : job.step) : "",
      items ? `${number(items.done)} of ${number(items.total)}` : "",
      items?.failed ? `${number(items.failed)} failed` : "",
      job.message,
    );
  }
  parts.push(job.artifacts?.length ? plural(job.artifacts.length, "file") : "");
  return parts.filter(Boolean).join(" · ");
}
