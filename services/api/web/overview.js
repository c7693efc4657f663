/** The upper part of the page: what this is, how far it is, and whether what is shown is live. */

import { $, fill, say } from "./dom.js";
import { duration, moment, plural, span, STATES, waiting } from "./words.js";

const LIGHT = {
  connecting: "Connecting",
  live: "Live",
  reconnecting: "Connection lost, trying again",
  offline: "You are offline",
  finished: "Finished",
  stopped: "Not connected",
};

const STOPPED = {
  missing:
    "This address needs a ticket. Please open the whole link that came with the batch; it ends in #ticket=… " +
    "(a link is for one tab: a copy of the address without its ticket is not enough).",
  expired: "The ticket of this link has expired. Ask whoever started the batch for a new link.",
  denied: "The ticket of this link does not allow reading this batch.",
  gone: "There is no such batch, or not any more, or this link is for another one.",
  refused: "The server ended the connection for good. Reload the page to try once more.",
};

/** Percent between two announcements to screen readers. */
const ANNOUNCE = 25;

let announced = "";
let batch = null;
let heard = 0;

export function showConnection({ state, reason, retryIn }) {
  const again = retryIn > 2000 ? ` in ${duration(retryIn / 1000)}` : "";
  $("light").dataset.state = state;
  say($("light-words"), LIGHT[state] + again);
  $("notice").hidden = state !== "stopped";
  say($("notice"), state === "stopped" ? STOPPED[reason] : "");
  if (state === "finished") {
    showTimes(); // no more of the time left
  }
}

export function showBatch(now) {
  batch = now;
  heard = Date.now();
  $("batch").hidden = false;
  say($("title"), batch.title || "Untitled batch");
  say($("about"), `${batch.kind}, ${plural(batch.counts.total, "job")}${batch.open ? " so far" : ""}, created ${moment(batch.createdAt)}`);
  const stopping = batch.cancelRequested && batch.finishedAt === null;
  say($("status"), stopping ? "Being cancelled" : STATES[batch.status]);
  $("status").dataset.state = batch.status;
  $("bar").dataset.state = batch.status;
  fill($("bar"), batch.progress);
  $("bar").setAttribute("aria-valuetext", `${batch.progress} %, ${STATES[batch.status]}`);
  say($("percent"), `${batch.progress} %`);
  document.title = batch.finishedAt === null ? `${batch.progress} % ${batch.title}` : `${STATES[batch.status]}: ${batch.title}`;
  showTimes();
  announce();
}

function showTimes() {
  if (batch === null) {
    return;
  }
  const parts = [];
  if (batch.startedAt !== null) {
    const until = batch.finishedAt === null ? Date.now() : Date.parse(batch.finishedAt);
    const took = duration((until - Date.parse(batch.startedAt)) / 1000);
    parts.push(batch.finishedAt === null ? `running for ${took}` : `took ${took}`);
  }
  if (batch.finishedAt === null) {
    parts.push(timeLeft(), waiting(batch.waiting), idle());
  }
  say($("times"), parts.filter(Boolean).join(", "));
}

/** An open batch does not end when all that it has is done: it had better say so than stand at 100 %. */
function idle() {
  const { queued, processing } = batch.counts;
  return batch.open && !queued && !processing ? "waiting for more jobs" : "";
}

/** The server's estimate, less what has passed since it was heard; an empty text where it has none. */
function timeLeft() {
  if (batch.etaSeconds === null) {
    return "";
  }
  const passed = (Date.now() - heard) / 1000;
  const { etaSeconds, etaLow = etaSeconds, etaHigh = etaSeconds } = batch;
  return `${span(etaLow - passed, etaSeconds - passed, etaHigh - passed)} left`;
}

function announce() {
  const step = batch.finishedAt === null ? Math.floor(batch.progress / ANNOUNCE) * ANNOUNCE : 100;
  const news = `${STATES[batch.status]}, ${step} %`;
  if (news !== announced) {
    announced = news;
    say($("announcer"), news);
  }
}

setInterval(showTimes, 1000);
