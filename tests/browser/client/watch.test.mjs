import assert from "node:assert/strict";
import test from "node:test";
import { watch } from "../../../clients/js/headway.js";
import { batch, job, line, lines, reply, settle, World } from "./wire.mjs";

/** Somebody who watches batch b1, with everything that they were told. */
async function watching(options = {}) {
  const world = new World();
  const told = { connections: [], lines: [], states: [], complete: [] };
  const watcher = watch({
    batchId: "b1",
    ticket: "t1",
    onConnection: (connection) => told.connections.push(connection),
    onLog: (given) => told.lines.push(...given),
    onState: (state, change) => told.states.push([state.batch.version, change]),
    onComplete: (given) => told.complete.push(given),
    environment: world.environment,
    ...options,
  });
  await settle();
  return { world, told, watcher, light: () => told.connections.at(-1)?.state };
}

const snapshot = (more) => ({ ...batch(more), jobs: [job("j1")] });
const done = { ...batch({ status: "COMPLETED", version: 9 }), jobs: [] };

test("connects with ticket and wishes, and shows what comes", async () => {
  const { world, told, light } = await watching({ jobs: "changed", logs: 10 });
  assert.equal(light(), "connecting");
  assert.equal(world.source.url.href, "http://headway/api/batches/b1/stream?ticket=t1&jobs=changed&logs=10");
  world.source.open();
  assert.equal(light(), "live");
  world.source.send("log", lines(line("j1", 1)));
  world.source.send("progress", snapshot(), "a");
  assert.deepEqual(told.lines, [line("j1", 1)]);
  assert.equal(told.states.length, 1);
});

test("takes the streamUrl as it was given out", async () => {
  const { world } = await watching({ url: "/api/batches/b1/stream?ticket=t9", batchId: undefined, ticket: undefined });
  assert.equal(world.source.url.href, "http://headway/api/batches/b1/stream?ticket=t9");
});

test("the browser's own reconnection is left to it, and half a delta is forgotten", async () => {
  const { world, told, light } = await watching();
  world.source.open();
  world.source.send("progress", snapshot(), "a");
  world.source.send("log", lines(line("j1", 1)));
  world.source.lose();
  assert.equal(light(), "reconnecting");
  assert.equal(world.sources.length, 1);
  world.source.open();
  assert.equal(light(), "live");
  world.source.send("log", lines(line("j1", 1)));
  world.source.send("progress", snapshot({ version: 2 }), "b");
  assert.deepEqual(told.lines, [line("j1", 1)]);
});

test("when the browser cannot get through we wait longer each time and resume by the last id", async () => {
  const { world, told } = await watching();
  world.source.open();
  world.source.send("progress", snapshot(), "a");
  world.source.lose();
  for (const wait of [1000, 2000, 4000, 8000, 16000, 30000, 30000]) {
    world.source.lose();
    assert.deepEqual(told.connections.at(-1), { state: "reconnecting", retryIn: wait });
    const before = world.sources.length;
    await world.pass(wait - 1);
    assert.equal(world.sources.length, before);
    await world.pass(1);
    assert.equal(world.sources.length, before + 1);
    assert.equal(world.source.url.searchParams.get("lastEventId"), "a");
  }
  world.source.open();
  world.source.send("ping", { timestamp: 1 });
  world.source.lose();
  world.source.lose();
  assert.equal(told.connections.at(-1).retryIn, 1000);
});

for (const [status, reason] of [[401, "expired"], [403, "denied"], [404, "gone"], [410, "gone"]]) {
  test(`a ${status} ends it: ${reason}`, async () => {
    const { world, told } = await watching();
    world.answers.push(status);
    world.source.lose({ forGood: true });
    await settle();
    assert.deepEqual(told.connections.at(-1), { state: "stopped", reason });
    await world.pass(1e6);
    assert.equal(world.sources.length, 1);
    assert.equal(world.timers.size, 0);
    assert.equal(world.listeners.size, 0);
  });
}

test("a 204 means that nothing more comes", async () => {
  const { world, light } = await watching();
  world.answers.push(204);
  world.source.lose({ forGood: true });
  await settle();
  assert.equal(light(), "finished");
});

test("a 503 from something in between is no end", async () => {
  const { world, light } = await watching();
  world.answers.push(503);
  world.source.lose({ forGood: true });
  await settle();
  assert.equal(light(), "reconnecting");
  await world.pass(1000);
  assert.equal(world.sources.length, 2);
});

test("the question for the status is not left open, and given up when there is no answer", async () => {
  const world = new World();
  let signal;
  const fetch = (_url, options) => new Promise((_resolve, reject) => {
    ({ signal } = options);
    signal.addEventListener("abort", () => reject(new Error("aborted")));
  });
  const { told } = await watching({ environment: { ...world.environment, fetch } });
  world.source.lose({ forGood: true });
  await world.pass(15_000);
  assert.equal(signal.aborted, true);
  assert.equal(told.connections.at(-1).retryIn, 1000);
});

test("a ticket that has expired is replaced where there is a way to get one", async () => {
  const tickets = ["t1", "t2", "t3"];
  const { world, light } = await watching({ ticket: async () => tickets.shift() });
  world.source.open();
  world.source.send("progress", snapshot(), "a");
  world.answers.push(401);
  world.source.lose({ forGood: true });
  await settle();
  await settle();
  assert.equal(world.source.url.searchParams.get("ticket"), "t2");
  assert.equal(world.source.url.searchParams.get("lastEventId"), "a");
  world.answers.push(401);
  world.source.lose({ forGood: true });
  await settle();
  assert.equal(light(), "reconnecting");
  assert.equal(world.sources.length, 2);
  await world.pass(2000);
  assert.equal(world.source.url.searchParams.get("ticket"), "t3");
});

test("an error of the server is waited out", async () => {
  const { world, told } = await watching();
  world.source.open();
  world.source.send("error", { code: "too_many_connections", message: "…", retryable: true });
  assert.deepEqual(told.connections.at(-1), { state: "reconnecting", retryIn: 1000 });
  await world.pass(1000);
  world.source.open();
  world.source.send("error", { code: "overloaded", message: "…", retryable: true });
  assert.equal(told.connections.at(-1).retryIn, 2000);
});

test("a server that drains has told the browser when to come back", async () => {
  const { world, light } = await watching();
  world.source.open();
  world.source.send("error", { code: "draining", message: "…", retryable: true });
  world.source.lose();
  assert.equal(light(), "reconnecting");
  await world.pass(10_000);
  assert.equal(world.sources.length, 1);
});

for (const [code, reason] of [["deleted", "gone"], ["internal", "refused"]]) {
  test(`an error that is final ends it: ${code}`, async () => {
    const { world, told } = await watching();
    world.source.open();
    world.source.send("error", { code, message: "…", retryable: false });
    assert.deepEqual(told.connections.at(-1), { state: "stopped", reason });
  });
}

test("a timeout is followed by a new connection at once", async () => {
  const { world } = await watching();
  world.source.open();
  world.source.send("progress", snapshot(), "a");
  const first = world.source;
  world.source.send("timeout", { reason: "lifetime" });
  await settle();
  assert.equal(first.readyState, 2);
  assert.equal(world.sources.length, 2);
  assert.equal(world.source.url.searchParams.get("lastEventId"), "a");
});

test("silence of two and a half heartbeats is a dead connection, pings are a sound", async () => {
  const { world, light } = await watching({ heartbeat: 1000 });
  world.source.open();
  for (let n = 0; n < 10; n += 1) {
    await world.pass(1000);
    world.source.send("ping", { timestamp: n });
  }
  assert.equal(light(), "live");
  await world.pass(2500);
  assert.equal(light(), "reconnecting");
  await world.pass(1000);
  assert.equal(world.sources.length, 2);
});

test("a connection that never opens is given up as well", async () => {
  const { world } = await watching({ heartbeat: 1000 });
  await world.pass(3500);
  assert.equal(world.sources.length, 2);
});

test("complete is told once, after the state, and ends it", async () => {
  const { world, told, light } = await watching();
  world.source.open();
  world.source.send("progress", snapshot(), "a");
  world.source.send("complete", done, "b");
  assert.equal(told.complete.length, 1);
  assert.equal(told.complete[0].status, "COMPLETED");
  assert.equal(told.states.at(-1)[0], 9);
  assert.equal(light(), "finished");
  await world.pass(1e6);
  assert.equal(world.sources.length, 1);
  assert.equal(world.source.readyState, 2);
});

test("a reset begins anew, also after a cut behind it", async () => {
  const { world, told } = await watching();
  world.source.open();
  world.source.send("progress", snapshot(), "a");
  world.source.send("reset", { reason: "epoch" }, "n");
  world.source.lose();
  world.source.lose();
  await world.pass(1000);
  assert.equal(world.source.url.searchParams.get("lastEventId"), "n");
  world.source.open();
  world.source.send("progress", { ...batch(), jobs: [job("j2")] }, "c");
  assert.equal(told.states.at(-1)[1].reset, true);
});

test("what cannot be read is asked for again", async () => {
  const { world } = await watching();
  world.source.open();
  world.source.send("progress", snapshot(), "a");
  world.source.send("progress", "{", "b");
  await world.pass(1000);
  assert.equal(world.source.url.searchParams.get("lastEventId"), "a");
});

test("offline is said as such, and coming back is not waited for", async () => {
  const { world, light } = await watching();
  world.source.open();
  world.isOnline = false;
  world.source.lose();
  assert.equal(light(), "offline");
  world.source.lose();
  world.isOnline = true;
  world.listeners.get("online")();
  await settle();
  assert.equal(world.sources.length, 2);
  assert.equal(world.timers.size, 1);
});

test("after close nothing happens any more", async () => {
  const { world, told, watcher } = await watching();
  world.source.open();
  watcher.close();
  const before = told.connections.length;
  world.source.send("progress", snapshot(), "a");
  await world.pass(1e6);
  assert.equal(told.states.length, 0);
  assert.equal(told.connections.length, before);
  assert.equal(world.timers.size, 0);
});

/** Somebody whose stream is silent from its beginning, twice. */
async function unheard(options = {}) {
  const watched = await watching(options);
  watched.world.source.open();
  await watched.world.pass(6000 + 1000);
  await watched.world.pass(6000 + 1999);
  assert.equal(watched.world.sources.length, 2);
  assert.equal(watched.world.asked.length, 0);
  return watched;
}

test("when streams stay silent from the beginning we ask instead, and go on from the last id", async () => {
  const { world, told, light } = await unheard({ jobs: "changed" });
  world.answers.push(
    reply("a", { jobs: [job("j1")], lines: [line("j1", 2)], truncated: { count: 1, logsUrl: "/logs" } }),
    reply("b", { batch: batch({ version: 2 }), version: 2, lines: [line("j1", 3)] }),
    reply("b", { batch: batch({ version: 2 }), version: 2 }),
    reply("c", { done: true, batch: batch({ version: 3, status: "COMPLETED" }), version: 3 }),
  );
  await world.pass(1000);
  assert.equal(world.sources.length, 2);
  assert.deepEqual(
    world.asked.map(({ url }) => url),
    ["0", "a", "b", "b"].map((id) => `/api/batches/b1/changes?ticket=t1&jobs=changed&since=${id}&wait=25`),
  );
  assert.deepEqual(told.lines.map(({ n }) => n), [2, 3]);
  assert.deepEqual(told.states.map(([version]) => version), [1, 2, 2, 3]);
  assert.equal(told.complete.length, 1);
  assert.deepEqual(told.connections.slice(-2).map(({ state }) => state), ["live", "finished"]);
  assert.equal(light(), "finished");
  await world.pass(1e6);
  assert.equal(world.asked.length, 4);
  assert.equal(world.timers.size, 0);
});

test("a busy batch is asked for no more often than every tenth of a second", async () => {
  const { world } = await unheard();
  world.answers.push(...Array.from({ length: 50 }, (_, n) => reply(`a${n}`)));
  await world.pass(1);
  assert.equal(world.asked.length, 1);
  await world.pass(1000);
  assert.equal(world.asked.length, 11);
});

test("a reply that resets replaces what was shown", async () => {
  const { world, told, watcher } = await unheard();
  world.answers.push(
    reply("a", { jobs: [job("j1"), job("j2")] }),
    reply("b", { reset: true, reason: "epoch", jobs: [job("j3")] }),
  );
  await world.pass(200);
  assert.deepEqual([...watcher.state.jobs.keys()], ["j3"]);
  assert.equal(told.states.at(-1)[1].reset, true);
  watcher.close();
});

test("questions that fail are repeated, and at last the stream is tried again", async () => {
  const { world, light } = await unheard();
  world.answers.push(reply("a"), 503, reply("b"));
  await world.pass(102);
  assert.equal(light(), "reconnecting");
  await world.pass(1000);
  assert.equal(light(), "live");
  world.answers.push(503, 502, 503);
  await world.pass(100 + 1000 + 2000 + 4000);
  assert.equal(world.sources.length, 3);
  assert.equal(world.source.url.searchParams.get("lastEventId"), "b");
  world.source.open();
  world.source.send("progress", snapshot(), "c");
  assert.equal(light(), "live");
  const asked = world.asked.length;
  await world.pass(30_000);
  assert.equal(world.asked.length, asked);
});

test("a question whose ticket has expired is asked again with another, or not at all", async () => {
  const tickets = ["t1", "t2"];
  const { world } = await unheard({ ticket: () => tickets.shift() });
  world.answers.push(reply("a"), 401, reply("b"));
  await world.pass(250);
  assert.match(world.asked.at(-2).url, /ticket=t2&since=a/);
  const { world: other, told } = await unheard();
  other.answers.push(401);
  await other.pass(1);
  assert.deepEqual(told.connections.at(-1), { state: "stopped", reason: "expired" });
});

test("a batch that is deleted ends the questions", async () => {
  const { world, told } = await unheard();
  world.answers.push(reply("a"), 404);
  await world.pass(500);
  assert.deepEqual(told.connections.at(-1), { state: "stopped", reason: "gone" });
  assert.equal(world.asked.length, 2);
});

test("a question that nobody answers is given up, and so is one when the watcher is closed", async () => {
  const world = new World();
  const signals = [];
  const fetch = (_url, { signal }) => new Promise((_resolve, reject) => {
    signals.push(signal);
    signal.addEventListener("abort", () => reject(new Error("aborted")));
  });
  const { watcher } = await watching({ environment: { ...world.environment, fetch } });
  await world.pass(6000 + 1000 + 6000 + 2000);
  assert.equal(signals.length, 1);
  await world.pass(35_000);
  assert.equal(signals[0].aborted, true);
  await world.pass(4000 + 6000 + 8000);
  assert.equal(signals.length, 2);
  watcher.close();
  assert.equal(signals[1].aborted, true);
});

test("one silence between connections that speak is no reason to ask", async () => {
  const { world } = await watching();
  for (let n = 0; n < 3; n += 1) {
    await world.pass(6000 + 2000);
    world.source.send("ping", { timestamp: n });
    await world.pass(38_500);
  }
  assert.equal(world.asked.length, 0);
});
