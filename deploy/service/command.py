"""``hogshead serve``: puts the parts of the service together, and takes them apart again."""

from __future__ import annotations

import logging
import resource
import shutil
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from deploy.exit_codes import DONE
from deploy.service.auth import check_exposure, find_token
from deploy.service.ballast import Ballast
from deploy.service.demand import Limits
from deploy.service.instance import alone
from ps.errors import UsageError

log = logging.getLogger("hogshead.service")

_OPEN_FILES = 8192  # asked of the system
_OTHER_FILES = 512  # of these for all but connections to the job service: the web page's, jobs' files, the store
_PATIENCE_S = 5.0  # for a supervisor that waits for the cluster's answer


def serve(arguments: Namespace) -> int:
    """Serve until SIGTERM or ^C."""
    with _logging():
        limits = _limits(arguments)
        token = find_token(arguments.token_file)
        tls = _tls(arguments)
        check_exposure(arguments.bind, token, tls is not None)
        jobs, state = _places(arguments)
        with ExitStack() as stack:
            for lock in {jobs / ".service.lock", state.with_name(f".{state.name}.lock")}:
                stack.enter_context(alone(lock))
            _run(arguments, jobs, state, limits, token, tls, stack)
        log.info("stopped; jobs at work go on")
    return DONE


def _run(
    arguments: Namespace, jobs: Path, state: Path, limits: Limits, token: str | None, tls: Any, stack: ExitStack
) -> None:
    from deploy.service.ray_jobs import RayCluster
    from deploy.service.server import JobServer
    from deploy.service.servicer import JobsServicer
    from deploy.service.store import Store
    from deploy.service.submission import Intake
    from deploy.service.supervisor import Supervisor

    over = stack.enter_context(_termination())
    ballast = Ballast([jobs, state.parent])
    ballast.ease()
    store = stack.enter_context(Store(state, ballast))
    intake = Intake(store, jobs, limits)
    intake.sweep()
    ballast.hold()
    cluster = RayCluster(arguments.ray)
    bounds = {"most_running": arguments.most_jobs_running, "most_job_bytes": _job_bytes(arguments, jobs)}
    supervisor = Supervisor(store, cluster, jobs, **bounds)
    stack.callback(_stop, supervisor)
    supervisor.start()
    at = {"bind": arguments.bind, "token": token, "tls": tls}
    most = max(_open_files() - _OTHER_FILES, _OTHER_FILES)
    server = JobServer(JobsServicer(store, jobs, cluster, intake), port=arguments.port, most_connections=most, **at)
    stack.callback(server.stop)
    server.start()
    print(f"job service at {server.address}", flush=True)
    if not arguments.no_web:
        from deploy.service.web import Web

        web = Web(store, jobs, cluster, port=arguments.web_port, **at)
        stack.callback(web.stop)
        scheme, host = "http" if tls is None else "https", server.address.rpartition(":")[0]
        print(f"web page at {scheme}://{host}:{web.start()}", flush=True)
    over.wait()


def _job_bytes(arguments: Namespace, jobs: Path) -> int:
    """How large the folder of one job may be."""
    given = arguments.most_job_gb
    return shutil.disk_usage(jobs).total // 2 if given is None else int(given * 1e9)


def _open_files() -> int:
    """How many files this process may have open: raised as far as it needs, and may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _stop(supervisor: Any) -> None:
    """A supervisor that waits for a cluster's answer is not waited for: it can be ended anywhere."""
    ending = threading.Thread(target=supervisor.stop, name="ending", daemon=True)
    ending.start()
    ending.join(_PATIENCE_S)


@contextmanager
def _termination() -> Iterator[threading.Event]:
    """Is set by SIGTERM, SIGHUP (unless it is ignored) and ^C."""
    over = threading.Event()
    numbers = [signal.SIGTERM, signal.SIGINT]
    numbers += [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    before = {number: signal.signal(number, lambda *_: over.set()) for number in numbers}
    try:
        yield over
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _limits(arguments: Namespace) -> Limits:
    for name in ("most_upload_mb", "most_cpus", "most_memory_gb", "most_job_gb", "most_jobs_running"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise UsageError(f"--{name.replace('_', '-')} must be > 0, got {value:g}")
    if not arguments.most_upload_mb <= 2000:
        raise UsageError(
            f"--most-upload-mb must be at most 2000, got {arguments.most_upload_mb:g}; give large data by a URL"
        )
    for name in ("port", "web_port"):
        if not 0 <= getattr(arguments, name) < 65536:
            raise UsageError(f"--{name.replace('_', '-')} must be a port, 0 to 65535, got {getattr(arguments, name)}")
    memory = arguments.most_memory_gb
    return Limits(
        cpus=arguments.most_cpus,
        memory_bytes=None if memory is None else int(memory * 1e9),
        upload_bytes=int(arguments.most_upload_mb * 1e6),
    )


def _tls(arguments: Namespace) -> Any:
    named = {name: getattr(arguments, f"tls_{name}") for name in ("ca", "cert", "key")}
    paths = {name: Path(path).expanduser() for name, path in named.items() if path is not None}
    if not paths and not arguments.tls_mutual:
        return None
    from ps.transport.tls import Tls

    made = Tls(**paths, require_client_cert=arguments.tls_mutual)
    made.server()  # says at once what is wrong with the files
    return made


def _places(arguments: Namespace) -> tuple[Path, Path]:
    """The jobs' folder, made if need be, and the file of their states."""
    jobs = Path(arguments.jobs).expanduser().absolute()
    try:
        jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--jobs {jobs}: cannot be made: {error.strerror}") from error
    return jobs, Path(arguments.state).expanduser().absolute() if arguments.state else jobs / "jobs.sqlite"


@contextmanager
def _logging() -> Iterator[None]:
    """What the service has to say goes to standard error, a line each, with the time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before, log.propagate = log.propagate, False
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before
