// Pieces that both views show.

import { h } from "./dom.js";
import { now } from "./api.js";
import { ago, date, duration } from "./words.js";

export const AT_WORK = ["starting", "running", "stopping"];
export const ENDED = ["succeeded", "failed", "stopped"];

export const state = (name) => h("span", { class: `state ${name}` }, name);

export const jobLink = (id) => `#/jobs/${encodeURIComponent(id)}`;

export const when = (seconds) => h("time", { datetime: new Date(seconds * 1000).toISOString(), title: date(seconds) }, ago(now() - seconds));

export const share = (part, whole, name) => {
  const value = whole > 0 ? Math.min(1, Math.max(0, part / whole)) : 0;
  return h("span", { class: "bar-track", role: "img", "aria-label": name, style: { "--share": value.toFixed(4) } }, h("i"));
};

// How long a job has been at work, or was.
export function timeOf(job) {
  if (!job.started_at) return null;
  return Math.max(0, (job.ended_at ?? now()) - job.started_at);
}

// In one phrase: since when, for how long.
export function timing(job) {
  if (ENDED.includes(job.state) && job.ended_at) {
    const lasted = timeOf(job);
    return [when(job.ended_at), lasted !== null && h("span", { class: "took" }, `took ${duration(lasted)}`)];
  }
  if (job.started_at) return [`for ${duration(Math.round(timeOf(job)))}`];
  return ["submitted ", when(job.submitted_at)];
}

// What a job that does not train has to say for itself.
export function explanation(job) {
  if (job.state === "queued" && job.queue_position) {
    const place = job.queue_position === 1 ? "next in the queue" : `number ${job.queue_position} in the queue`;
    return job.reason ? `${place}: ${job.reason}` : place;
  }
  return job.reason;
}
