import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { BatchState } from "../../../clients/js/state.js";
import { batch, job, line, lines } from "./wire.mjs";

test("nothing of a delta is seen before the event that carries its id", () => {
  const state = new BatchState();
  assert.equal(state.take("log", lines(line("j1", 1))), null);
  assert.equal(state.take("progress", { ...batch(), jobs: [job("j1")] }), null);
  assert.equal(state.batch, null);
  assert.equal(state.lines.size, 0);

  const change = state.take("progress", { ...batch({ progress: 5 }), jobs: [job("j2")] }, "a");

  assert.deepEqual(change.jobs.map(({ id }) => id), ["j1", "j2"]);
  assert.deepEqual(change.lines, [line("j1", 1)]);
  assert.equal(state.batch.progress, 5);
  assert.equal("jobs" in state.batch, false);
  assert.equal(state.id, "a");
});

test("a delta that was cut off counts only when it has come whole", () => {
  const state = new BatchState();
  state.take("progress", { ...batch(), jobs: [job("j1")] }, "a");
  state.take("log", lines(line("j1", 1), line("j1", 2)));
  state.restart();
  state.take("log", lines(line("j1", 1), line("j1", 2), line("j1", 3)));
  const change = state.take("progress", { ...batch(), jobs: [] }, "b");
  assert.deepEqual(change.lines.map(({ n }) => n), [1, 2, 3]);
  assert.equal(state.lines.size, 3);
});

test("what comes twice is there once", () => {
  const state = new BatchState();
  const delta = [["log", lines(line("j1", 1))], ["progress", { ...batch(), jobs: [job("j1", { progress: 40 })] }]];
  for (const id of ["a", "b"]) {
    state.take(...delta[0]);
    state.take(...delta[1], id);
  }
  assert.equal(state.lines.size, 1);
  assert.equal(state.jobs.size, 1);
});

test("estimates between deltas are taken at once and change nothing else", () => {
  const state = new BatchState();
  state.take("progress", { ...batch({ progress: 5 }), jobs: [job("j1")] }, "a");
  const change = state.take("progress", batch({ progress: 99, etaSeconds: 12, waiting: { reason: "behind", ahead: 3 } }));
  assert.deepEqual(change, { jobs: [], lines: [], reset: false, complete: false });
  assert.equal(state.batch.etaSeconds, 12);
  assert.equal(state.batch.waiting.ahead, 3);
  assert.equal(state.batch.progress, 5);
  assert.equal(state.id, "a");
});

test("a reset keeps what was shown until the snapshot that follows replaces it", () => {
  const state = new BatchState();
  state.take("log", lines(line("j1", 1)));
  state.take("progress", { ...batch(), jobs: [job("j1"), job("j2")] }, "a");
  assert.equal(state.take("reset", { reason: "epoch" }, "nothing"), null);
  assert.equal(state.id, "nothing");
  assert.equal(state.jobs.size, 2);

  assert.equal(state.take("progress", { ...batch(), jobs: [] }), null);
  const change = state.take("progress", { ...batch(), jobs: [job("j2")] }, "b");

  assert.equal(change.reset, true);
  assert.deepEqual([...state.jobs.keys()], ["j2"]);
  assert.equal(state.lines.size, 0);
});

test("complete brings the last jobs, also those that came before it", () => {
  const state = new BatchState();
  state.take("progress", { ...batch(), jobs: [job("j1"), job("j2")] }, "a");
  state.take("progress", { ...batch(), jobs: [job("j1", { status: "COMPLETED" })] });
  const change = state.take("complete", { ...batch({ status: "COMPLETED", summary: { jobs: 2 } }), jobs: [job("j2", { status: "COMPLETED" })] }, "b");
  assert.equal(change.complete, true);
  assert.equal(state.complete, true);
  assert.deepEqual([...state.jobs.values()].map(({ status }) => status), ["COMPLETED", "COMPLETED"]);
  assert.deepEqual(state.batch.summary, { jobs: 2 });
});

test("lines are kept up to a bound, the newest of them, and those left out are counted", () => {
  const state = new BatchState({ maxLines: 3 });
  state.take("log", { ...lines(...[1, 2, 3, 4, 5].map((n) => line("j1", n))), truncated: { count: 10, logsUrl: "/logs" } });
  state.take("progress", { ...batch(), jobs: [] }, "a");
  assert.deepEqual([...state.lines.values()].map(({ n }) => n), [3, 4, 5]);
  assert.deepEqual(state.missing, { count: 12, logsUrl: "/logs" });
});

test("an event of a name that is not known is nothing", () => {
  const state = new BatchState();
  assert.equal(state.take("ping", { timestamp: 1 }), null);
  assert.equal(state.take("fireworks", {}, "z"), null);
  assert.equal(state.id, "");
});

// The server's tests check that it sends exactly these.
const examples = JSON.parse(readFileSync(new URL("../../wire/stream.json", import.meta.url)));

for (const { name, given, events } of examples.filter((example) => example.given.id !== null)) {
  test(`as the server sends it: ${name}`, () => {
    const state = new BatchState();
    let change = null;
    for (const event of events.map(parsed)) {
      assert.equal(change, null, "something was seen before the delta was whole");
      change = state.take(event.event, JSON.parse(event.data), event.id ?? null);
    }
    assert.deepEqual(state.batch, given.batch);
    assert.deepEqual(change.jobs, given.jobs);
    assert.deepEqual(change.lines, given.lines);
    assert.equal(change.complete, given.final);
    assert.equal(state.id, given.id);
    assert.equal(state.missing.count, given.leftOut);
  });
}

for (const { name, given, events } of examples.filter((example) => example.given.id === null)) {
  test(`as the server sends it: ${name}`, () => {
    const state = new BatchState();
    state.take("progress", { ...batch(), jobs: [job("j1")] }, "a");
    const [event] = events.map(parsed);
    assert.notEqual(state.take(event.event, JSON.parse(event.data), event.id ?? null), null);
    assert.deepEqual(state.batch.waiting, given.batch.waiting);
    assert.equal(state.id, "a");
    assert.equal(state.jobs.size, 1);
  });
}

const parsed = (text) => Object.fromEntries(text.trim().split("\n").map((field) => field.split(/: (.*)/s)));
