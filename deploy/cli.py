"""The command ``hogshead``: arguments in, exit code out. What a command does stands in deploy/commands.py.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Of ``submit --follow``, ``resume --follow`` and ``watch`` they are
the job's: 0 succeeded, 1 failed, 130 stopped, or ^C here while it goes on there.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NoReturn

from deploy.client.arguments import add_client_commands
from deploy.exit_codes import DONE, FAILED, INTERRUPTED, WRONG_USAGE
from deploy.interruption import termination_as_interrupt
from deploy.output import drop, lenient_errors, lenient_output, open_closed_streams
from deploy.service.arguments import add_serve
from ps.errors import HogsheadError, UsageError, meant, nearest

# Workers are processes, one per core; the threads of a BLAS inside each would only fight over the same cores.
THREAD_SETTINGS = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


COMPARE = """\
Run a job in many variants and compare them: time and examples to a target, final metric, staleness, throughput,
speed-up, and whether asynchrony helps, with a suggestion. Writes compare.html and compare.json.

Any key of a job varies, as in --set. Short: strategy, workers, shards, admission, task, seed; and rule and lr, which
mean the job's rule that steps with gradients, the server's or the workers'. --set takes the same.

Where the strategy changes, the job's rule goes along, so that all strategies take the same steps. Momentum goes to
eamsgd, mdownpour, sequential and synchronous; the others take plain steps as large, lr / (1 - momentum). What else a
strategy should have stands in the job file, e.g. [compare.easgd] tau = 8, local_rule = { lr = 0.2 }. Settings that a
strategy has no use for are left out, and cells that come to the same job run once: sequential is one worker.

The target is what the best cell with the fewest workers comes to, less a twentieth of the way there from the
untrained model. Speed-ups refer to the cell with one worker that reaches it first. A cell that fails, diverges or is
no valid job is shown as such; the others go on. Simulations run side by side, in virtual time; processes one after
another, in real time."""


class Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that ``main`` returns, and suggests the nearest command."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does, but the command itself says what it does not know, and what may have been meant."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            hint = meant(unknown[0], self._option_string_actions)
            raise UsageError(f"unrecognized arguments: {' '.join(unknown)}; see `{self.prog} --help`{hint}")
        return found, unknown

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = list(map(str, action.choices))
        if action.option_strings:
            name = action.option_strings[0]
            raise UsageError(f"{name} must be one of {', '.join(choices)}, got {value!r}{meant(value, choices)}")
        raise UsageError(f"there is no command {value!r}{nearest(str(value), choices)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (the process's own if None) and return its exit code; never raises."""
    for name in THREAD_SETTINGS:  # must stand in the environment before numpy is imported
        os.environ.setdefault(name, "1")
    open_closed_streams()
    _print_any_path()
    with lenient_errors():
        code = _run(argv)
        try:
            sys.stdout.flush()
        except OSError as error:
            drop(sys.stdout)  # the interpreter's last flush would fail, too
            if code == DONE and not isinstance(error, BrokenPipeError):
                print(f"hogshead: standard output cannot be written: {error.strerror}", file=sys.stderr)
            return code or FAILED
        except ValueError:  # it was closed, after all that there was to say
            return code
        return code


def _run(argv: Sequence[str] | None) -> int:
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    try:
        with termination_as_interrupt():
            arguments = parser().parse_args(argv)
            return arguments.command(arguments)
    except SystemExit as error:  # --help and --version
        return error.code if isinstance(error.code, int) else DONE
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED, debug)
    except UsageError as error:
        return _complain(str(error), WRONG_USAGE, debug)
    except HogsheadError as error:
        return _complain(str(error), FAILED, debug)
    except BrokenPipeError:  # the reader (`| head`) has gone, and with it what the command is for
        drop(sys.stdout)
        return FAILED
    except MemoryError:
        return _complain("out of memory; use fewer workers, or a smaller model or data set", FAILED, debug)
    except Exception as error:
        hint = "" if debug else "; --debug shows where"
        return _complain(f"{type(error).__name__}: {error}{hint}", FAILED, debug)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = Parser(
        prog="hogshead",
        description="Train models with asynchronous replicas around a sharded parameter server.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=_version())
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    _add_train(commands)
    _add_compare(commands)
    for kind, what in (("rules", "update rules"), ("strategies", "strategies"), ("tasks", "tasks")):
        listing = _add(commands, kind, f"list the {what}, or describe one", "list_or_describe")
        listing.set_defaults(kind=kind)
        listing.add_argument("name", nargs="?", metavar="NAME", help="describe this one")
    keys = _add(commands, "keys", "list the keys of a job's fixed sections", "list_keys")
    keys.add_argument("section", nargs="?", metavar="SECTION", help="only this section, e.g. stop")
    predict = _add(commands, "predict", "predictions of a trained model", "predict")
    predict.add_argument("run", metavar="RUN", help="run directory with a checkpoint")
    predict.add_argument("input", metavar="INPUT", help="file of the kind that the task reads")
    predict.add_argument(
        "--output", choices=("label", "score", "probability"), help="of a classifier; by default the label"
    )
    predict.add_argument("--out", metavar="FILE", help=".npy, .csv or .txt instead of lines on standard output")
    what = "a trained model as a state_dict for PyTorch, or as safetensors"
    export = _add(commands, "export", what, "export", "deploy.export")
    export.add_argument("run", metavar="RUN", help="run directory with a checkpoint")
    export.add_argument("out", metavar="FILE", help="model.pt or model.safetensors")
    report = _add(commands, "report", "HTML report of a run, or of several overlaid", "report")
    report.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    report.add_argument("--out", metavar="FILE", help="default: RUN/report.html for one run, ./report.html for several")
    tensorboard = _add(commands, "tensorboard", "TensorBoard's event files of a run, or of several", "tensorboard")
    tensorboard.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    tensorboard.add_argument("--out", metavar="DIR", help="DIR/<run> for each (default: RUN/tensorboard)")
    replay = _add(
        commands, "replay", "repeat a recorded run in its order, and compare the result bit for bit", "replay"
    )
    replay.add_argument("run", metavar="RUN", help="directory of a run with record = true")
    _add_timeline(commands)
    _add_reproduce(commands)
    _add_doctor(commands)
    add_client_commands(commands, _add)
    add_serve(commands, _add)
    init = _add(
        commands,
        "init",
        "prepare a clone for `docker compose up`: .env, secrets, .hogshead.toml",
        "init",
        "deploy.init",
    )
    init.add_argument("--force", action="store_true", help="write all anew, also the secrets")
    return top


def _add_train(commands) -> None:
    train = _add(commands, "train", "train a model", "train", lasts=True)
    train.add_argument("job", nargs="?", metavar="JOB", help="job file (TOML); may be left out with --resume")
    train.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="e.g. strategy.tau=16; may be repeated, wins over the file; nothing after = removes the key",
    )
    train.add_argument("--workers", type=int, metavar="N", help="short for --set workers.count=N")
    train.add_argument("--seed", type=int, metavar="N", help="short for --set seed=N")
    train.add_argument("--backend", metavar="NAME", help="processes, ray or simulation; short for --set backend=NAME")
    train.add_argument("--address", metavar="ADDR", help="host:port of a Ray cluster to train on (backend ray)")
    train.add_argument("--detach", action="store_true", help="on a cluster: go on when this command ends")
    train.add_argument("--run", metavar="DIR", help="run directory (default: runs/<job>-<number>)")
    train.add_argument(
        "--resume", metavar="RUN", help="go on from the checkpoint in this run directory, or behind this URL"
    )
    train.add_argument("--dry-run", action="store_true", help="check the job, print it resolved, and stop")
    output = train.add_mutually_exclusive_group()
    output.add_argument("--quiet", action="store_true", help="print nothing but errors")
    output.add_argument("--json", action="store_true", help="print metrics as JSON lines, then the summary")


def _add_compare(commands) -> None:
    compare = commands.add_parser(
        "compare",
        help="run a job in many variants and compare them",
        description=COMPARE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    compare.set_defaults(command=_compare)
    compare.add_argument("job", metavar="JOB", help="job file (TOML)")
    compare.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=A,B,...",
        help="e.g. strategy=downpour,easgd, workers=1,4,16 or strategy.tau=1,10; may be repeated: all combinations run",
    )
    compare.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as in train, for every cell"
    )
    compare.add_argument("--backend", metavar="NAME", help="simulation or processes (default: the job's)")
    compare.add_argument(
        "--target", metavar="METRIC=VALUE", help="what counts as trained (default: chosen, and explained)"
    )
    compare.add_argument("--seed", type=int, metavar="N", help="short for --set seed=N")
    compare.add_argument(
        "--repeats", type=int, default=1, metavar="N", help="runs per cell, with seeds one apart; figures are medians"
    )
    compare.add_argument("--jobs", type=int, metavar="N", help="simulations at once (default: one per core)")
    compare.add_argument("--out", metavar="DIR", help="new folder (default: comparisons/<job>-<number>)")
    compare.add_argument("--dry-run", action="store_true", help="list the cells, and stop")
    compare.add_argument("--debug", action="store_true", help="show tracebacks")
    output = compare.add_mutually_exclusive_group()
    output.add_argument("--quiet", action="store_true", help="print nothing but errors")
    output.add_argument("--json", action="store_true", help="print a JSON line per run, then the comparison")


def _compare(arguments: argparse.Namespace) -> int:
    from deploy.compare.command import compare

    with lenient_output():
        return compare(arguments)


def _add_timeline(commands) -> None:
    timeline = _add(commands, "timeline", "draw what each worker did when", "timeline")
    timeline.add_argument("run", metavar="RUN", help="directory of a simulated run, or of one with record = true")
    timeline.add_argument("--from", dest="start", type=float, metavar="T", help="seconds since the start (default: 0)")
    timeline.add_argument("--to", dest="stop", type=float, metavar="T", help="default: so that steps can be told apart")
    timeline.add_argument("--replicas", metavar="A-B", help="e.g. 0-7 or 0,3,5 (default: the first 64)")
    timeline.add_argument("--out", metavar="FILE", help=".svg or .html (default: RUN/timeline.html)")


def _add_reproduce(commands) -> None:
    what = "show that the algorithms do what their papers claim"
    reproduce = _add(commands, "reproduce", what, "run", "deploy.reproduce.command", lasts=True)
    reproduce.add_argument("claims", nargs="*", metavar="CLAIM", help="names of claims, e.g. A1 beale; see --list")
    reproduce.add_argument("--all", action="store_true", help="every claim")
    reproduce.add_argument("--list", action="store_true", help="show the claims, and stop")
    reproduce.add_argument("--seeds", type=int, default=1, metavar="N", help="run with seeds 0 to N-1 (default: 1)")
    reproduce.add_argument(
        "--out", default="reproduced", metavar="DIR", help="for figures and pictures (default: %(default)s)"
    )


def _add_doctor(commands) -> None:
    what = "remove shared memory left behind by killed runs; or with --address, say what a Ray cluster lacks"
    doctor = _add(commands, "doctor", what, "doctor")
    doctor.add_argument("job", nargs="?", metavar="JOB", help="and whether the cluster could run this job")
    doctor.add_argument("--address", metavar="HOST:PORT", help="of the cluster's head (default: the job's)")
    doctor.add_argument("--json", action="store_true", help="print what was found as JSON")


def _add(
    commands, name: str, help: str, function: str, module: str = "deploy.commands", lasts: bool = False
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", allow_abbrev=False)
    command.add_argument("--debug", action="store_true", help="show tracebacks")
    command.set_defaults(command=_lazy(function, module, lasts))
    return command


def _lazy(function: str, module: str, lasts: bool) -> Callable[[argparse.Namespace], int]:
    """A command that is imported when it runs: parsing must not wait for numpy.

    Args:
      lasts: what it does outlives its output, as training does.
    """

    def call(arguments: argparse.Namespace) -> int:
        with lenient_output() if lasts else nullcontext():
            return getattr(importlib.import_module(module), function)(arguments)

    return call


def _version() -> str:
    from importlib import metadata

    try:
        return f"hogshead {metadata.version('hogshead')}"
    except metadata.PackageNotFoundError:
        return "hogshead, not installed"


def _print_any_path() -> None:
    """Have names of files that are not UTF-8 printed as they are, byte by byte, as other commands do."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.closed and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="surrogateescape")


def _complain(message: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"hogshead: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
