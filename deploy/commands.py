"""What each command of ``hogshead`` does, given its parsed arguments; returns the exit code."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import MISSING, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from deploy.exit_codes import DONE, FAILED, INTERRUPTED
from deploy.job import Job, load_job
from deploy.progress import observer_for
from deploy.schema import bound_text
from deploy.sections import FIXED_SECTIONS, CurriculumSection
from deploy.words import plural, short_path
from ps.errors import UsageError, nearest
from worker.data.remote import is_url

EXIT_CODES = {"done": DONE, "failed": FAILED, "interrupted": INTERRUPTED, "running": DONE}


def train(arguments: Namespace) -> int:
    """Run a job, or go on with one."""
    job = job_from(arguments)
    if arguments.dry_run:
        print(job.to_toml(), end="")
        return DONE
    from deploy.launchers import run

    with observer_for(job, quiet=arguments.quiet, json=arguments.json) as observer:
        result = run(job, observer)
    return EXIT_CODES.get(result.summary["status"], FAILED)


def job_from(arguments: Namespace) -> Job:
    """The job that the arguments of ``train`` ask for.

    Raises:
      UsageError: neither a job nor a run to resume, or anything wrong with the job.
      RunDirectoryError: the run to resume is not a run directory.
      CheckpointError: the URL to resume from has no whole checkpoint.
    """
    resumes_url = is_url(arguments.resume)
    if arguments.run and arguments.resume and not resumes_url:
        raise UsageError("--run and --resume exclude each other: a resumed run stays in its directory")
    if not arguments.job and not arguments.resume:
        raise UsageError("train needs a job file, e.g. `hogshead train examples/adult_hogwild.toml`, or --resume RUN")
    overrides = list(arguments.overrides)
    overrides += [f"workers.count={arguments.workers}"] if arguments.workers is not None else []
    if arguments.address is not None:
        overrides += ["backend=ray", f'cluster.address="{arguments.address}"']
    overrides += ["cluster.detach=true"] if arguments.detach else []
    overrides += [f"seed={arguments.seed}"] if arguments.seed is not None else []
    overrides += [f"backend={arguments.backend}"] if arguments.backend is not None else []
    if resumes_url:
        from deploy.resuming import job_of_mirror

        return job_of_mirror(arguments.resume, arguments.job, overrides, arguments.run)
    if arguments.resume:
        from deploy.run_directory import require_run

        saved = require_run(arguments.resume) / "job.toml"
        return load_job(arguments.job or saved, overrides).with_run(arguments.resume, resume=True)
    job = load_job(arguments.job, overrides)
    if arguments.detach and job.backend != "ray":
        raise UsageError("--detach needs a cluster: give its --address")
    return job.with_run(arguments.run) if arguments.run else job


def list_or_describe(arguments: Namespace) -> int:
    """One line for each rule, strategy or task, or everything about one."""
    module, names = _registry(arguments.kind)
    if arguments.name is None:
        width = max(map(len, names))
        for name in names:
            print(f"{name:{width}}  {module.one_line(name)}")
        if arguments.kind == "rules":
            for library, what in module.foreign.LIBRARIES.items():
                print(f"{library + '.…':{width}}  {what}, for [local_rule]")
        return DONE
    is_own_task = arguments.kind == "tasks" and ".py" in arguments.name
    is_foreign = arguments.kind == "rules" and module.foreign.is_foreign(arguments.name)
    if arguments.name not in names and not is_own_task and not is_foreign:
        raise UsageError(
            f"there is nothing called {arguments.name!r} among the {arguments.kind}{nearest(arguments.name, names)}"
        )
    print(module.describe(arguments.name))
    return DONE


def list_keys(arguments: Namespace) -> int:
    """The keys of the sections that are the same for every job."""
    sections = {**FIXED_SECTIONS, CurriculumSection.section: CurriculumSection}
    if arguments.section is not None and arguments.section not in sections:
        raise UsageError(
            f"there is no section {arguments.section!r} with fixed keys{nearest(arguments.section, sections)}"
        )
    chosen = [arguments.section] if arguments.section else list(sections)
    for name in chosen:
        print(f"[{name}]")
        for entry in fields(sections[name]):
            if entry.name != "options":
                facts = "; ".join(fact for fact in (bound_text(entry), _default_text(entry)) if fact)
                print(f"  {entry.name:14} {entry.metadata['help']}" + (f" ({facts})" if facts else ""))
    return DONE


def predict(arguments: Namespace) -> int:
    """Print or save the predictions of a run's model for a file of inputs."""
    from deploy.prediction import predict_with
    from deploy.run_directory import require_run
    from deploy.saving import check_run, load_parameters
    from worker.data.fetch import local

    if arguments.out and Path(arguments.out).suffix not in (".npy", ".csv", ".txt"):
        raise UsageError(f"--out must end in .npy, .csv or .txt, got {arguments.out!r}")
    run = require_run(arguments.run)
    job = load_job(run / "job.toml")
    task = job.build_task()
    check_run(run, task)
    for member in ("predict", "load_inputs"):
        if not callable(getattr(task, member, None)):
            raise UsageError(f"task {job.task.name!r} has no method {member}, so that it cannot predict from a file")
    inputs = task.load_inputs(local(arguments.input, "INPUT"))
    predictions = predict_with(task, load_parameters(run), inputs, arguments.output, job.task.name)
    _write_predictions(predictions, arguments.out)
    for note in task.input_notes() if hasattr(task, "input_notes") else []:
        print(f"hogshead: {note}", file=sys.stderr)
    return DONE


def report(arguments: Namespace) -> int:
    """Write the report of one run or of several, and say where it is."""
    from deploy.report import write_report

    out = arguments.out or (Path(arguments.runs[0]) / "report.html" if len(arguments.runs) == 1 else "report.html")
    try:
        print(short_path(write_report(arguments.runs, out)))
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from error
    return DONE


def tensorboard(arguments: Namespace) -> int:
    """Write the event files of one run or of several, and say where they are."""
    from deploy.tensorboard import FOLDER, convert

    for run in map(Path, arguments.runs):
        folder = Path(arguments.out) / run.resolve().name if arguments.out else run / FOLDER
        try:
            convert(run, folder)
        except OSError as error:
            raise UsageError(f"{folder}: cannot be written: {error.strerror}") from error
        print(short_path(folder))
    return DONE


def replay(arguments: Namespace) -> int:
    """Replay a recorded run and say whether it comes to the same center."""
    from deploy.replay import replay as replay_run
    from deploy.replay import replay_lines

    outcome = replay_run(arguments.run)
    for line in replay_lines(outcome):
        print(line)
    return DONE if outcome.equal else FAILED


def timeline(arguments: Namespace) -> int:
    """Draw what each worker did when, and say where the picture is."""
    from deploy.timeline import write_timeline

    out = arguments.out or Path(arguments.run) / "timeline.html"
    try:
        print(short_path(write_timeline(arguments.run, out, arguments.start, arguments.stop, arguments.replicas)))
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from error
    return DONE


def doctor(arguments: Namespace) -> int:
    """Remove the shared memory of runs that were killed; or examine a cluster."""
    if arguments.address or arguments.job:
        from deploy.cluster.doctor import doctor as examine_cluster

        return examine_cluster(arguments)
    from ps import segment

    found = set(segment.FOLDER.glob(f"{segment.PREFIX}-*"))
    segment.sweep()
    left = {path for path in found if path.exists()}
    print(f"removed {plural(len(found - left), 'stale segment')}, {plural(len(left), 'segment')} in use")
    return DONE


def _registry(kind: str) -> tuple[ModuleType, list[str]]:
    """The module that describes things of this kind, and their names."""
    if kind == "rules":
        from ps import rules

        return rules, list(rules.RULES)
    if kind == "strategies":
        from worker import strategies

        return strategies, list(strategies.STRATEGIES)
    from worker import tasks

    return tasks, list(tasks.TASKS)


def _default_text(entry: Any) -> str:
    if entry.default is MISSING:
        return "needed" if entry.default_factory is MISSING else ""
    if entry.default is None:
        return "not set"
    shown = str(entry.default).lower() if isinstance(entry.default, bool) else repr(entry.default)
    return f"default {shown}"


def _write_predictions(predictions: Any, out: str | None) -> None:
    """One line per example, columns separated by commas; or the array as .npy."""
    import numpy as np

    predictions = np.asarray(predictions)
    try:
        if out and out.endswith(".npy"):
            np.save(out, predictions)
            return
        table = predictions.reshape(len(predictions), -1)
        style = "%d" if np.issubdtype(table.dtype, np.integer) else "%.9g" if table.dtype.kind == "f" else "%s"
        np.savetxt(out or sys.stdout, table, fmt=style, delimiter=",", encoding="utf-8")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from error
