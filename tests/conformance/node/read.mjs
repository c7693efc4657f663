// Reads a stream as somebody else's program does: `node read.mjs eventsource|parser ADDRESS`. One line of JSON each for what it is told
// and for what becomes of its connection, until it has come to an end for good or its standard input ends.

import { EventSource } from "eventsource";
import { createParser } from "eventsource-parser";

const EVENTS = ["progress", "log", "complete", "ping", "reset", "timeout", "error", "message"];

const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

function watch(address) {
  const source = new EventSource(address);
  source.onopen = () => say({ connection: "open" });
  for (const name of EVENTS) {
    source.addEventListener(name, (event) => {
      if (event.data !== undefined) {
        say({ name, data: JSON.parse(event.data), id: event.lastEventId || null });
      } else if (source.readyState === EventSource.CLOSED) {
        say({ connection: "closed", status: event.code ?? null });
        process.exit(0);
      } else {
        say({ connection: "lost" });
      }
    });
  }
}

async function parse(address) {
  const response = await fetch(address, { headers: { Accept: "text/event-stream" } });
  say({ connection: "open", status: response.status });
  const parser = createParser({
    onEvent: ({ event, data, id }) => say({ name: event ?? null, data: JSON.parse(data), id: id ?? null }),
    onRetry: (milliseconds) => say({ retry: milliseconds }),
    onComment: (text) => say({ wrong: `a comment: ${text}` }),
    onError: (error) => say({ wrong: `${error.type}: ${error.message}` }),
  });
  try {
    for await (const text of response.body.pipeThrough(new TextDecoderStream("utf-8", { fatal: true }))) parser.feed(text);
    say({ connection: "closed", status: null });
  } catch {
    say({ connection: "lost" });
  }
  process.exit(0);
}

process.stdin.on("end", () => process.exit(0)).resume();
const [kind, address] = process.argv.slice(2);
await { eventsource: watch, parser: parse }[kind](address);
