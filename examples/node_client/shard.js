// One shard of a running job over gRPC: pull and push, as proto/README.md describes them.

import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const SCHEMA = fileURLToPath(new URL("../../proto/parameters.proto", import.meta.url));
const { hogshead } = grpc.loadPackageDefinition(
  protoLoader.loadSync(SCHEMA, { keepCase: true, longs: Number, enums: String, defaults: true }),
);

const CHUNK_BYTES = 1 << 20;
const WINDOW = 8; // pushes that are not answered yet
const DEADLINE_MS = 5_000; // without any answer or chunk
const PATIENCE_MS = 60_000; // of failures in a row
const PASSING = new Set([grpc.status.UNAVAILABLE, grpc.status.DEADLINE_EXCEEDED, grpc.status.CANCELLED]);

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Counts failures in a row; waits before the next try, a random time up to a bound that doubles. */
class Attempts {
  constructor() {
    this.succeeded();
  }

  succeeded() {
    this.count = 0;
  }

  async failed(error) {
    if (!PASSING.has(error.code)) throw error;
    if (this.count === 0) this.since = Date.now();
    if (Date.now() - this.since > PATIENCE_MS) throw error;
    await sleep(Math.random() * Math.min(50 * 2 ** this.count++, 2_000));
  }
}

/** Cancels a call of which nothing has come for DEADLINE_MS while `busy()`. */
function watch(call, busy = () => true) {
  let at = Date.now();
  const timer = setInterval(() => {
    if (!busy()) at = Date.now();
    else if (Date.now() - at > DEADLINE_MS) call.cancel();
  }, DEADLINE_MS / 4);
  return { progress: () => (at = Date.now()), end: () => clearInterval(timer) };
}

export class Shard {
  /**
   * @param index of the shard
   * @param start, stop its half-open range of the flat vector
   * @param dtype "float32" or "float64"
   * @param where gives its address, "HOST:PORT"; asked again after each failure, because a restarted shard has a new one
   * @param token of the job
   * @param tls `grpc.credentials.createSsl(...)`, or nothing where the job does not encrypt
   */
  constructor({ index, start, stop, dtype, where, token, tls }) {
    this.slice = { shard: index, dtype: dtype.toUpperCase(), start, stop };
    this.where = where;
    this.credentials = tls ?? grpc.credentials.createInsecure();
    this.metadata = new grpc.Metadata();
    this.metadata.set("authorization", `Bearer ${token}`);
    this.pending = []; // pushes that are not answered, oldest first
    this.attempts = new Attempts();
  }

  client() {
    this.stub ??= new hogshead.v1.Parameters(this.where(), this.credentials);
    return this.stub;
  }

  /** After a failure: the next call asks where the shard is. */
  drop(stub) {
    if (this.stub === stub) this.stub = undefined;
    stub.close();
  }

  /** Read the center into `out`, a typed array of this shard's size; returns its version. */
  async pull(out) {
    const attempts = new Attempts();
    for (;;) {
      const stub = this.client();
      try {
        return await this.pullOnce(stub, out);
      } catch (error) {
        this.drop(stub);
        await attempts.failed(error);
      }
    }
  }

  async pullOnce(stub, out) {
    const bytes = new Uint8Array(out.buffer, out.byteOffset, out.byteLength);
    const call = stub.Pull({ slice: this.slice }, this.metadata);
    const watched = watch(call);
    let header, filled = 0;
    try {
      for await (const message of call) {
        watched.progress();
        header ??= message.header;
        bytes.set(message.chunk, filled);
        filled += message.chunk.length;
      }
    } finally {
      watched.end();
    }
    if (filled !== bytes.length) throw new Error(`shard ${this.slice.shard}: ${filled} bytes, expected ${bytes.length}`);
    return header.version;
  }

  /**
   * Push a gradient, a typed array of this shard's size that is not written to until it is answered.
   * @returns what the shard answered: { version, staleness, duplicate }. Waits first while the window is full.
   */
  async push(gradient, { stamp, version, count = 1, epoch = 0 }) {
    while (this.pending.length >= WINDOW) await Promise.allSettled([this.pending[0].answered]);
    const header = { slice: this.slice, stamp, version, count, epoch, bytes: gradient.byteLength };
    const content = Buffer.from(gradient.buffer, gradient.byteOffset, gradient.byteLength);
    const push = { header, content };
    push.answered = new Promise((resolve, reject) => Object.assign(push, { resolve, reject }));
    this.pending.push(push);
    if (this.stream) this.send(push);
    else this.open();
    return push.answered;
  }

  send({ header, content }) {
    this.stream.write({ header, chunk: content.subarray(0, CHUNK_BYTES) });
    for (let at = CHUNK_BYTES; at < content.length; at += CHUNK_BYTES) {
      this.stream.write({ chunk: content.subarray(at, at + CHUNK_BYTES) });
    }
  }

  /** Open a stream and send all that is not answered: what the shard has applied already it answers as a duplicate. */
  open() {
    const stub = this.client();
    const stream = stub.Push(this.metadata);
    const watched = watch(stream, () => this.pending.length > 0);
    let over = false;
    const end = (error) => {
      if (over) return;
      over = true;
      watched.end();
      this.stream = undefined;
      this.drop(stub);
      if (this.pending.length > 0) this.again(error);
    };
    stream.on("data", (answer) => {
      watched.progress();
      this.attempts.succeeded();
      this.pending.shift()?.resolve(answer);
    });
    stream.on("error", end);
    stream.on("end", () => end({ code: grpc.status.UNAVAILABLE, message: "the stream was ended" }));
    this.stream = stream;
    for (const push of this.pending) this.send(push);
  }

  /** Try again, or give up: answers come in order, so what was refused is the oldest. */
  async again(error) {
    try {
      await this.attempts.failed(error);
    } catch (refusal) {
      this.pending.shift().reject(refusal);
    }
    if (this.pending.length > 0 && !this.stream) this.open();
  }

  close() {
    this.stream?.end();
    this.stub?.close();
  }
}
