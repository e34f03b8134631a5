"""The sections of a job that are the same for every task and strategy: keys, bounds, defaults and their meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from deploy.cluster.section import ClusterSection
from deploy.schema import Section, check_keys, check_type, key
from deploy.service.section import ServiceSection
from deploy.simulator.section import SimulationSection
from ps.errors import JobError
from worker.data.remote import is_url

MOST = 1_000_000  # workers or shards of a job: lists are made with an entry for each


@dataclass(frozen=True)
class TaskSection:
    """``[task]``: ``name`` of a built-in task or ``path/to/file.py:MyTask``, and the constructor's options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CurriculumSection(Section):
    """``[data.curriculum]``: easy examples first (Zaremba & Sutskever 2014)."""

    section: ClassVar[str] = "data.curriculum"
    strategy: str = key(
        help="sorted: only the easiest share; mixed: part of it from all", one_of=("sorted", "mixed"), example="mixed"
    )
    epochs: int = key(5, help="epochs until all examples take part", at_least=1)
    start: float = key(0.2, help="share of the easiest examples in the first epoch", above=0)
    mix: float = key(0.2, help="mixed: share of draws from all examples", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("start", "mix"):
            if getattr(self, name) > 1:
                raise JobError(f"[data.curriculum] {name} must be <= 1, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class DataSection(Section):
    """``[data]``: the keys of the framework; all others (``options``) go to the task's constructor."""

    section: ClassVar[str] = "data"
    batch_size: int | str = key(32, help="examples per gradient, or 'all'", at_least=1, one_of=("all",))
    shuffle: bool = key(True, help="new order every epoch, from the seed")
    replacement: bool = key(False, help="draw examples with replacement")
    validation: float = key(
        0.0, help="share of the training examples held out to choose and stop by", at_least=0, below=1
    )
    curriculum: dict | None = key(
        None, help="easy examples first: strategy, epochs, start, mix", example={"strategy": "mixed"}
    )
    options: dict = key({}, help="keys that the task takes")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.curriculum:
            object.__setattr__(self, "curriculum", CurriculumSection.from_table(self.curriculum).to_table())
        if self.curriculum and self.replacement:
            raise JobError("[data] curriculum orders the examples of an epoch, so it needs replacement = false")

    @classmethod
    def framework_keys(cls) -> list[str]:
        """The keys that do not go to the task."""
        return [entry.name for entry in fields(cls) if entry.name != "options"]

    def to_table(self) -> dict[str, Any]:
        table = super().to_table()
        return {**{name: value for name, value in table.items() if name != "options"}, **self.options}


@dataclass(frozen=True)
class StrategySection:
    """``[strategy]``: a strategy's name and all its options, defaults filled in."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkersSection(Section):
    """``[workers]``: the processes that train."""

    section: ClassVar[str] = "workers"
    count: int = key(2, help="number of worker processes", at_least=1, at_most=MOST)
    min: int | None = key(
        None, help="ray: train with as few as this many; instead of count", at_least=1, at_most=MOST, example=2
    )
    max: int | None = key(
        None, help="ray: and with as many as this, as nodes join", at_least=1, at_most=MOST, example=16
    )
    follow: bool = key(True, help="ray: alpha = beta / p follows the number of workers; false: p is the highest")
    max_restarts: int = key(3, help="deaths of one worker, or at the same examples, before the job stops", at_least=0)
    stuck_seconds: float | None = key(
        None,
        help="seconds without a step, or in one evaluation, after which a process is replaced; longer than the slowest",
        above=0,
        example=300,
    )
    transfers: str = key(
        "auto",
        help="where pulls and pushes run (auto: inline for one worker; inline where workers wait for each other)",
        one_of=("auto", "inline", "background"),
    )

    @property
    def fewest(self) -> int:
        """Workers without which there is no training."""
        return self.min or self.count

    @property
    def elastic(self) -> bool:
        """The number of workers may change."""
        return self.fewest < self.count

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min is None and self.max is None:
            return
        if self.max is None:
            raise JobError("[workers] max is missing: min and max go together; for a fixed number set count")
        if (self.min or 1) > self.max:
            raise JobError(f"[workers] min must be <= max, got {self.min} and {self.max}")
        object.__setattr__(self, "min", self.min or 1)
        object.__setattr__(self, "count", self.max)


@dataclass(frozen=True)
class ShardsSection(Section):
    """``[shards]``: where the center lives."""

    section: ClassVar[str] = "shards"
    count: int = key(1, help="number of shards, balanced by bytes", at_least=1, at_most=MOST)
    apply: str = key("locked", help="one update at a time, or Hogwild!-style", one_of=("locked", "lock_free"))
    reads: str = key("torn", help="whether a pull may see half an update", one_of=("torn", "consistent"))
    memory_bytes: int = key(1 << 30, help="bound on what delay-aware rules remember per job", at_least=0)


@dataclass(frozen=True)
class AdmissionSection(Section):
    """``[admission]``: how far replicas may run apart."""

    section: ClassVar[str] = "admission"
    policy: str = key(
        "asynchronous",
        help="who waits for whom",
        one_of=("asynchronous", "bounded", "synchronous", "backup"),
        example="bounded",
    )
    max_clock_lag: int = key(0, help="bounded: steps that a worker may be ahead of the slowest", at_least=0)
    backups: int = key(1, help="backup: workers beyond those whose gradients make a step", at_least=1)


@dataclass(frozen=True)
class StopSection(Section):
    """``[stop]``: the first bound that is reached ends the run."""

    section: ClassVar[str] = "stop"
    epochs: int | None = key(
        None, help="passes over the training examples (10 if no other bound is set)", at_least=1, example=10
    )
    steps: int | None = key(None, help="local steps of all workers together", at_least=1, example=10000)
    examples: int | None = key(None, help="training examples", at_least=1, example=1000000)
    seconds: float | None = key(None, help="wall-clock seconds of training", above=0, example=60)
    patience: int | None = key(None, help="evaluations without a better metric before stopping", at_least=1, example=3)
    metric: str | None = key(None, help="metric for patience, target and best", example="test_accuracy")
    mode: str = key(
        "auto",
        help="whether a smaller or a larger metric is better; auto goes by its name",
        one_of=("auto", "min", "max"),
    )
    target: float | None = key(None, help="stop when the metric is this good", example=0.95)
    on_nonfinite: str = key(
        "stop", help="a NaN or infinity: stop, or skip that gradient and count it", one_of=("stop", "skip")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is None and self.steps is None and self.examples is None and self.seconds is None:
            object.__setattr__(self, "epochs", 10)


@dataclass(frozen=True)
class EvaluationSection(Section):
    """``[evaluation]``: when the center is evaluated besides the end."""

    section: ClassVar[str] = "evaluation"
    every_epochs: int = key(1, help="evaluate after this many epochs; 0: only at the end", at_least=0)
    every_seconds: float | None = key(None, help="evaluate after this many seconds", above=0, example=30)


@dataclass(frozen=True)
class CheckpointSection(Section):
    """``[checkpoint]``: when the state is saved besides the end."""

    section: ClassVar[str] = "checkpoint"
    every_epochs: int = key(0, help="save after this many epochs; 0: by the clock only", at_least=0)
    every_seconds: float | None = key(30.0, help="save after this many seconds", above=0, example=300)
    keep: int = key(3, help="checkpoints kept", at_least=1)
    url: str | None = key(None, help="folder behind a URL that gets a copy of each (fsspec)", example="s3://bucket/run")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.url is not None and not is_url(self.url):
            raise JobError(f"[checkpoint] url must be a URL, e.g. url = 's3://bucket/run', got {self.url!r}")


FIXED_SECTIONS: dict[str, type[Section]] = {
    section.section: section
    for section in (
        DataSection,
        WorkersSection,
        ShardsSection,
        AdmissionSection,
        StopSection,
        EvaluationSection,
        CheckpointSection,
        SimulationSection,
        ClusterSection,
        ServiceSection,
    )
}
NAMED_SECTIONS = ("task", "strategy", "rule", "local_rule")  # have a name; a bare string is short for it
TOP_LEVEL = {"name": str, "seed": int, "backend": str, "run": str, "record": bool, "tensorboard": bool}
BACKENDS = ("processes", "ray", "simulation")


def check_top_level(document: Mapping[str, Any]) -> dict[str, Any]:
    """The checked keys that stand outside the sections; refuses unknown sections and keys."""
    elsewhere = {
        entry.name: name
        for name, section in FIXED_SECTIONS.items()
        for entry in fields(section)
        if entry.name != "options"
    }
    check_keys("", document, [*NAMED_SECTIONS, *FIXED_SECTIONS, *TOP_LEVEL], elsewhere)
    examples = {
        "name": "adult",
        "seed": 1,
        "backend": "processes",
        "run": "runs/adult-1",
        "record": True,
        "tensorboard": True,
    }
    return {
        name: check_type("", name, document[name], TOP_LEVEL[name], examples[name])
        for name in TOP_LEVEL
        if name in document
    }
