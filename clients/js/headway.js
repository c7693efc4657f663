/**
 * Watches one batch live. No dependencies, no build step:
 *
 *     import { watch } from "./headway.js";
 *
 *     watch({
 *       url: batch.streamUrl, // or batchId and ticket
 *       onState: ({ batch, jobs }) => { bar.value = batch.progress; },
 *       onComplete: (batch) => { console.log(batch.status, batch.summary); },
 *     });
 *
 * A lost connection is taken up again where it was cut, without a gap and without anything twice. Where no events get
 * through, because something in between holds them back, the same is asked for in replies that wait (`changes`).
 */

import { BatchState } from "./state.js";

export { BatchState };

const EVENTS = ["progress", "log", "complete", "ping", "reset", "timeout", "error"];

/** Milliseconds of silence after which the server pings. */
const HEARTBEAT = 15_000;
/** Heartbeats without a sound after which a connection counts as dead, whatever the browser thinks of it. */
const SILENCE = 2.5;
/** Milliseconds for the first event of a connection that begins with a snapshot: the server sends that at once. */
const PATIENCE = 6000;
/** Connections one after the other that stay silent from their beginning, until we ask instead. */
const SILENT = 2;
/** Questions one after the other that fail, until it is the stream's turn again. */
const FAILED = 2;
/** Seconds for which the server may hold a reply, and milliseconds that it may take beyond that. */
const HOLD = { wait: 25, grace: 10_000 };
/** Milliseconds from one question to the next at least: a busy batch is shown no faster than eyes are. */
const PACE = 100;
/** Milliseconds: the first wait of ours before another attempt, which doubles each time, and the longest. */
const BACKOFF = { first: 1000, longest: 30_000 };

/**
 * Begins to watch and returns a `Watcher`, whose `close()` ends it. Options:
 *
 * - `url`: the batch's `streamUrl`; or `batchId` and `ticket` (and `base`, where Headway is elsewhere). `ticket` may be
 *   a function that returns one or a promise of one: it is asked again when the last has expired.
 * - `onState(state, change)`: after every change. `state` is a `BatchState`, `change` what `BatchState.take` returns.
 * - `onLog(lines)`: new log lines.
 * - `onComplete(batch)`: the batch is final. Nothing comes after it.
 * - `onConnection({state, reason, retryIn})`: `connecting`, `live`, `reconnecting` (`retryIn` in milliseconds, when it is
 *   our wait), `offline`, `finished`, or `stopped` for good with a `reason`: `expired`, `denied`, `gone`, `refused`.
 * - `jobs` (all, changed, none) and `logs` (how many lines first), as the protocol has them; `maxLines` to keep.
 * - `heartbeat`: the server's, in milliseconds; `patience`: how many a new connection may stay silent.
 * - `environment`: what to use instead of the browser's own, for tests.
 */
export function watch(options) {
  const watcher = new Watcher(options);
  watcher.connect();
  return watcher;
}

class Watcher {
  state;

  #options;
  #world;
  #source = null;
  #ticket = null;
  #opened = false;
  #attempts = 0;
  #retry = null;
  #watchdog = null;
  #heard = 0;
  /** Whether this connection has brought an event, and how many before it did not. */
  #spoke = false;
  #silent = 0;
  #polling = null;
  #ended = false;
  #probe = null;
  #connection = { state: null };

  constructor(options) {
    this.#options = { heartbeat: HEARTBEAT, patience: PATIENCE, base: "", ...options };
    this.#world = { ...browser(), ...options.environment };
    this.state = new BatchState({ maxLines: options.maxLines });
    this.#world.addEventListener?.("online", this.#hurry);
    this.#world.addEventListener?.("visibilitychange", this.#hurry);
  }

  /** Ends everything; nothing is called afterwards. */
  close() {
    this.#ended = true;
    this.#disconnect();
    this.#world.removeEventListener?.("online", this.#hurry);
    this.#world.removeEventListener?.("visibilitychange", this.#hurry);
  }

  async connect() {
    this.#disconnect();
    this.#say(this.#connection.state === null ? "connecting" : "reconnecting");
    try {
      this.#ticket ??= await callable(this.#options.ticket);
    } catch {
      this.#wait();
      return;
    }
    if (this.#ended || this.#source !== null) {
      return;
    }
    if (this.#silent >= SILENT) {
      this.#poll();
      return;
    }
    this.state.restart();
    this.#opened = this.#spoke = false;
    const source = new this.#world.EventSource(this.#url("stream", { lastEventId: this.state.id || undefined }));
    this.#source = source;
    source.onopen = () => {
      // The browser may have connected anew by itself.
      this.state.restart();
      this.#opened = true;
      this.#say("live");
      this.#listen();
    };
    for (const name of EVENTS) {
      source.addEventListener(name, (event) => {
        if (source !== this.#source) {
          return;
        }
        // The protocol's `error` carries data; the browser's event of that name tells of the connection.
        if (event.data === undefined) {
          this.#lost(source);
        } else {
          this.#receive(name, event);
        }
      });
    }
    this.#listen();
  }

  /** `what`: `stream` or `changes`, which stand beside each other. */
  #url(what, more) {
    const { url, base, batchId, jobs, logs } = this.#options;
    const [stream, query] = (url ?? `${base}/api/batches/${encodeURIComponent(batchId)}/stream`).split("?");
    const path = stream.replace(/[^/]*$/, what);
    const parameters = new URLSearchParams(query);
    const given = { ticket: this.#ticket, jobs, logs, ...more };
    for (const [name, value] of Object.entries(given)) {
      if (value !== undefined && value !== null) {
        parameters.set(name, value);
      }
    }
    return `${path}?${parameters}`;
  }

  #receive(name, event) {
    this.#heard = this.#world.now();
    this.#spoke = true;
    this.#silent = 0;
    let data;
    try {
      data = JSON.parse(event.data);
    } catch {
      this.#wait();
      return;
    }
    if (name === "error") {
      this.#refused(data);
      return;
    }
    this.#attempts = 0;
    if (name === "timeout") {
      if (data.reason === "token_expired") {
        this.#forgetTicket();
      }
      this.connect();
      return;
    }
    // `lastEventId` is the last one that any event carried; ids do not repeat.
    const id = event.lastEventId && event.lastEventId !== this.state.id ? event.lastEventId : null;
    const change = this.state.take(name, data, id);
    if (change !== null) {
      this.#show(change);
    }
  }

  #show(change) {
    if (change.complete) {
      this.#finish();
    }
    if (change.lines.length) {
      this.#options.onLog?.(change.lines);
    }
    this.#options.onState?.(this.state, change);
    if (change.complete) {
      this.#options.onComplete?.(this.state.batch);
    }
  }

  /** The browser says that there is no connection: it tries again by itself, or has given up, or cannot get one. */
  #lost(source) {
    const { CLOSED } = this.#world.EventSource;
    if (source.readyState === CLOSED) {
      this.#ask();
    } else if (this.#opened) {
      // It keeps to the server's `retry`. Should that attempt fail too, it is our turn: browsers do not wait longer.
      this.#opened = false;
      this.#say(this.#down());
    } else {
      this.#wait();
    }
  }

  /** An EventSource keeps the status to itself, so ask what it got. */
  async #ask() {
    this.#disconnect();
    this.#say(this.#down());
    const probe = new AbortController();
    this.#probe = probe;
    const timer = this.#world.setTimeout(() => probe.abort(), this.#options.heartbeat);
    let status = 0;
    try {
      const headers = { Accept: "text/event-stream" };
      const url = this.#url("stream", { lastEventId: this.state.id || undefined });
      ({ status } = await this.#world.fetch(url, { headers, signal: probe.signal, cache: "no-store" }));
    } catch {
      // no answer
    }
    this.#world.clearTimeout(timer);
    probe.abort();
    if (this.#ended || this.#probe !== probe) {
      return;
    }
    this.#probe = null;
    this.#answered(status);
  }

  /**
   * Asks for what has changed, again and again. The server holds each reply until there is something to say. Should
   * that fail repeatedly it is the stream's turn; if that is silent once more, ours.
   */
  async #poll() {
    const polling = new AbortController();
    this.#polling = polling;
    while (this.#polling === polling) {
      const began = this.#world.now();
      const timer = this.#world.setTimeout(() => polling.abort(), HOLD.wait * 1000 + HOLD.grace);
      let status = 0;
      let reply = null;
      try {
        const url = this.#url("changes", { since: this.state.id || 0, wait: HOLD.wait });
        const response = await this.#world.fetch(url, { signal: polling.signal, cache: "no-store" });
        ({ status } = response);
        reply = status === 200 ? await response.json() : null;
      } catch {
        // no answer, or none that can be read
      }
      this.#world.clearTimeout(timer);
      if (this.#polling !== polling) {
        return;
      }
      if (reply === null) {
        this.#polling = null;
        if (this.#attempts >= FAILED) {
          this.#silent = SILENT - 1;
        }
        this.#answered(status);
        return;
      }
      this.#attempts = 0;
      this.#say("live");
      this.#show(this.state.takeReply(reply));
      const rest = PACE - (this.#world.now() - began);
      if (rest > 0 && this.#polling === polling) {
        await new Promise((resolve) => this.#world.setTimeout(resolve, rest));
      }
    }
  }

  /** The server has said no more than this. */
  #answered(status) {
    if (status === 204) {
      this.#finish();
    } else if (status === 401 && this.#forgetTicket() && this.#attempts === 0) {
      this.#attempts += 1; // a fresh ticket that is refused as well is no reason to ask for another at once
      this.connect();
    } else if (status === 401 && !this.#renewable()) {
      this.#stop("expired");
    } else if (status === 403) {
      this.#stop("denied");
    } else if (status === 404 || status === 410) {
      this.#stop("gone");
    } else {
      this.#wait();
    }
  }

  /** The server's own `error`: it is about to end the connection. */
  #refused({ code, retryable }) {
    if (!retryable) {
      this.#stop(code === "deleted" ? "gone" : "refused");
    } else if (code !== "draining") {
      // When it drains it has told the browser by `retry` when to come back, each viewer at another moment.
      this.#wait();
    }
  }

  /** Another attempt, later: full waits grow, and viewers that were cut off together do not come back together. */
  #wait() {
    this.#disconnect();
    const full = Math.min(BACKOFF.longest, BACKOFF.first * 2 ** this.#attempts);
    this.#attempts = Math.min(this.#attempts + 1, 16);
    const retryIn = Math.round(full * (0.5 + this.#world.random() / 2));
    this.#retry = this.#world.setTimeout(() => this.connect(), retryIn);
    this.#say(this.#down(), { retryIn });
  }

  /** The network is back, or somebody looks again: no reason to wait any longer. */
  #hurry = () => {
    if (this.#retry !== null && this.#world.visible()) {
      this.connect();
    }
  };

  /** A connection may die without a word. One timer, moved on when it fires: there may be many events. */
  #listen() {
    this.#world.clearTimeout(this.#watchdog);
    this.#heard = this.#world.now();
    // Whoever resumes may have missed nothing: then the first sound is a ping.
    const long = this.#options.heartbeat * SILENCE;
    const patience = () => (this.#spoke || this.state.id ? long : Math.min(long, this.#options.patience));
    const look = () => {
      const left = this.#heard + patience() - this.#world.now();
      if (left > 0) {
        this.#watchdog = this.#world.setTimeout(look, left);
      } else {
        this.#silent += this.#spoke ? 0 : 1;
        this.#wait();
      }
    };
    this.#watchdog = this.#world.setTimeout(look, patience());
  }

  #renewable() {
    return typeof this.#options.ticket === "function";
  }

  /** Whether there is another one to be had. */
  #forgetTicket() {
    if (this.#renewable()) {
      this.#ticket = null;
    }
    return this.#renewable();
  }

  #down() {
    return this.#world.online() ? "reconnecting" : "offline";
  }

  #finish() {
    this.close();
    this.#say("finished");
  }

  #stop(reason) {
    this.close();
    this.#say("stopped", { reason });
  }

  #disconnect() {
    this.#world.clearTimeout(this.#retry);
    this.#world.clearTimeout(this.#watchdog);
    this.#retry = null;
    this.#probe?.abort();
    this.#probe = null;
    this.#polling?.abort();
    this.#polling = null;
    this.#source?.close();
    this.#source = null;
  }

  #say(state, more = {}) {
    const told = this.#connection;
    this.#connection = { state, ...more };
    if (told.state !== state || more.retryIn !== undefined) {
      this.#options.onConnection?.(this.#connection);
    }
  }
}

function browser() {
  const { document, navigator } = globalThis;
  return {
    EventSource: globalThis.EventSource,
    fetch: (...given) => globalThis.fetch(...given),
    setTimeout: (...given) => globalThis.setTimeout(...given),
    clearTimeout: (timer) => globalThis.clearTimeout(timer),
    now: () => performance.now(),
    random: Math.random,
    online: () => navigator?.onLine ?? true,
    visible: () => document?.visibilityState !== "hidden",
    addEventListener: (name, listener) => globalThis.addEventListener?.(name, listener, true),
    removeEventListener: (name, listener) => globalThis.removeEventListener?.(name, listener, true),
  };
}

async function callable(value) {
  return typeof value === "function" ? await value() : value;
}
