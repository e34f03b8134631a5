// Where a job runs: a card per node, with the shards and the workers that are on it and what each of them does.

import { h } from "./dom.js";
import { share } from "./parts.js";
import { bytes, count, number, plural, si } from "./words.js";

const SHARED = "shared memory";

export function placement({ workers, shards }, job) {
  if (!workers.length && !shards.length) return null;
  const nodes = new Map();
  const on = (name) => {
    if (!nodes.has(name)) nodes.set(name, { name, workers: [], shards: [] });
    return nodes.get(name);
  };
  for (const shard of shards) on(shard.node).shards.push(shard);
  for (const worker of workers) on(worker.node).workers.push(worker);
  const most = {
    rate: Math.max(0, ...workers.map((worker) => worker.examples_per_second ?? 0)),
    bytes: Math.max(0, ...shards.map(traffic)),
    updates: Math.max(0, ...shards.map((shard) => shard.per_second.version ?? 0)),
  };
  const cards = [...nodes.values()].sort((a, b) => (a.name < b.name ? -1 : 1)).map((node) => card(node, shards.length, most));
  const grpc = shards.some((shard) => (shard.pulls ?? 0) + (shard.pushes ?? 0) + (shard.exchanges ?? 0) > 0);
  const notes = [
    workers.some((worker) => worker.links.length) && [
      "A worker reaches each shard by ", h("i", { class: "link-mark shared" }), " shared memory, on its own node, or ", h("i", { class: "link-mark" }), " gRPC. "],
    grpc && "Pulls, pushes and traffic count what came over gRPC. ",
    "Rates are means over about the last 10 s.",
  ];
  return [
    h("div", { class: "title-row" }, h("h2", {}, "Where it runs"), h("span", { class: "soft" }, summary(nodes, workers, shards))),
    h("div", { class: "nodes" }, cards),
    h("p", { class: "note" }, notes),
  ];
}

const traffic = (shard) => (shard.per_second.bytes_in ?? 0) + (shard.per_second.bytes_out ?? 0);

function summary(nodes, workers, shards) {
  const placed = [...nodes.keys()].filter(Boolean).length;
  return [plural(workers.length, "worker"), shards.length && plural(shards.length, "shard"), placed && `on ${plural(placed, "node")}`].filter(Boolean).join(", ").replace(", on", " on");
}

function card(node, shardCount, most) {
  const address = node.shards.find((shard) => shard.address)?.address.replace(/:\d+$/, "");
  return h("section", { class: "node", "data-key": node.name || "nowhere", "aria-label": node.name ? `node ${node.name}` : "not placed yet" },
    h("h3", {}, node.name ? ["node ", h("code", {}, node.name)] : "not placed yet", address && h("span", { class: "soft" }, ` ${address}`)),
    node.shards.length > 0 && shardTable(node, most),
    node.workers.length > 0 && workerTable(node, shardCount, most));
}

function shardTable({ name, shards }, most) {
  const exchanges = shards.some((shard) => shard.exchanges > 0);
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Shards on node ${name}` }, h("table", { class: "shards" },
    h("thead", {}, h("tr", {}, ["shard", "version", "updates/s", exchanges ? "exchanges/s" : "pulls/s", !exchanges && "pushes/s", "in + out"].filter(Boolean).map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, shards.map((shard) => h("tr", { "data-key": `shard ${shard.shard}` },
      h("th", { scope: "row" }, h("span", { class: "badge shard" }, String(shard.shard))),
      h("td", {}, count(shard.version)),
      h("td", {}, bar(shard.per_second.version, most.updates, "updates/s")),
      exchanges ? h("td", {}, si(shard.per_second.exchanges)) : [h("td", {}, si(shard.per_second.pulls)), h("td", {}, si(shard.per_second.pushes))],
      h("td", {}, `${bytes(traffic(shard))}/s`))))));
}

function workerTable({ name, workers }, shardCount, most) {
  const linked = workers.some((worker) => worker.links.length);
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Workers on node ${name}` }, h("table", {},
    h("thead", {}, h("tr", {}, ["worker", "examples/s", "staleness", "examples", linked && "links"].filter(Boolean).map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, workers.map((worker) => h("tr", { "data-key": `worker ${worker.worker}` },
      h("th", { scope: "row" }, h("span", { class: "badge worker" }, String(worker.worker))),
      h("td", {}, bar(worker.examples_per_second, most.rate, "examples/s")),
      h("td", {}, worker.staleness === null ? "–" : number(Number(worker.staleness.toFixed(2)))),
      h("td", {}, si(worker.examples)),
      linked && h("td", {}, links(worker.links, shardCount)))))));
}

const bar = (value, most, unit) => h("span", { class: "bar-cell" }, share(value ?? 0, most, `${si(value)} ${unit}`), h("span", { class: "figure" }, si(value)));

function links(used, shardCount) {
  if (!used.length) return "–";
  const shared = used.filter((link) => link === SHARED).length;
  const name = [shared && `${plural(shared, "shard")} by shared memory`, used.length > shared && `${plural(used.length - shared, "shard")} by gRPC`].filter(Boolean).join(", ");
  if (used.length > 12) return `${shared} of ${shardCount || used.length} shared`;
  return h("span", { class: "links", role: "img", "aria-label": name, title: name }, used.map((link) => h("i", { class: `link-mark ${link === SHARED ? "shared" : ""}` })));
}
