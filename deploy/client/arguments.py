"""The arguments of the commands that talk to a cluster's job service."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Add = Callable[..., argparse.ArgumentParser]  # (commands, name, help, function, module) -> its parser
MODULE = "deploy.client.commands"

SERVICE = """\
Where the service is: these flags, else HOGSHEAD_ADDRESS, HOGSHEAD_TOKEN or HOGSHEAD_TOKEN_FILE, HOGSHEAD_TLS_CA, …, else
[service] in the nearest .hogshead.toml, else in ~/.config/hogshead/config.toml; else 127.0.0.1:50700."""


def add_client_commands(commands, add: Add) -> None:
    """Declare all of them."""

    def command(name: str, help: str) -> argparse.ArgumentParser:
        made = add(commands, name, help, name, MODULE)
        _add_service(made)
        return made

    _add_submit(command("submit", "hand in a job to a cluster's job service"))
    jobs = command("jobs", "list the jobs of a cluster")
    jobs.add_argument("--state", action="append", default=[], metavar="S", help="only these, e.g. running; repeatable")
    jobs.add_argument("--all", action="store_true", help="also old ones")
    _add_job(command("status", "tell all about a job"))
    _add_logs(command("logs", "print what a job printed"))
    _add_job(command("watch", "show a job as it goes on; ^C leaves it running"))
    stop = command("stop", "end jobs, with a checkpoint")
    stop.add_argument("jobs", nargs="+", metavar="JOB", help="its whole id")
    stop.add_argument("--kill", action="store_true", help="at once, without a checkpoint")
    _add_resume(command("resume", "go on with a job that has ended, from its newest checkpoint"))
    _add_fetch(command("fetch", "copy a job's run directory to this machine"))
    delete = command("delete", "forget jobs that have ended, with their files")
    delete.add_argument("jobs", nargs="+", metavar="JOB", help="its whole id")
    command("cluster", "show a cluster's machines, and what is taken of them")


def _add_submit(submit: argparse.ArgumentParser) -> None:
    submit.add_argument("job", metavar="JOB.toml", help="job file; files that it names by relative paths go along")
    _add_overrides(submit)
    submit.add_argument("--name", metavar="NAME", help="instead of the job's own")
    _add_priority(submit)
    submit.add_argument("--follow", action="store_true", help="show it until it ends; ^C leaves it running")
    submit.add_argument(
        "--unchecked", action="store_true", help="do not import the task here, as it needs what only the cluster has"
    )
    submit.add_argument(
        "--most-mb",
        type=_size,
        default=100,
        metavar="N",
        help="send at most so many MB of files (default: %(default)s)",
    )


def _add_logs(logs: argparse.ArgumentParser) -> None:
    _add_job(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="and what it will print, until it ends")
    logs.add_argument("--tail", type=_count, metavar="N", help="only the last N lines")


def _add_resume(resume: argparse.ArgumentParser) -> None:
    _add_job(resume)
    _add_overrides(resume)
    _add_priority(resume)
    resume.add_argument("--follow", action="store_true", help="show it until it ends; ^C leaves it running")


def _add_fetch(fetch: argparse.ArgumentParser) -> None:
    _add_job(fetch)
    fetch.add_argument("out", nargs="?", metavar="OUT", help="folder (default: ./JOB)")
    fetch.add_argument(
        "patterns", nargs="*", metavar="PATTERN", help="only these files, e.g. summary.json 'checkpoint/*'"
    )
    fetch.add_argument("--overwrite", action="store_true", help="also into a folder that holds something")


def _add_job(command: argparse.ArgumentParser) -> None:
    command.add_argument("job", metavar="JOB", help="its id, or the beginning of it if no other begins so")


def _add_overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="e.g. strategy.tau=16; may be repeated, wins over the file; nothing after = removes the key",
    )


def _add_priority(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--priority", type=int, metavar="P", help="jobs with a higher one start first (default: the job's)"
    )


def _add_service(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON, a line each")
    service = command.add_argument_group("service", SERVICE)
    service.add_argument("--address", metavar="HOST:PORT", help="of the job service")
    service.add_argument("--token-file", metavar="FILE", help="holds the token that every call carries")
    service.add_argument("--tls", action="store_true", help="encrypt, and trust the system's authorities")
    service.add_argument("--tls-ca", metavar="FILE", help="encrypt, and trust who these certificates (PEM) are of")
    service.add_argument("--tls-cert", metavar="FILE", help="certificate of this client, if the service asks for one")
    service.add_argument("--tls-key", metavar="FILE", help="its key")
    service.add_argument("--tls-server-name", metavar="NAME", help="in the service's certificate, if not its address")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"must be a number of lines, got {text!r}")
    return int(text)


def _size(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of MB, got {text!r}")
    return int(text)
