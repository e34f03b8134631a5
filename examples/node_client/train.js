// Trains a linear model, y = x · weights + bias, beside the replicas of a running job: Downpour SGD in its simplest form.
//
//   node train.js RUN/endpoints.json EXAMPLES.csv [--steps N] [--batch N] [--replica ID]
//
// EXAMPLES.csv has one example a line: the features, then the target. Prints one line of JSON at the end.

import { existsSync, readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { Center } from "./center.js";

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    steps: { type: "string", default: "500" },
    batch: { type: "string", default: "32" },
    replica: { type: "string" },
  },
});
if (positionals.length !== 2) {
  console.error("usage: node train.js RUN/endpoints.json EXAMPLES.csv [--steps N] [--batch N] [--replica ID]");
  process.exit(2);
}

const [endpoints, file] = positionals;
const examples = readFileSync(file, "utf8").trim().split("\n").map((line) => line.split(",").map(Number));

/** Mean gradient of half the squared error over a batch, into `gradient`; returns the mean loss. */
function differentiate({ weights, bias }, batch, gradient) {
  gradient.weights.fill(0);
  gradient.bias.fill(0);
  let loss = 0;
  for (const example of batch) {
    let gap = bias[0] - example[weights.length];
    for (let i = 0; i < weights.length; i++) gap += weights[i] * example[i];
    for (let i = 0; i < weights.length; i++) gradient.weights[i] += (gap * example[i]) / batch.length;
    gradient.bias[0] += gap / batch.length;
    loss += (0.5 * gap * gap) / batch.length;
  }
  return loss;
}

if (!existsSync(endpoints)) {
  console.error(`${endpoints} is not there: a job on a cluster writes it once its shards are served, and removes it at its end`);
  process.exit(1);
}
const center = new Center(endpoints, options.replica === undefined ? undefined : Number(options.replica));
const vector = center.vector();
const gradient = center.vector();
const [parameters, slopes] = [center.parameters(vector), center.parameters(gradient)];
if (parameters.weights?.length !== examples[0].length - 1 || parameters.bias?.length !== 1) {
  throw new Error(`the job's parameters are not weights (${examples[0].length - 1},) and bias (1,)`);
}

const size = Number(options.batch);
const summary = { replica: center.replica, steps: Number(options.steps), duplicates: 0, largest_staleness: 0 };
for (let step = 0; step < summary.steps; step++) {
  const versions = await center.pull(vector);
  const first = (step * size) % examples.length;
  const loss = differentiate(parameters, examples.slice(first, first + size), slopes);
  for (const answer of await center.push(gradient, versions)) {
    summary.duplicates += answer.duplicate ? 1 : 0;
    summary.largest_staleness = Math.max(summary.largest_staleness, answer.staleness);
  }
  summary.first_loss ??= loss;
  summary.last_loss = loss;
}
center.close();
console.log(JSON.stringify(summary));
