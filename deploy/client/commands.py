"""What the commands that talk to a job service do, given their parsed arguments; each returns the exit code."""

from __future__ import annotations

import codecs
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read when gRPC is imported; what fails is said once, in words

from deploy.client.client import Client, connect, run_facts
from deploy.client.following import Following
from deploy.client.packing import pack_job
from deploy.client.status import JobStatus
from deploy.client.tables import cluster_lines, demand_text, job_lines, status_lines
from deploy.exit_codes import DONE, FAILED, INTERRUPTED
from deploy.output import drop
from deploy.progress import observer_for
from deploy.resolve import apply_overrides
from deploy.run_directory import to_json
from deploy.service.states import ENDED, State
from deploy.words import plural, short_path, si
from ps.errors import HogsheadError

_CODES = {State.SUCCEEDED: DONE, State.FAILED: FAILED, State.STOPPED: INTERRUPTED}
_SHOWN = 20


def submit(arguments: Namespace) -> int:
    """Hand in a job, and with --follow stay with it."""
    bounds = {"checked": not arguments.unchecked, "most_bytes": arguments.most_mb * 1_000_000}
    packed = pack_job(arguments.job, arguments.overrides, arguments.name, **bounds)
    for note in packed.notes:
        _aside(f"note: {note}")
    with _client(arguments) as client:
        job = client.submit_packed(packed, arguments.priority)
        if arguments.follow:
            if not arguments.json:
                print(f"submitted {job.id}", flush=True)
            return _follow(client, job, arguments)
        if arguments.json:
            _json(job.to_dict())
            return DONE
        travelled = f"; {plural(len(packed.files), 'file')} went along" if packed.files else ""
        print(f"submitted {job.id}: {job.state}, takes {demand_text(job.demand)}{travelled}")
        print(f"follow it with `hogshead watch {job.id}`")
        return DONE


def jobs(arguments: Namespace) -> int:
    """List jobs: all at work or waiting, and the newest others."""
    with _client(arguments) as client:
        if arguments.all or arguments.state:
            found, more = client.jobs(arguments.state), False
        else:
            newest = client.jobs(limit=_SHOWN + 1)
            more = len(newest) > _SHOWN
            known = {job.id: job for job in newest[:_SHOWN]}
            if more:
                known |= {job.id: job for job in client.jobs(set(State) - ENDED)}
            found = sorted(known.values(), key=lambda job: job.submitted_at or 0.0, reverse=True)
    if arguments.json:
        for job in found:
            _json(job.to_dict())
        return DONE
    if not found:
        print("no jobs" if not arguments.state else f"no jobs that are {' or '.join(arguments.state)}")
        return DONE
    for line in job_lines(found):
        print(line)
    if more:
        print("older ones with --all")
    return DONE


def status(arguments: Namespace) -> int:
    """Tell all about one job."""
    with _client(arguments) as client:
        job = client.get(arguments.job)
    _show(job, arguments, status_lines(job))
    return DONE


def logs(arguments: Namespace) -> int:
    """Print what a job printed."""
    with _client(arguments) as client:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a piece may end within a character
        try:
            for data in client.logs(arguments.job, follow=arguments.follow, tail=arguments.tail):
                if arguments.json:
                    _json({"kind": "log", "text": decoder.decode(data)})
                    continue
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
        except KeyboardInterrupt:
            return INTERRUPTED
    return DONE


def watch(arguments: Namespace) -> int:
    """Show a job as it goes on, until it ends."""
    with _client(arguments) as client:
        return _follow(client, client.get(arguments.job), arguments)


def stop(arguments: Namespace) -> int:
    """Ask jobs to end."""

    def say(job: JobStatus) -> list[str]:
        if job.state == State.STOPPING:
            how = "is being killed" if arguments.kill else "ends with a checkpoint"
            return [f"{job.id} {how}; `hogshead watch {job.id}` waits for it"]
        return [f"{job.id} has {job.state}" if job.state == State.SUCCEEDED else f"{job.id} is {job.state}"]

    return _each(arguments, lambda client, job: client.stop(job, kill=arguments.kill), say)


def resume(arguments: Namespace) -> int:
    """Go on with a job that has ended."""
    settings: dict[str, Any] = {}
    apply_overrides(settings, arguments.overrides)  # only to refuse what is none before anything is sent
    with _client(arguments) as client:
        job = client.resume_with(arguments.job, arguments.overrides, arguments.priority)
        if arguments.follow:
            return _follow(client, job, arguments)
    _show(job, arguments, [f"{job.id} is {job.state}; follow it with `hogshead watch {job.id}`"])
    return DONE


def fetch(arguments: Namespace) -> int:
    """Copy a job's run directory to this machine."""
    with _client(arguments) as client:
        fetched = client.fetch(arguments.job, arguments.out, arguments.patterns, overwrite=arguments.overwrite)
    if arguments.json:
        _json(fetched.to_dict())
        return DONE
    print(f"{plural(len(fetched.files), 'file')}, {si(fetched.size_bytes)}B, in {short_path(fetched.folder)}")
    return DONE


def delete(arguments: Namespace) -> int:
    """Forget jobs that have ended, with their files."""

    def remove(client: Client, job: str) -> str:
        client.delete(job)
        return job

    return _each(arguments, remove, lambda job: [f"{job} is deleted"], as_dict=lambda job: {"id": job, "deleted": True})


def cluster(arguments: Namespace) -> int:
    """Show the machines and what is free."""
    with _client(arguments) as client:
        found = client.cluster()
    if arguments.json:
        _json(found.to_dict())
    else:
        for line in cluster_lines(found):
            print(line)
    return DONE if found.reachable else FAILED


def _client(arguments: Namespace) -> Client:
    names = ("address", "token_file", "tls_ca", "tls_cert", "tls_key", "tls_server_name")
    return connect(**{name: getattr(arguments, name) for name in names}, tls=arguments.tls or None, on_lost=_aside)


def _follow(client: Client, job: JobStatus, arguments: Namespace) -> int:
    """Show a job until it ends; ^C leaves it alone."""
    make = partial(observer_for, json=arguments.json)
    following = Following(make, partial(run_facts, client, job.id), job)
    try:
        with closing(client.watch(job.id)) as updates:
            last = following.follow(updates)
    except (KeyboardInterrupt, BrokenPipeError) as error:
        if isinstance(error, BrokenPipeError):  # the reader has gone, the job has not
            drop(sys.stdout)
        _aside(
            f"{job.id} goes on; `hogshead watch {job.id}` follows it again, `hogshead stop {job.id}` ends it with a checkpoint"
        )
        return INTERRUPTED
    if not arguments.json and last.ended:
        print(f"files   hogshead fetch {job.id}", flush=True)
    return _CODES.get(last.state, FAILED)


def _each(
    arguments: Namespace,
    act: Callable[[Client, str], Any],
    say: Callable[[Any], list[str]],
    as_dict: Callable[[Any], dict[str, Any]] = JobStatus.to_dict,
) -> int:
    """Do something with each job that is named, also if it fails with one of them."""
    code = DONE
    with _client(arguments) as client:
        for job in arguments.jobs:
            try:
                done = act(client, job)
            except (HogsheadError, ValueError) as error:
                if len(arguments.jobs) == 1:
                    raise
                _aside(str(error))
                code = FAILED
                continue
            if arguments.json:
                _json(as_dict(done))
            else:
                print(*say(done), sep="\n")
    return code


def _show(job: JobStatus, arguments: Namespace, lines: list[str]) -> None:
    if arguments.json:
        _json(job.to_dict())
    else:
        print(*lines, sep="\n")


def _json(value: Any) -> None:
    print(to_json(value), flush=True)


def _aside(message: str) -> None:
    print(f"hogshead: {message}", file=sys.stderr, flush=True)
