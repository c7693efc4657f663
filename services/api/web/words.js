/** Numbers, times and states in words. */

const NUMBER = new Intl.NumberFormat("en");
const VOLUME = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 2 });
const CLOCK = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const MOMENT = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

export const number = (value) => NUMBER.format(value);
export const volume = (cubicMetres) => `${VOLUME.format(cubicMetres)} m³`;
export const clock = (time) => CLOCK.format(new Date(time));
export const moment = (time) => MOMENT.format(new Date(time));

/** `1 photo`, `12 photos` */
export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) {
    return `${whole} s`;
  }
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${whole % 60} s`;
}

export const STATES = {
  QUEUED: "Waiting",
  PROCESSING: "Running",
  PAUSED: "Paused",
  COMPLETED: "Done",
  PARTIAL: "Done in part",
  FAILED: "Failed",
  CANCELLED: "Cancelled",
};

const WAITING = {
  paused: () => "paused",
  no_worker: () => "no worker is there to start it",
  behind: ({ ahead }) => (ahead ? `${plural(ahead, "job")} ahead in the queue` : "others are ahead in the queue"),
  delayed: ({ until }) => (until ? `the next attempt is at ${clock(until)}` : "waiting for the next attempt"),
  limited: () => "as many jobs as allowed are running",
};

/** Why nothing moves, or an empty text. */
export const waiting = (reason) => (reason ? (WAITING[reason.reason]?.(reason) ?? "") : "");
