import assert from "node:assert/strict";
import { createServer } from "node:http";
import test from "node:test";
import { watch } from "../../../clients/js/headway.js";
import { batch, job, line, reply } from "./wire.mjs";

/** As much of an EventSource as it takes to be kept waiting by a real server. */
class EventSource {
  static CLOSED = 2;
  #stop = new AbortController();

  constructor(url) {
    this.#read(url);
  }

  addEventListener() {}

  close() {
    this.#stop.abort();
  }

  async #read(url) {
    try {
      const response = await fetch(url, { signal: this.#stop.signal });
      this.onopen();
      for await (const chunk of response.body) {
        assert.fail(`something got through: ${chunk}`);
      }
    } catch {
      // closed
    }
  }
}

/** Holds streams back, headers and all; lets replies through when `answer` is called. */
async function buffering() {
  const seen = { streams: 0, gone: 0, asked: [] };
  const waiting = [];
  const server = createServer((request, response) => {
    const url = new URL(request.url, "http://headway");
    if (url.pathname.endsWith("/stream")) {
      seen.streams += 1;
      request.on("close", () => { seen.gone += 1; });
      return;
    }
    seen.asked.push(`${url.pathname}?since=${url.searchParams.get("since")}`);
    waiting.push(response);
    waiting.wake?.();
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    seen,
    base: `http://127.0.0.1:${server.address().port}`,
    async answer(content) {
      while (waiting.length === 0) {
        await new Promise((resolve) => { waiting.wake = resolve; });
      }
      waiting.shift().setHeader("Content-Type", "application/json").end(JSON.stringify(content));
    },
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

test("behind a server that holds streams back the whole batch is seen all the same", async (t) => {
  const server = await buffering();
  t.after(() => server.close());
  const lines = [];
  const told = [];
  const finished = new Promise((resolve, reject) => {
    watch({
      base: server.base,
      batchId: "b1",
      ticket: "t1",
      patience: 50,
      onState: (state) => told.push([state.batch.version, state.jobs.size]),
      onLog: (given) => lines.push(...given),
      onComplete: resolve,
      onConnection: ({ state, reason }) => state === "stopped" && reject(new Error(reason)),
      environment: { EventSource, random: () => 0, setTimeout: (run, delay) => setTimeout(run, delay / 10) },
    });
  });

  await server.answer(reply("a", { jobs: [job("j1"), job("j2")], lines: [line("j1", 1)] }));
  await server.answer(reply("b", { version: 2, batch: batch({ version: 2 }), lines: [line("j1", 1), line("j2", 1)] }));
  await server.answer(reply("c", { version: 3, batch: batch({ version: 3, status: "COMPLETED" }), done: true }));
  const batchAtTheEnd = await finished;

  assert.equal(batchAtTheEnd.status, "COMPLETED");
  assert.deepEqual(told, [[1, 2], [2, 2], [3, 2]]);
  assert.deepEqual(lines, [line("j1", 1), line("j2", 1)]);
  assert.deepEqual(server.seen.asked, ["0", "a", "b"].map((id) => `/api/batches/b1/changes?since=${id}`));
  assert.deepEqual([server.seen.streams, server.seen.gone], [2, 2]);
});
