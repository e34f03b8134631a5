"""Metrics of a run for Prometheus, through Ray: each node's metrics endpoint serves what was recorded on it.

All names begin with ``ray_hogshead_``, as Ray puts its own name before ours; counters end in ``_total``. Tags: ``job`` (the
run) always, and ``replica``, ``shard``, ``node`` (the beginning of Ray's node id), ``transport`` (how a replica reaches the
shards; two are joined by "+"), ``metric`` or ``direction`` where they apply.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from deploy.sinks import Events, Record

# name -> (kind, tags besides job, meaning)
_METRICS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "loss": ("gauge", (), "mean training loss since the last record"),
    "epoch": ("gauge", (), "passes over the training examples"),
    "examples": ("counter", (), "training examples seen"),
    "steps": ("counter", (), "local steps of all replicas"),
    "updates": ("counter", (), "updates that shards have applied"),
    "examples_per_second": ("gauge", (), "of all replicas, since the last record"),
    "staleness": ("gauge", (), "mean staleness of the updates since the last record"),
    "workers_alive": ("gauge", (), "replicas that train"),
    "deaths": ("counter", (), "replicas that died"),
    "shards_replaced": ("counter", (), "shards that were started again"),
    "checkpoints": ("counter", (), "checkpoints written"),
    "checkpoint_failures": ("counter", (), "checkpoints that could not be written, or not be mirrored"),
    "checkpoint_age_seconds": ("gauge", (), "since the newest checkpoint, or since the start"),
    "evaluation": ("gauge", ("metric",), "the last evaluation of the center"),
    "replica_examples": ("counter", ("replica", "node", "transport"), "training examples of one replica"),
    "replica_examples_per_second": ("gauge", ("replica", "node", "transport"), "of one replica"),
    "replica_staleness": ("gauge", ("replica", "node", "transport"), "mean staleness of one replica's updates"),
    "staleness_seen": ("histogram", (), "mean staleness of each replica's updates in each record"),
    "shard_version": ("gauge", ("shard", "node"), "updates that the shard has applied since the run began"),
    "shard_pulls": ("counter", ("shard", "node", "transport"), "pulls served"),
    "shard_pushes": ("counter", ("shard", "node", "transport"), "pushes served"),
    "shard_exchanges": ("counter", ("shard", "node", "transport"), "exchanges served"),
    "shard_bytes": ("counter", ("shard", "node", "transport", "direction"), "content received and sent"),
}
_PLAIN_GAUGES = ("loss", "epoch", "examples_per_second", "staleness", "workers_alive")
_EVENTS = {
    "worker_died": "deaths",
    "shard_replaced": "shards_replaced",
    "checkpoint": "checkpoints",
    "checkpoint_failed": "checkpoint_failures",
    "mirror_failed": "checkpoint_failures",
}
_STALENESS_BOUNDS = [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]


class PrometheusSink:
    """Gives each record to Ray's metrics; to be made in a process that is connected to Ray.

    Beside what every launcher records, a progress record may hold ``nodes`` (``worker``, ``node``, ``links``: the transport to
    each shard) and ``shards`` (``shard``, ``node``, ``version`` and, of what it serves to others by gRPC, ``pulls``, ``pushes``,
    ``exchanges``, ``bytes_in``, ``bytes_out``).

    Args:
      job: name of the run.
    """

    name = "prometheus"

    def __init__(self, job: str):
        self._job = job
        self._metrics = {name: _make(name, *facts) for name, facts in _METRICS.items()}
        self._totals: dict[tuple[str, tuple[str, ...]], float] = defaultdict(float)
        self._evaluation: dict[str, float] = {}
        self._saved_at = 0.0

    def record(self, record: Record) -> Events:
        kind = record.get("kind")
        if kind == "progress":
            self._progress(record)
        elif kind == "evaluation":
            self._evaluation = dict(record.get("evaluation") or {})
            self._show_evaluation()
        elif kind == "event":
            self._event(record)
        return ()

    def forget_after(self, examples: int) -> Events:
        return ()

    def finish(self, summary: Record) -> Events:
        self._set("workers_alive", 0)
        return ()

    def close(self) -> Events:
        return ()

    def _progress(self, record: Record) -> None:
        for name in _PLAIN_GAUGES:
            self._set(name, record.get(name))
        for name in ("examples", "steps"):
            self._rise(name, record.get(name))
        self._set("checkpoint_age_seconds", record["seconds"] - self._saved_at)
        places = {place["worker"]: place for place in record.get("nodes") or []}
        for worker in record.get("workers") or []:
            self._worker(worker, places.get(worker["worker"], {}))
        shards = record.get("shards") or []
        for shard in shards:
            self._shard(shard)
        versions = [shard["version"] for shard in shards if shard.get("version") is not None]
        if versions and len(versions) == len(shards):
            self._rise("updates", sum(versions))
        self._show_evaluation()

    def _show_evaluation(self) -> None:
        """Ray serves a gauge only for as long as it is set again and again."""
        for metric, value in self._evaluation.items():
            self._set("evaluation", value, metric=metric)

    def _worker(self, worker: Mapping[str, Any], place: Mapping[str, Any]) -> None:
        transport = "+".join(sorted({link for link in place.get("links") or [] if link}))
        tags = {"replica": str(worker["worker"]), "node": str(place.get("node", "")), "transport": transport}
        self._rise("replica_examples", worker.get("examples"), **tags)
        self._set("replica_examples_per_second", worker.get("examples_per_second"), **tags)
        self._set("replica_staleness", worker.get("staleness"), **tags)
        if worker.get("staleness") is not None:
            self._metrics["staleness_seen"].observe(
                max(worker["staleness"], 1e-9), {"job": self._job}
            )  # not 0, says Ray

    def _shard(self, shard: Mapping[str, Any]) -> None:
        tags = {"shard": str(shard["shard"]), "node": str(shard.get("node", ""))}
        self._set("shard_version", shard.get("version"), **tags)
        for name in ("pulls", "pushes", "exchanges"):
            self._rise(f"shard_{name}", shard.get(name), **tags, transport="gRPC")
        for direction in ("in", "out"):
            self._rise("shard_bytes", shard.get(f"bytes_{direction}"), **tags, transport="gRPC", direction=direction)

    def _event(self, record: Record) -> None:
        event = record.get("event", "")
        if event == "checkpoint":
            self._saved_at = record["seconds"]
            self._set("checkpoint_age_seconds", 0.0)
        if event in _EVENTS:
            self._metrics[_EVENTS[event]].inc(1, {"job": self._job})

    def _set(self, name: str, value: float | None, **tags: str) -> None:
        if value is not None:
            self._metrics[name].set(value, {"job": self._job, **tags})

    def _rise(self, name: str, total: float | None, **tags: str) -> None:
        """Bring a counter up to ``total``; a smaller one than before is of something that has begun to count anew."""
        if total is None:
            return
        key = (name, tuple(tags.values()))
        before, self._totals[key] = self._totals[key], total
        more = total - before if total >= before else total
        if more > 0:
            self._metrics[name].inc(more, {"job": self._job, **tags})


def _make(name: str, kind: str, tags: tuple[str, ...], meaning: str) -> Any:
    from ray.util.metrics import Counter, Gauge, Histogram

    keys = ("job", *tags)
    if kind == "histogram":
        return Histogram(f"hogshead_{name}", meaning, boundaries=_STALENESS_BOUNDS, tag_keys=keys)
    if kind == "counter":
        return Counter(f"hogshead_{name}_total", meaning, tag_keys=keys)
    return Gauge(f"hogshead_{name}", meaning, tag_keys=keys)
