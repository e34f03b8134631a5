"""A job: what to train, on what, how, and when to stop. Read from TOML, overridden on the command line, saved resolved.

Precedence: command line (``--set section.key=value``) over the file over the defaults. Everything that can be checked
without reading data is checked here, and every refusal names the section, the key, what was got and the nearest valid
name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deploy.cluster.ray_data import require_ray, with_arrays, with_placed
from deploy.cluster.section import ClusterSection
from deploy.resolve import read_toml, resolve
from deploy.sections import (
    BACKENDS,
    FIXED_SECTIONS,
    AdmissionSection,
    CheckpointSection,
    DataSection,
    EvaluationSection,
    ShardsSection,
    StopSection,
    StrategySection,
    TaskSection,
    WorkersSection,
)
from deploy.service.section import ServiceSection
from deploy.simulator.section import SimulationSection, check_against
from ps.errors import JobError, UsageError, meant


@dataclass(frozen=True)
class Job:
    """A resolved job; build it with ``load_job`` or ``Job.from_dict``.

    Attributes:
      task: what is learned.
      strategy: how a replica combines local steps with pull, push and exchange; options complete.
      rule: the server's rule as ``ps.rules.build_rule`` takes it, defaults filled in; None where the strategy has none.
      local_rule: a replica's rule, likewise.
      name: names the run directory; the job file's stem.
      seed: of every random choice, >= 0.
      backend: ``"processes"``, ``"ray"`` or ``"simulation"``.
      record: keep the order of all pulls, pushes and exchanges in the run directory.
      tensorboard: write TensorBoard's event files into the run directory.
      run: run directory asked for, or None for ``runs/<name>-<number>``; relative to the working directory.
      path: the file the job came from, absolute, or None. Not part of the job's identity.
      resume: go on from the checkpoint in ``run``. Not saved.
    """

    task: TaskSection
    strategy: StrategySection
    data: DataSection = field(default_factory=DataSection)
    rule: dict[str, Any] | None = None
    local_rule: dict[str, Any] | None = None
    workers: WorkersSection = field(default_factory=WorkersSection)
    shards: ShardsSection = field(default_factory=ShardsSection)
    admission: AdmissionSection = field(default_factory=AdmissionSection)
    stop: StopSection = field(default_factory=StopSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    simulation: SimulationSection = field(default_factory=SimulationSection)
    cluster: ClusterSection = field(default_factory=ClusterSection)
    service: ServiceSection = field(default_factory=ServiceSection)
    name: str = "job"
    seed: int = 0
    backend: str = "processes"
    record: bool = False
    tensorboard: bool = False
    run: str | None = field(default=None, compare=False)
    path: str | None = field(default=None, compare=False)
    resume: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise JobError(f"seed must be >= 0, got {self.seed}")
        if self.backend not in BACKENDS:
            known = ", ".join(map(repr, BACKENDS))
            raise JobError(f"backend must be one of {known}, got {self.backend!r}{meant(self.backend, BACKENDS)}")
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise JobError(f"name must be usable as a folder's name, got {self.name!r}")
        check_against(self.simulation, self.workers.count, self.shards.count)

    @classmethod
    def from_dict(
        cls,
        document: Mapping[str, Any],
        *,
        overrides: Sequence[str] = (),
        folder: str | Path | None = None,
        name: str = "job",
        path: str | None = None,
    ) -> Job:
        """Check and resolve a job given as nested tables.

        Args:
          document: the tables of a job file; ``[task] name`` may also be a class defined in a file, and an option of the task
            a Ray Data set (see ``deploy.cluster.ray_data``).
          overrides: ``"section.key=value"`` with a TOML value (a bare word is a string); an empty one removes the key.
          folder: what relative paths in the document are relative to; the working directory if None. Relative paths in
            ``overrides`` are relative to the working directory.
          name: name of the job unless the document has one.
          path: file that the document came from, for the record.

        Raises:
          JobError: anything wrong with the job; the message names section and key.
        """
        job = cls(path=path, **resolve(with_placed(document), overrides, Path(folder or "."), name))
        require_ray(job)
        _refuse_bytes(job.to_dict())
        return job

    def to_dict(self) -> dict[str, Any]:
        """Nested tables that ``from_dict`` reads back as an equal job; paths are absolute."""
        tables: dict[str, Any] = {"name": self.name, "seed": self.seed, "backend": self.backend}
        tables |= {name: True for name in ("record", "tensorboard") if getattr(self, name)}
        tables["task"] = {"name": self.task.name, **self.task.options}
        tables["data"] = self.data.to_table()
        tables["strategy"] = {"name": self.strategy.name, **self.strategy.options}
        tables |= {part: dict(rule) for part in ("rule", "local_rule") if (rule := getattr(self, part)) is not None}
        tables |= {part: getattr(self, part).to_table() for part in FIXED_SECTIONS if part != "data"}
        if self.backend != "simulation" and self.simulation == SimulationSection():
            del tables["simulation"]
        if self.backend != "ray" and self.cluster == ClusterSection():
            del tables["cluster"]
        if self.service == ServiceSection():
            del tables["service"]
        return _without_none(tables)

    def to_toml(self) -> str:
        """The resolved job as TOML."""
        import tomli_w

        return tomli_w.dumps(self.to_dict())

    @property
    def task_options(self) -> dict[str, Any]:
        """Keyword arguments of the task's constructor: the task's own keys of ``[data]`` and ``[task]``."""
        return {**self.data.options, **self.task.options}

    @property
    def on_nonfinite(self) -> str:
        """``"stop"`` or ``"skip"``, from ``[stop]``."""
        return self.stop.on_nonfinite

    def build_task(self) -> Any:
        """Construct the task (reads its data, fetched to this host where it is behind a URL)."""
        from worker.data.fetch import fetched
        from worker.tasks import task_class

        cls = task_class(self.task.name)
        return cls(**fetched(with_arrays(self.task_options), getattr(cls, "paths", ())))

    def build_strategy(self) -> Any:
        """Construct the strategy from its options."""
        from worker.strategies import STRATEGIES

        return STRATEGIES[self.strategy.name](**self.strategy.options)

    def build_rule(self) -> Any:
        """The server's rule, or None."""
        return _build_rule(self.rule)

    def build_local_rule(self) -> Any:
        """The replica's rule, or None."""
        return _build_rule(self.local_rule)

    def with_backend(self, backend: str) -> Job:
        """The same job, to be run elsewhere."""
        return self if self.backend == backend else replace(self, backend=backend)

    def with_run(self, run: str | Path, *, resume: bool = False) -> Job:
        """The same job, to be run in (or resumed from) this directory."""
        return replace(self, run=str(run), resume=resume)


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read a job file.

    Args:
      path: a TOML file.
      overrides: ``["strategy.tau=16", ...]``, see ``Job.from_dict``.

    Raises:
      JobError: the file cannot be read, is not TOML (line and column), or says something wrong.
    """
    path = Path(path)
    document = read_toml(path)
    try:
        return Job.from_dict(
            document, overrides=overrides, folder=path.resolve().parent, name=path.stem, path=str(path.resolve())
        )
    except UsageError as error:
        raise JobError(f"{path}: {error}") from error


def _build_rule(config: Mapping[str, Any] | None) -> Any:
    if config is None:
        return None
    from ps.rules import build_rule

    return build_rule(config)


def _without_none(value: Any) -> Any:
    """``value`` without unset keys, tuples as lists: what TOML can hold."""
    if isinstance(value, Mapping):
        return {name: _without_none(entry) for name, entry in value.items() if entry is not None}
    return [_without_none(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _refuse_bytes(tables: Mapping[str, Any], section: str = "") -> None:
    """Raise JobError for the name of a file that is not UTF-8: the job is saved beside its run, and TOML is UTF-8."""
    for key, value in tables.items():
        if isinstance(value, Mapping):
            _refuse_bytes(value, section or key)
        elif isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                where = f"[{section}] {key}" if section else key
                raise JobError(
                    f"{where}: {value!r} is not UTF-8, as a job must be; rename the file or folder"
                ) from None
