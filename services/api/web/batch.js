/** The live page of one batch. */

import { watch } from "./headway.js";
import { $, say } from "./dom.js";
import { Files } from "./files.js";
import { Log } from "./log.js";
import { showBatch, showConnection } from "./overview.js";
import { describe, Rows } from "./rows.js";
import { showSummary } from "./summary.js";
import { takeTicket } from "./ticket.js";

const batchId = location.pathname.split("/").at(-1);

let watcher = null;
let ticket = null;
const rows = new Rows((job) => {
  log.showOnly(job?.id ?? null);
  showSelected();
});
const log = new Log({
  lines: () => watcher?.state.lines.values() ?? [],
  name: (id) => watcher?.state.jobs.get(id)?.name ?? "",
  file: (query) => {
    const address = watcher?.state.missing.logsUrl ?? `/api/batches/${batchId}/logs`;
    return `${address}?${new URLSearchParams({ ...query, format: "text", ticket })}`;
  },
});

const files = new Files(
  (jobId, artifactId) => `/api/jobs/${jobId}/artifacts/${artifactId}?${new URLSearchParams({ ticket })}`,
);

$("only").querySelector("button").addEventListener("click", () => rows.select(rows.selected));

function show(state, { jobs, lines, reset }) {
  showBatch(state.batch);
  showSummary(state.batch);
  rows.update(state.batch, jobs, reset);
  if (reset) {
    log.rebuild();
  } else if (lines.length) {
    log.add(lines);
  }
  log.showMissing(state.missing);
  showSelected();
}

/** The job whose lines alone are shown, with all that its row has no room for. */
function showSelected() {
  const job = rows.selected === null ? null : rows.job(rows.selected);
  $("only").hidden = !job;
  say($("only").querySelector("span"), job ? [job.name, describe(job)].filter(Boolean).join(": ") : "");
  files.show(job);
}

function start() {
  ticket = takeTicket(batchId);
  watcher?.close();
  if (ticket === null) {
    showConnection({ state: "stopped", reason: "missing" });
    return;
  }
  watcher = watch({ batchId, ticket, onState: show, onConnection: showConnection });
}

// Somebody opens another link in this tab.
addEventListener("hashchange", () => location.hash.includes("ticket=") && location.reload());
start();
