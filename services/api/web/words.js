/** Numbers, times and states in words. */

const NUMBER = new Intl.NumberFormat("en");
const VOLUME = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 2 });
const CLOCK = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const MOMENT = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

export const number = (value) => NUMBER.format(value);
export const volume = (cubicMetres) => `${VOLUME.format(cubicMetres)} m³`;
export const clock = (time) => CLOCK.format(new Date(time));
export const moment = (time) => MOMENT.format(new Date(time));
/** The time of a moment that is probably today, with the date if it is not. */
export const when = (time) =>
  new Date(time).toDateString() === new Date().toDateString() ? clock(time) : moment(time);

/** `1 photo`, `12 photos` */
export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** `512 bytes`, `3.4 MB` */
export function bytes(count) {
  const power = Math.min(3, Math.floor(Math.log10(Math.max(count, 1)) / 3));
  return power ? `${(count / 1000 ** power).toFixed(1)} ${["kB", "MB", "GB"][power - 1]}` : plural(count, "byte");
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) {
    return `${whole} s`;
  }
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${whole % 60} s`;
}

const UNITS = [
  { name: "h", seconds: 3600, from: 5400 },
  { name: "min", seconds: 60, from: 90 },
  { name: "s", seconds: 1, from: 0 },
];

/** Up to this many times as much as the least, the most is not worth a number of its own. */
const NARROW = 1.3;

/** A time that is not known better than between two others, all in seconds: `about 3 min`, `2 to 5 min`, `40 s to 2 min`. */
export function span(low, likely, high) {
  if (high <= Math.max(1, low) * NARROW) {
    return `about ${rough(Math.max(1, likely)).join(" ")}`;
  }
  const [[least, unit], [most, other]] = [rough(low), rough(high)];
  if (least === most && unit === other) {
    return `about ${most} ${other}`;
  }
  if (least === 0) {
    return `up to ${most} ${other}`;
  }
  return unit === other ? `${least} to ${most} ${other}` : `${least} ${unit} to ${most} ${other}`;
}

/** As many units as it is, and which; hours to the half. */
function rough(seconds) {
  const { name, seconds: unit } = UNITS.find(({ from }) => seconds >= from) ?? UNITS.at(-1);
  const value = Math.max(0, seconds / unit);
  return [name === "h" ? Math.round(value * 2) / 2 : Math.round(value), name];
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
  no_worker: () => "no worker is there to start its jobs",
  behind: ({ ahead, until }) =>
    (ahead ? `${plural(ahead, "job")} ahead in the queue` : "all workers are busy with others") +
    (until ? `, its turn is at about ${clock(until)}` : ""),
  delayed: ({ until, after }) =>
    [after ? "begins when another batch has ended" : "", until ? `nothing is to start before ${when(until)}` : ""]
      .filter(Boolean)
      .join(", ") || "waiting for the next attempt",
  limited: ({ until }) =>
    until ? `as many jobs as allowed have been started, the next at ${clock(until)}` : "as many jobs as allowed are running",
};

/** Why nothing moves, or an empty text. */
export const waiting = (reason) => (reason ? (WAITING[reason.reason]?.(reason) ?? "") : "");
