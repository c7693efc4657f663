// Events as the server sends them, and a world without network or clock to receive them in.

export const batch = (more = {}) => ({
  batchId: "b1", kind: "rehearsal", title: "Salon", status: "PROCESSING", version: 1, progress: 0,
  counts: { queued: 2, processing: 0, completed: 0, failed: 0, cancelled: 0, total: 2 },
  waiting: null, etaSeconds: null, summary: null, ...more,
});

export const job = (id, more = {}) => ({ id, position: 0, name: id, status: "QUEUED", progress: 0, ...more });

export const line = (jobId, n, text = `line ${n}`) => ({ jobId, attempt: 1, n, at: "2026-11-21T10:00:00.000Z", level: "info", text });

/** A reply of `changes`. */
export const reply = (id, more = {}) => ({
  id, version: 1, reset: false, reason: null, done: false, batch: batch(), truncated: null, jobs: [], lines: [], ...more,
});

export const lines = (...given) => ({ batchId: "b1", lines: given, truncated: null });

/** A browser whose connections, timers and answers the test holds in its hand. */
export class World {
  sources = [];
  timers = new Map();
  time = 0;
  answers = [];
  asked = [];
  isOnline = true;
  listeners = new Map();
  #number = 0;

  get environment() {
    const world = this;
    class EventSource {
      static CONNECTING = 0;
      static OPEN = 1;
      static CLOSED = 2;
      readyState = 0;
      #listeners = new Map();
      lastEventId = "";

      constructor(url) {
        this.url = new URL(url, "http://headway");
        world.sources.push(this);
      }

      addEventListener(name, listener) {
        this.#listeners.set(name, listener);
      }

      close() {
        this.readyState = EventSource.CLOSED;
      }

      open() {
        this.readyState = EventSource.OPEN;
        this.onopen();
      }

      /** One event of the protocol. */
      send(name, data, id) {
        this.lastEventId = id ?? this.lastEventId;
        this.#listeners.get(name)({ data: typeof data === "string" ? data : JSON.stringify(data), lastEventId: this.lastEventId });
      }

      /** The connection is lost; the browser tries again by itself, or not. */
      lose({ forGood = false } = {}) {
        this.readyState = forGood ? EventSource.CLOSED : EventSource.CONNECTING;
        this.#listeners.get("error")({});
      }
    }
    return {
      EventSource,
      fetch: async (url, options) => {
        this.asked.push({ url, options });
        const answer = this.answers.shift();
        if (answer === undefined) {
          throw new TypeError("network");
        }
        return typeof answer === "number" ? { status: answer } : { status: 200, json: async () => answer };
      },
      setTimeout: (callback, delay) => {
        this.#number += 1;
        this.timers.set(this.#number, { callback, at: this.time + delay });
        return this.#number;
      },
      clearTimeout: (timer) => this.timers.delete(timer),
      now: () => this.time,
      random: () => 1,
      online: () => this.isOnline,
      visible: () => true,
      addEventListener: (name, listener) => this.listeners.set(name, listener),
      removeEventListener: (name) => this.listeners.delete(name),
    };
  }

  get source() {
    return this.sources.at(-1);
  }

  /** Lets that many milliseconds pass, and everything happen that is due. */
  async pass(milliseconds) {
    const until = this.time + milliseconds;
    for (;;) {
      await settle();
      const due = [...this.timers].filter(([, { at }]) => at <= until).sort(([, a], [, b]) => a.at - b.at)[0];
      if (due === undefined) {
        break;
      }
      this.timers.delete(due[0]);
      this.time = Math.max(this.time, due[1].at);
      due[1].callback();
    }
    this.time = until;
  }
}

/** Until all promises that can be kept are kept. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));
