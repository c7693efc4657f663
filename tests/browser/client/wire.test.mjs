// What the server sends, as its own tests record it: the client understands all of it.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { watch } from "../../../clients/js/headway.js";
import { BatchState } from "../../../clients/js/state.js";
import { batch, job, settle, World } from "./wire.mjs";

const scenes = JSON.parse(readFileSync(new URL("../../wire/events.json", import.meta.url)));
const events = scenes.flatMap((scene) => scene.events);

for (const { name, events: given } of scenes.filter((scene) => scene.events.at(-1).id)) {
  test(`in the end the state is what was sent: ${name}`, () => {
    const state = new BatchState();
    let change = null;
    for (const { event, data, id } of given) {
      assert.equal(change, null, "something was seen before the delta was whole");
      change = state.take(event, data, id);
    }
    assert.equal(state.id, given.at(-1).id);
    if (given.at(-1).event === "reset") {
      assert.equal(change, null);
      return;
    }
    const { jobs: last, ...shown } = given.at(-1).data;
    assert.deepEqual(state.batch, shown);
    const jobs = new Map(given.flatMap(({ data }) => data.jobs ?? []).map((one) => [one.id, one]));
    assert.deepEqual(state.jobs, jobs);
    const lines = given.flatMap(({ data }) => data.lines ?? []);
    assert.deepEqual(change.lines, lines);
    assert.equal(change.complete, given.at(-1).event === "complete");
    assert.equal(change.reset, given[0].event === "reset");
    assert.equal(state.missing.count, given.reduce((sum, { data }) => sum + (data.truncated?.count ?? 0), 0));
    assert.ok(last.every((one) => jobs.get(one.id) === one));
  });
}

async function watching() {
  const world = new World();
  const lights = [];
  watch({
    batchId: "b1", ticket: "t1", environment: world.environment, onState: () => {},
    onConnection: ({ state }) => lights.push(state),
  });
  await settle();
  world.source.open();
  world.source.send("progress", { ...batch(), jobs: [job("j1")] }, "a");
  return { world, lights };
}

for (const { data } of events.filter(({ event }) => event === "error")) {
  test(`the error ${data.code} is ${data.retryable ? "waited for" : "the end"}`, async () => {
    const { world, lights } = await watching();
    world.source.send("error", data);
    await world.pass(120_000);
    assert.equal(lights.includes("stopped"), !data.retryable);
    assert.equal(world.sources.length > 1, data.retryable);
  });
}

for (const { data } of events.filter(({ event }) => event === "timeout")) {
  test(`after the timeout ${data.reason} it goes on from the last id`, async () => {
    const { world } = await watching();
    world.source.send("timeout", data);
    await settle();
    assert.equal(world.sources.length, 2);
    assert.equal(world.source.url.searchParams.get("lastEventId"), "a");
  });
}

test("a ping changes nothing", async () => {
  const { world, lights } = await watching();
  world.source.send("ping", events.find(({ event }) => event === "ping").data);
  assert.equal(lights.at(-1), "live");
});
