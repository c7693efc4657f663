/**
 * What a reader of one batch knows. Neither network nor clock in here: events go in, facts come out.
 *
 * State is consistent only at an event id, and of the events of one delta only the last carries it. So events wait
 * here until their delta is whole, and what a cut left unfinished is thrown away: the server sends it again.
 */

const LINES = 5000;

export class BatchState {
  /** The batch as of `id`, without its jobs; null before the first snapshot. */
  batch = null;
  /** Jobs by id. */
  jobs = new Map();
  /** Log lines by job and number, in the order in which they came; the oldest go when there are too many. */
  lines = new Map();
  /** How many older lines are not in `lines`, and where all of them can be read. */
  missing = { count: 0, logsUrl: null };
  /** The last event id: what to resume from. */
  id = "";
  /** Whether the batch is final, as of `id`. */
  complete = false;

  #unfinished = [];
  #forget = false;
  #maxLines;

  constructor({ maxLines = LINES } = {}) {
    this.#maxLines = maxLines;
  }

  /** A connection begins: what the last one left unfinished comes again. */
  restart() {
    this.#unfinished = [];
  }

  /**
   * Takes one event. `id` is null for an event that does not carry one.
   *
   * Returns what can be seen now, `{jobs, lines, reset, complete}` (the changed jobs and the new lines; `reset`: all
   * others are gone), or null while there is nothing new to show.
   */
  take(name, data, id = null) {
    if (name === "reset") {
      // What was shown stays until there is something to show instead.
      this.#forget = true;
      this.#unfinished = [];
      this.id = id ?? "";
      return null;
    }
    if (!["progress", "log", "complete"].includes(name)) {
      return null;
    }
    if (id === null) {
      return this.#isRefresh(name, data) ? this.#refresh(data) : this.#wait(name, data);
    }
    this.#wait(name, data);
    return this.#apply(id);
  }

  /** Takes a reply of `changes`, which is a delta or a snapshot in one piece. Returns what `take` returns. */
  takeReply({ id, reset, reason, done, batch, jobs, lines, truncated }) {
    this.restart();
    if (reset) {
      this.take("reset", { reason });
    }
    if (lines.length || truncated) {
      this.take("log", { lines, truncated });
    }
    return this.take(done ? "complete" : "progress", { ...batch, jobs }, id);
  }

  #wait(name, data) {
    this.#unfinished.push([name, data]);
    return null;
  }

  /** Between deltas the server may send new estimates. */
  #isRefresh(name, data) {
    return name === "progress" && this.#unfinished.length === 0 && !data.jobs?.length && !this.#forget && this.batch;
  }

  #refresh({ waiting, etaSeconds, etaLow, etaHigh }) {
    this.batch = { ...this.batch, waiting, etaSeconds, etaLow, etaHigh };
    return { jobs: [], lines: [], reset: false, complete: false };
  }

  #apply(id) {
    const events = this.#unfinished;
    const reset = this.#forget;
    this.#unfinished = [];
    if (reset) {
      this.#clear();
    }
    const jobs = new Map();
    const lines = [];
    this.complete = false;
    for (const [name, data] of events) {
      if (name === "log") {
        this.#addLines(data, lines);
        continue;
      }
      const { jobs: changed = [], ...batch } = data;
      this.batch = batch;
      for (const job of changed) {
        this.jobs.set(job.id, job);
        jobs.set(job.id, job);
      }
      this.complete = name === "complete";
    }
    this.id = id;
    return { jobs: [...jobs.values()], lines, reset, complete: this.complete };
  }

  #clear() {
    this.#forget = false;
    this.batch = null;
    this.jobs.clear();
    this.lines.clear();
    this.missing = { count: 0, logsUrl: null };
  }

  #addLines({ lines, truncated }, added) {
    if (truncated) {
      this.missing = { count: this.missing.count + truncated.count, logsUrl: truncated.logsUrl };
    }
    for (const line of lines) {
      const key = `${line.jobId}:${line.n}`;
      if (!this.lines.has(key)) {
        this.lines.set(key, line);
        added.push(line);
      }
    }
    for (const key of this.lines.keys()) {
      if (this.lines.size <= this.#maxLines) {
        break;
      }
      this.lines.delete(key);
      this.missing = { ...this.missing, count: this.missing.count + 1 };
    }
  }
}
