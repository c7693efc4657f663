// Feeds the bytes of one stream to both readers, cut in pieces in many ways. Standard input: {"body": base64, "retry": [milliseconds],
// "events": [{"name", "data", "id"}]}; both must be told just these, however they were cut. Says in how many ways they were.

import assert from "node:assert/strict";
import { text } from "node:stream/consumers";
import { EventSource } from "eventsource";
import { createParser } from "eventsource-parser";

const SIZES = [1, 2, 3, 5, 7, 64, 1448, 16384, 65536, Infinity];
/** At how many places each reader is cut once at most: everywhere, in a short stream. Of a long one it reads so many bytes in all. */
const PLACES = { parser: 1500, eventsource: 200 };
const BYTES = 15_000_000;
/** Into fewer than so many. */
const PIECES = 800_000;

const given = JSON.parse(await text(process.stdin));
const body = Buffer.from(given.body, "base64");
const names = new Set(given.events.map(({ name }) => name));
const expected = given.events.map(({ name, data, id }) => ({ name, data, id }));

/** The pieces of the body, so many bytes each. */
function* pieces(size) {
  for (let start = 0; start < body.length; start += size) yield body.subarray(start, start + size);
}

/** Cut once, at a number of places; where an event or a character ends is of the most interest. */
function* halves(most) {
  most = Math.min(most, BYTES / body.length);
  const step = Math.max(1, body.length / most);
  const places = new Set();
  for (let place = 1; place < body.length; place += step) places.add(Math.floor(place));
  for (let at = body.indexOf("\n\n"); at !== -1 && places.size < 2 * most; at = body.indexOf("\n\n", at + 1)) {
    for (const place of [at, at + 1, at + 2]) if (place > 0 && place < body.length) places.add(place);
  }
  for (const place of places) yield [body.subarray(0, place), body.subarray(place)];
}

function* ways(most) {
  for (const size of SIZES) if (body.length / size < PIECES) yield pieces(size);
  yield* halves(most);
}

function parsed(chunks) {
  const events = [];
  const retry = [];
  const fail = (what) => assert.fail(String(what));
  const parser = createParser({
    onEvent: ({ event, data, id }) => events.push({ name: event, data: JSON.parse(data), id: id ?? null }),
    onRetry: (milliseconds) => retry.push(milliseconds),
    onComment: fail,
    onError: fail,
  });
  const decoder = new TextDecoder("utf-8", { fatal: true });
  for (const chunk of chunks) parser.feed(decoder.decode(chunk, { stream: true }));
  parser.feed(decoder.decode());
  assert.deepStrictEqual(retry, given.retry);
  return events;
}

function watched(chunks) {
  const events = [];
  // ReadableStream.from came with Node 20
  const left = chunks[Symbol.iterator]();
  const stream = new ReadableStream({
    pull(controller) {
      const { done, value } = left.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
  });
  const response = new Response(stream, { headers: { "Content-Type": "text/event-stream" } });
  return new Promise((resolve) => {
    const source = new EventSource("http://127.0.0.1/", { fetch: async () => response });
    for (const name of names) {
      source.addEventListener(name, (event) => {
        if (event.data !== undefined) events.push({ name, data: JSON.parse(event.data), id: event.lastEventId || null });
      });
    }
    source.onmessage = (event) => events.push({ name: "message", data: event.data });
    source.addEventListener("error", (event) => {
      if (event.data !== undefined) return;
      source.close();
      resolve(events);
    });
  });
}

let count = 0;
for (const way of ways(PLACES.parser)) {
  assert.deepStrictEqual(parsed(way), expected);
  count += 1;
}
for (const way of ways(PLACES.eventsource)) {
  assert.deepStrictEqual(await watched(way), expected);
  count += 1;
}
// a source that was closed in its last event still waits to connect again
process.stdout.write(`${count}\n`, () => process.exit(0));
