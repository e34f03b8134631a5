// All shards of a running job as one flat vector, and its named parameters.

import { readFileSync } from "node:fs";
import { Shard } from "./shard.js";

const ARRAYS = { float32: Float32Array, float64: Float64Array };

export class Center {
  /**
   * @param endpoints path of the job's endpoints.json
   * @param replica one of the ids that it keeps free; by default the first
   */
  constructor(endpoints, replica) {
    const read = () => JSON.parse(readFileSync(endpoints, "utf8"));
    const { token, layout, shards, replicas } = read();
    this.layout = layout;
    this.replica = replica ?? replicas[0];
    if (this.replica === undefined) throw new Error(`${endpoints}: the job has no room for one more replica`);
    const shard = ({ index, start, stop }) => {
      const where = () => read().shards.find((each) => each.index === index).address;
      return new Shard({ index, start, stop, dtype: layout.dtype, where, token });
    };
    this.shards = [...shards].sort((a, b) => a.index - b.index).map(shard);
    this.size = this.shards.at(-1).slice.stop;
    this.incarnation = Date.now(); // later than that of any process that was this replica before
    this.sequence = 0;
  }

  /** A flat vector, zeros. */
  vector() {
    return new ARRAYS[this.layout.dtype](this.size);
  }

  /** Each parameter of a flat vector, as a view: { name: typed array }. */
  parameters(vector) {
    const views = {};
    let at = 0;
    for (const { name, shape } of this.layout.parameters) {
      const size = shape.reduce((product, length) => product * length, 1);
      views[name] = vector.subarray(at, (at += size));
    }
    return views;
  }

  /** Read the center into `vector`; returns the versions of the shards. */
  pull(vector) {
    return Promise.all(this.shards.map((shard) => shard.pull(vector.subarray(shard.slice.start, shard.slice.stop))));
  }

  /** Push a flat gradient that was taken at these versions; returns what the shards answered. */
  push(gradient, versions) {
    const stamp = { replica: this.replica, incarnation: this.incarnation, sequence: ++this.sequence };
    const part = ({ slice }) => gradient.subarray(slice.start, slice.stop);
    return Promise.all(
      this.shards.map((shard, index) => shard.push(part(shard), { stamp, version: versions[index] })),
    );
  }

  close() {
    for (const shard of this.shards) shard.close();
  }
}
