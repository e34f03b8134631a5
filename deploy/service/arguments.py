"""The arguments of ``hogshead serve``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

DEFAULT_PORT, DEFAULT_WEB_PORT = 50700, 50780


def add_serve(commands, add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command; ``add_command(commands, name, help, function, module)`` gives its parser."""
    serve = add_command(commands, "serve", "be the job service of a Ray cluster", "serve", "deploy.service.command")
    serve.add_argument(
        "--jobs", required=True, metavar="DIR", help="folder of the jobs; Ray's head has it under the same path"
    )
    serve.add_argument("--state", metavar="FILE", help="which jobs there are (default: DIR/jobs.sqlite)")
    serve.add_argument(
        "--ray",
        default="http://127.0.0.1:8265",
        metavar="URL",
        help="Ray's dashboard on the head (default: %(default)s)",
    )
    serve.add_argument(
        "--bind", default="127.0.0.1", metavar="ADDR", help="address to listen at (default: %(default)s)"
    )
    serve.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        metavar="N",
        help="of the service; 0: any free one (default: %(default)s)",
    )
    serve.add_argument(
        "--web-port",
        type=int,
        default=DEFAULT_WEB_PORT,
        metavar="N",
        help="of the web page; 0: any (default: %(default)s)",
    )
    serve.add_argument("--no-web", action="store_true", help="no web page")
    serve.add_argument(
        "--token-file",
        metavar="FILE",
        help="token that calls must carry (default: HOGSHEAD_TOKEN, or HOGSHEAD_TOKEN_FILE's)",
    )
    serve.add_argument("--tls-cert", metavar="FILE", help="certificate of the service (PEM); turns TLS on")
    serve.add_argument("--tls-key", metavar="FILE", help="its key")
    serve.add_argument("--tls-ca", metavar="FILE", help="authority that clients' certificates are signed by")
    serve.add_argument("--tls-mutual", action="store_true", help="clients must show a certificate")
    serve.add_argument(
        "--most-upload-mb",
        type=float,
        default=100.0,
        metavar="N",
        help="largest archive of a job (default: %(default)g)",
    )
    serve.add_argument("--most-cpus", type=float, metavar="N", help="that one job may take (default: no bound)")
    serve.add_argument("--most-memory-gb", type=float, metavar="N", help="that one job may take (default: no bound)")
    serve.add_argument(
        "--most-job-gb",
        type=float,
        metavar="N",
        help="of disk that one job's folder may take before it is asked to end (default: half of the disk)",
    )
    serve.add_argument("--most-jobs-running", type=int, metavar="N", help="at one time (default: as many as fit)")
