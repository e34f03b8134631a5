// One job: its curves, where it runs, what it printed and what it left.

import { poll } from "./api.js";
import { Chart } from "./chart.js";
import { h, show } from "./dom.js";
import { placement } from "./placement.js";
import { logPanel } from "./log.js";
import { AT_WORK, ENDED, explanation, share, state, timeOf, when } from "./parts.js";
import { bytes, count, duration, number, plural, si, words } from "./words.js";

const LIVE = 2000, WAITING = 3000, FILES = 15000, RESTING = 20000;
const TROUBLES = ["worker_died", "shard_replaced", "checkpoint_failed", "mirror_failed"];

export function jobView(root, id, { signal, trouble }) {
  const address = `api/jobs/${encodeURIComponent(id)}`;
  const known = { job: null, records: null, axis: "seconds" };
  const head = h("div"), progress = h("div"), tiles = h("div"), curves = h("div"), where = h("div"), events = h("div"), files = h("div"), details = h("div");
  const charts = new Map(), chartRow = h("div", { class: "charts" });
  const log = logPanel(`${address}/log`, () => known.job && ENDED.includes(known.job.state), signal, trouble);
  const axis = h("div", { class: "chips small", role: "group", "aria-label": "Curves over" });
  const pieces = [head, progress, tiles, curves, where, events, log.element, files, details];
  show(root, h("p", { class: "crumb" }, h("a", { href: "#/" }, "← Jobs")), h("p", { class: "empty", id: "wait" }, "asking the service …"));
  show(curves, h("div", { class: "title-row" }, h("h2", {}, "Curves"), axis));
  curves.hidden = true;
  curves.append(chartRow);
  let built = false;

  const pace = () => (ENDED.includes(known.job?.state) ? RESTING : AT_WORK.includes(known.job?.state) ? LIVE : WAITING);

  poll(address, (job) => {
    known.job = job;
    if (!built) {
      root.querySelector("#wait")?.remove();
      root.append(...pieces);
      built = true;
    }
    render();
    return pace();
  }, trouble, signal);
  poll(`${address}/records`, (records) => {
    known.records = records;
    render();
    return records.more ? 50 : pace();
  }, trouble, signal);
  poll(`${address}/files`, (listing) => {
    show(files, fileList(listing));
    return ENDED.includes(known.job?.state) ? 4 * FILES : FILES;
  }, trouble, signal);
  const ticking = setInterval(() => { if (!document.hidden && AT_WORK.includes(known.job?.state)) render(); }, 1000);
  signal.addEventListener("abort", () => clearInterval(ticking));

  function render() {
    const { job, records } = known;
    if (!job) return;
    const done = AT_WORK.includes(job.state) ? records?.share_done : null;
    document.title = `${job.id} · ${job.state}${done ? ` ${Math.floor(100 * done)} %` : ""} · Hogshead`;
    show(head, heading(job));
    show(progress, progressLine(job, records));
    show(tiles, tileRow(job, records));
    show(details, more(job));
    if (!records) return;
    show(axis, [["seconds", "time"], ["examples", "examples"]].map(([name, word]) => h("button", {
      type: "button", class: "chip", "aria-pressed": String(known.axis === name), onclick: () => { known.axis = name; render(); },
    }, word)));
    drawCurves(records);
    show(where, placement(records, job));
    show(events, eventList(records));
  }

  let drawn = null;
  function drawCurves(records) {
    if (drawn?.records === records && drawn.axis === known.axis) return;
    drawn = { records, axis: known.axis };
    const { progress: lines, evaluation } = records, isTime = known.axis === "seconds";
    curves.hidden = !lines.seconds.length && !evaluation.seconds.length;
    const marks = isTime ? records.events.filter((event) => TROUBLES.includes(event.event)).map((event) => ({ x: event.seconds, text: `${words(event.event)}: ${event.message}` })) : [];
    const metrics = Object.keys(evaluation.columns).filter((name) => name !== "train loss");
    const loss = values(lines.columns.loss).length > 1 ? ["loss", lines] : ["train loss", evaluation]; // a short run has no other
    const wanted = [
      [...loss, { title: "Training loss", color: "c0", logRatio: 10 }],
      ...metrics.map((name) => [name, evaluation, { title: sentence(name), color: "c1", logRatio: /loss/.test(name) ? 10 : Infinity }]),
      ["examples_per_second", lines, { title: "Examples per second", color: "c2", fromZero: true, text: si }],
      ["staleness", lines, { title: "Staleness, versions", color: "c4", fromZero: true }],
    ];
    if (fell(lines.columns.workers_alive)) wanted.push(["workers_alive", lines, { title: "Workers alive", color: "c3", fromZero: true }]);
    const keys = [], end = Math.max(lines[known.axis].at(-1) ?? 0, evaluation[known.axis].at(-1) ?? 0);
    for (const [name, source, options] of wanted) {
      const key = `${source === lines ? "progress" : "evaluation"} ${name}`;
      keys.push(key);
      if (!charts.has(key)) charts.set(key, new Chart(options));
      const column = source.columns[name] ?? { mean: [] };
      charts.get(key).update({ x: source[known.axis], mean: column.mean, low: column.low, high: column.high, end, isTime, marks });
    }
    const elements = keys.map((key) => charts.get(key).element);
    if (elements.some((element, index) => chartRow.children[index] !== element) || elements.length !== chartRow.children.length) {
      chartRow.replaceChildren(...elements);
    }
  }
}

function heading(job) {
  const what = [job.strategy, job.task].filter(Boolean).join(" on "), why = explanation(job);
  const facts = [
    what,
    job.started_at ? ["started ", when(job.started_at)] : ["submitted ", when(job.submitted_at)],
    job.started_at && job.ended_at && `took ${duration(timeOf(job))}`,
    job.attempt > 1 && `attempt ${job.attempt} of ${job.most_attempts}`,
    job.priority !== 0 && `priority ${job.priority}`,
    job.wish === "kill" ? "asked to end at once" : job.state === "stopping" && "asked to stop",
  ].filter(Boolean);
  const error = job.state === "failed" && job.summary?.error && !job.reason.includes(job.summary.error) ? job.summary.error : null;
  return [
    h("h1", {}, job.id, state(job.state)),
    h("p", { class: "sub" }, facts.map((fact, index) => [index > 0 && " · ", fact])),
    why && h("p", { class: job.state === "failed" ? "error" : "reason" }, why),
    error && h("p", { class: "error" }, error),
  ];
}

function progressLine(job, records) {
  if (!AT_WORK.includes(job.state) || !records) return null;
  const done = records.share_done, latest = records.latest, bound = Object.entries(records.bounds ?? {})[0];
  if (done === null || done === undefined) return null;
  const parts = [`${Math.floor(100 * done)} %`];
  if (bound && latest[bound[0]] !== undefined) {
    const [name, most] = bound, at = latest[name] ?? 0;
    parts.push(name === "epoch" ? `epoch ${at.toFixed(at < 100 ? 1 : 0)} of ${most}` : name === "seconds" ? `${duration(at)} of ${duration(most)}` : `${si(at)} of ${si(most)} ${name}`);
  }
  if (records.seconds_left !== null && job.state === "running") parts.push(`about ${duration(Math.round(records.seconds_left))} left`);
  return h("div", { class: "progress" }, share(done, 1, `${Math.floor(100 * done)} % done`), h("span", {}, parts.join(" · ")));
}

function tileRow(job, records) {
  const latest = records?.latest ?? {}, summary = job.summary ?? {}, ended = ENDED.includes(job.state) && summary.examples !== undefined;
  const evaluation = Object.keys(job.evaluation ?? {}).length ? job.evaluation : newest(records?.evaluation);
  const workers = records?.workers.length || summary.workers;
  const facts = [
    ...Object.entries(evaluation).filter(([name]) => name !== "train loss").map(([name, value]) => [words(name), number(value)]),
    ["training loss", ended ? summary.train_loss : latest.loss, number],
    ["examples/s", ended ? summary.examples_per_second : latest.examples_per_second, si],
    ["staleness", latest.staleness, (value) => number(Number(value.toFixed(2)))],
    ended ? ["workers", summary.workers, count] : ["workers alive", latest.workers_alive, (value) => (workers ? `${count(value)} of ${workers}` : count(value))],
    ["shards", records?.shards.length || summary.shards, count],
    ["examples", ended ? summary.examples : latest.examples, si],
    ["epochs", ended ? summary.epochs : null, (value) => String(Number(value.toFixed(2)))],
    ["deaths of workers", summary.worker_deaths || null, count],
    ["shards replaced", summary.shards_replaced || null, count],
    ["gradients dropped", summary.dropped || null, si],
    [records?.checkpoints === 1 ? "checkpoint" : "checkpoints", records?.checkpoints || null, count],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "–");
  if (!facts.length) return null;
  return h("div", { class: "tiles" }, facts.map(([name, value, text]) => h("div", { class: "tile", "data-key": name }, h("b", {}, text ? text(value) : value), h("span", {}, name))));
}

function newest(evaluation) {
  const found = {};
  for (const [name, { mean }] of Object.entries(evaluation?.columns ?? {})) {
    if (name !== "train loss" && mean.at(-1) !== null) found[name] = mean.at(-1);
  }
  return found;
}

function eventList(records) {
  const saved = records.checkpoints ? `${plural(records.checkpoints, "checkpoint")} written, the last after ${duration(records.last_checkpoint)}` : "";
  const notes = [saved, records.unreadable && `${plural(records.unreadable, "unreadable line")} left out`, records.more_events > 0 && `${plural(records.more_events, "earlier event")} left out`].filter(Boolean);
  if (!records.events.length && !notes.length) return null;
  return [
    h("h2", {}, "Events"),
    records.events.length > 0 && h("ol", { class: "events", tabindex: 0, "aria-label": "Events, the newest first" }, [...records.events].reverse().map((event) => h("li", { class: TROUBLES.includes(event.event) ? "trouble" : "" },
      h("span", { class: "at" }, duration(event.seconds)), h("b", {}, words(event.event)), h("span", { class: "message" }, event.message)))),
    notes.length > 0 && h("p", { class: "note" }, notes.join(" · ")),
  ];
}

function fileList({ files, more }) {
  if (!files.length) return null;
  const report = files.find((file) => file.path === "report.html"), groups = new Map();
  for (const file of files) {
    const folder = file.path.includes("/") ? file.path.slice(0, file.path.lastIndexOf("/")) : "";
    groups.set(folder, [...(groups.get(folder) ?? []), file]);
  }
  return [
    h("div", { class: "title-row" }, h("h2", {}, "Files"), report && h("a", { class: "button", href: report.href, target: "_blank", rel: "noopener" }, "Open report")),
    h("div", { class: "files" }, [...groups].map(([folder, inside]) => (folder
      ? h("details", { "data-key": folder }, h("summary", {}, `${folder}/ `, h("span", { class: "soft" }, `${plural(inside.length, "file")}, ${bytes(inside.reduce((sum, file) => sum + file.size, 0))}`)), fileRows(inside, folder))
      : fileRows(inside, folder)))),
    h("p", { class: "note" }, more ? "There are more files than these. " : "", "All of them: ", h("code", {}, "hogshead fetch")),
  ];
}

function fileRows(files, folder) {
  return h("ul", { class: "file-list" }, files.map((file) => h("li", { "data-key": file.path },
    h("a", { href: file.href, target: "_blank", rel: "noopener" }, folder ? file.path.slice(folder.length + 1) : file.path),
    h("span", { class: "soft" }, bytes(file.size)),
    h("a", { class: "get", href: `${file.href}&download`, download: "", "aria-label": `Download ${file.path}` }, "Download"))));
}

function more(job) {
  const commands = ENDED.includes(job.state)
    ? [`hogshead fetch ${job.id}`, `hogshead resume ${job.id}`, `hogshead delete ${job.id}`]
    : [`hogshead watch ${job.id}`, `hogshead logs ${job.id} -f`, `hogshead stop ${job.id}`];
  const takes = [`${si(job.cpus)} CPUs`, job.gpus > 0 && `${si(job.gpus)} GPUs`, job.memory_bytes > 0 && bytes(job.memory_bytes)].filter(Boolean).join(", ");
  const lost = job.on_loss === "resume" ? `is resumed, up to ${plural(job.most_attempts, "attempt")} in all` : "counts as failed";
  return [
    h("h2", {}, "Job"),
    h("p", { class: "note wide" }, `It takes ${takes} of the cluster while it runs. Lost with the cluster, it ${lost}.`),
    job.overrides.length > 0 && h("p", { class: "note wide" }, "Set at submission: ", job.overrides.map((text, index) => [index > 0 && ", ", h("code", {}, text)])),
    h("details", {}, h("summary", {}, "As submitted"), h("pre", { tabindex: 0 }, job.toml)),
    h("details", {}, h("summary", {}, "Commands for it"), h("pre", { tabindex: 0 }, commands.join("\n"))),
  ];
}

const values = (column) => (column?.mean ?? []).filter((value) => value !== null);

// Whether there were ever fewer than before.
function fell(column) {
  let most = 0;
  return (column?.mean ?? []).some((value, index) => {
    if (value === null) return false;
    most = Math.max(most, column.high?.[index] ?? value);
    return (column.low?.[index] ?? value) < most && most > 0 && index > 0 && value < most;
  });
}

const sentence = (name) => {
  const text = words(name);
  return text.charAt(0).toUpperCase() + text.slice(1);
};
