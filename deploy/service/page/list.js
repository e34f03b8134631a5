// The list of jobs, and what the cluster has.

import { get, poll, now } from "./api.js";
import { h, show } from "./dom.js";
import { sparkline } from "./chart.js";
import { AT_WORK, explanation, jobLink, share, state, timing } from "./parts.js";
import { bytes, count, number, plural, si, words } from "./words.js";

const STATES = ["", "queued", "running", "succeeded", "failed", "stopped"];
const LIVE = 2000, QUIET = 5000;

export function listView(root, { signal, trouble }) {
  document.title = "Jobs · Hogshead";
  const shown = { state: "", text: "", newest: [], older: [], next: "", cluster: null, loaded: false, active: {} };
  const cluster = h("div", { class: "cluster" }), chips = h("div", { class: "chips", role: "group", "aria-label": "Show jobs that are" });
  const rows = h("div", { class: "rows" }), foot = h("div", { class: "foot" });
  const search = h("input", {
    type: "search", placeholder: "Find a job", "aria-label": "Find jobs by name, task or strategy",
    oninput: () => { shown.text = search.value.trim().toLowerCase(); render(); },
  });
  show(root, h("h1", {}, "Jobs"), cluster, h("div", { class: "tools" }, chips, search), rows, foot);

  const query = (before = "") => {
    const asked = new URLSearchParams();
    for (const name of shown.state === "running" ? AT_WORK : shown.state ? [shown.state] : []) asked.append("state", name);
    if (before) asked.set("before", before);
    const text = asked.toString();
    return text ? `api/jobs?${text}` : "api/jobs";
  };

  let following = null;
  const follow = () => {
    following?.abort();
    following = new AbortController();
    const both = AbortSignal.any([signal, following.signal]);
    poll(() => query(), (data) => {
      Object.assign(shown, { newest: data.jobs, cluster: data.cluster, active: data.active, loaded: true });
      if (!shown.older.length) shown.next = data.next;
      render();
      return Object.keys(data.active).length ? LIVE : QUIET;
    }, trouble, both);
  };

  const choose = (name) => {
    Object.assign(shown, { state: name, older: [], next: "", loaded: false });
    render();
    follow();
  };

  const more = async (event) => {
    const button = event.currentTarget;
    button.disabled = true;
    try {
      const { data } = await get(query(shown.next), { signal });
      shown.older.push(...data.jobs);
      shown.next = data.next;
      render();
    } catch (error) {
      if (!signal.aborted) trouble(error);
    }
    button.disabled = false;
  };

  function render() {
    show(cluster, shown.cluster && clusterLine(shown.cluster));
    show(chips, STATES.map((name) => {
      const of = name === "running" ? AT_WORK : [name], many = of.reduce((sum, one) => sum + (shown.active[one] ?? 0), 0);
      return h("button", { type: "button", class: "chip", "aria-pressed": String(shown.state === name), onclick: () => choose(name) },
        name || "all", many > 0 && h("span", { class: "many" }, ` ${many}`));
    }));
    const known = new Set(), jobs = [...shown.newest, ...shown.older].filter((job) => !known.has(job.id) && known.add(job.id));
    const found = jobs.filter((job) => `${job.id} ${job.strategy} ${job.task}`.toLowerCase().includes(shown.text));
    show(rows, found.length ? table(found) : shown.loaded ? nothing(jobs.length) : h("p", { class: "empty" }, "asking the service …"));
    show(foot, shown.next && h("button", { type: "button", class: "plain", onclick: more }, "Show older jobs"),
      found.length > 0 && h("p", { class: "note" }, plural(found.length, "job"), shown.next ? ", and older ones" : ""));
  }

  function nothing(others) {
    if (others) return h("p", { class: "empty" }, "No job matches that.");
    if (shown.state) return h("p", { class: "empty" }, `No job is ${shown.state}.`);
    return h("div", { class: "welcome" }, h("h2", {}, "No jobs yet"),
      h("p", {}, "Hand one in, and it shows up here while it trains:"),
      h("pre", {}, "hogshead submit examples/digits_easgd.toml --follow"));
  }

  render();
  follow();
  const ticking = setInterval(() => { if (!document.hidden && shown.loaded) render(); }, 10000); // "2 minutes ago"
  signal.addEventListener("abort", () => clearInterval(ticking));
}

function clusterLine(cluster) {
  if (cluster.reachable === null) return null;
  if (!cluster.reachable) {
    return h("p", { class: "warning" }, h("b", {}, "The cluster does not answer. "), cluster.reason, " Jobs wait until it does.");
  }
  const total = (name) => cluster.nodes.reduce((sum, node) => sum + (node[name] ?? 0), 0);
  const taken = (name, text) => (name === "memory_bytes" && !cluster.taken[name] ? text(total(name)) : `${text(cluster.taken[name])} of ${text(total(name))} taken`);
  const facts = [["cpus", "CPUs", si], ["gpus", "GPUs", si], ["memory_bytes", "memory", bytes]];
  return h("dl", { class: "facts" },
    h("div", {}, h("dt", {}, "cluster"), h("dd", {}, plural(cluster.nodes.length, "node"))),
    facts.filter(([name]) => total(name) > 0).map(([name, word, text]) => h("div", {},
      h("dt", {}, word), h("dd", {}, taken(name, text),
        (name !== "memory_bytes" || cluster.taken[name] > 0) && share(cluster.taken[name], total(name), `${taken(name, text)} ${word}`)))));
}

function table(jobs) {
  const heads = ["job", "state", "loss", "evaluation", "examples/s", "time"];
  return h("div", { class: "jobs", role: "table", "aria-label": "Jobs, the newest first" },
    h("div", { class: "head", role: "row" }, heads.map((name) => h("span", { role: "columnheader" }, name))),
    jobs.map(row));
}

function row(job) {
  const latest = job.latest ?? {}, metric = chosen(job.evaluation), atWork = AT_WORK.includes(job.state), why = explanation(job);
  const what = [job.strategy, job.task].filter(Boolean).join(" on ");
  const done = job.share_done ?? null, empty = !job.curve && !metric && !latest.examples;
  return h("div", { class: `job ${job.state === "failed" ? "bad" : ""}`, role: "row", "data-key": job.id },
    h("div", { role: "cell", class: "name" }, h("a", { href: jobLink(job.id) }, job.id),
      h("span", { class: "soft" }, what, job.priority ? `, priority ${job.priority}` : "")),
    h("div", { role: "cell", class: empty ? "where wide" : "where", "aria-colspan": empty ? 4 : null }, state(job.state),
      atWork && done !== null && h("span", { class: "done-share" }, share(done, 1, `${Math.floor(100 * done)} % done`), `${Math.floor(100 * done)} %`),
      why && !(job.state === "succeeded") && h("span", { class: "why", title: why }, why)),
    !empty && [h("div", { role: "cell", class: "loss" }, job.curve?.length > 1 && sparkline(job.curve, "training loss so far"),
      h("span", { class: "figure" }, latest.loss === undefined ? "" : number(latest.loss), latest.loss !== undefined && h("span", { class: "label" }, " loss"))),
    h("div", { role: "cell", class: "metric" }, metric && [h("span", { class: "figure" }, number(metric[1])), " ", h("span", { class: "soft" }, words(metric[0]))]),
    h("div", { role: "cell", class: "rate" }, atWork && latest.examples_per_second > 0 && [si(latest.examples_per_second), h("span", { class: "label" }, " examples/s")])],
    h("div", { role: "cell", class: "time soft" }, timing(job)));
}

// The metric that says most to a person.
function chosen(evaluation) {
  const entries = Object.entries(evaluation ?? {}).filter(([, value]) => value !== null);
  return entries.find(([name]) => /accuracy|auc|f1|score/i.test(name)) ?? entries.find(([name]) => !/loss/i.test(name)) ?? entries[0];
}
