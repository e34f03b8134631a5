"""The gRPC server of the job service."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from deploy.service.refusals import refuse
from deploy.service.servicer import FETCHES, FOLLOWERS, UPLOADS, JobsServicer
from deploy.wire import jobs_pb2 as pb
from ps.errors import UsageError
from ps.transport.hosting import OPTIONS, Doorkeeper, check_token, handlers, host
from ps.transport.tls import Tls

SERVICE = pb.DESCRIPTOR.services_by_name["Jobs"]
_SHORT_CALLS = 32  # at one time, besides the streams
_GRACE_S = 2.0
_IDLE_MS = 30_000  # a client notices nothing of a connection that is closed while it rests
MOST_CONNECTIONS = 512


class JobServer:
    """Serves jobs.

    Args:
      servicer: carries out the calls; it is closed with the server.
      token: that every call must carry as ``authorization: Bearer TOKEN``, health checks and reflection too; None: none.
      bind: address to listen at. port: 0 for any free one.
      tls: certificates; None: unencrypted.
      most_connections: at one time, those without the token included; one more is refused.

    Raises:
      UsageError: the token cannot be one.
    """

    def __init__(
        self,
        servicer: JobsServicer,
        *,
        token: str | None,
        bind: str = "127.0.0.1",
        port: int = 0,
        tls: Tls | None = None,
        most_connections: int = MOST_CONNECTIONS,
    ):
        check_token(token, "JobServer")
        self.servicer, self._bind, self._port, self._tls = servicer, bind, port, tls
        count = FOLLOWERS + UPLOADS + FETCHES + _SHORT_CALLS
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="jobs")
        self._health = health.HealthServicer()
        bounds = {"grpc.max_connection_idle_ms": _IDLE_MS, "grpc.max_allowed_incoming_connections": most_connections}
        self._server = grpc.server(
            self._threads,
            handlers=(handlers(SERVICE, servicer, refuse),),
            interceptors=() if token is None else (Doorkeeper(token, "the service's"),),
            options=[*OPTIONS, *bounds.items()],
            maximum_concurrent_rpcs=count,  # one more is refused; it would wait for a thread that may never be free
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    @property
    def address(self) -> str:
        """``HOST:PORT`` where it listens, once it is started."""
        return f"{host(self._bind)}:{self._port}"

    def start(self) -> int:
        """Listen; returns the port.

        Raises:
          UsageError: nobody can listen there, or a certificate cannot be used.
        """
        try:
            if self._tls is None:
                self._port = self._server.add_insecure_port(self.address)
            else:
                self._port = self._server.add_secure_port(self.address, self._tls.server())
        except RuntimeError as error:
            raise UsageError(
                f"the job service cannot listen at {self.address}; is it an address of this machine, and the port free? Give "
                "another --bind or --port"
            ) from error
        for name in ("", SERVICE.full_name):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server.start()
        return self._port

    def stop(self) -> None:
        """Take no more calls, tell the streams to try again later, and return when all threads have ended."""
        self._health.enter_graceful_shutdown()
        ended = self._server.stop(_GRACE_S)
        self.servicer.close()
        ended.wait()
        self._threads.shutdown(wait=True)
