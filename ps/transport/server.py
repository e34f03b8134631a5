"""The gRPC server of one shard."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ps.errors import TransportError, UsageError
from ps.shard import Shard
from ps.transport.hosting import OPTIONS, Doorkeeper, check_token, handlers, host, is_any
from ps.transport.requests import Refused
from ps.transport.service import ServiceOptions, ShardService
from ps.transport.tls import Tls
from ps.wire import parameters_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["Parameters"]
VERSION_KEY = "hogshead-version"  # trailing metadata of a refusal that depends on the shard's state
# A replica keeps a stream for pushes and one for exchanges, pulls, and waits; others want to look in, too.
_THREADS_PER_REPLICA, _MORE_THREADS = 5, 16


class ShardServer:
    """Serves one shard.

    Args:
      shard: whose arrays this process can touch.
      token: that every call must carry as ``authorization: Bearer TOKEN``; None lets everybody in who can reach the port.
      bind: address of this node, by which the others reach it.
      port: 0 for any free one.
      tls: certificates; None: unencrypted.
      options: what else is served.
      threads: handlers at work at one time; by default enough for all replicas of the shard's options.
      any_address: allow ``bind`` to be the address of all interfaces.

    Raises:
      UsageError: ``bind`` is the address of all interfaces, or the token is empty.
    """

    def __init__(
        self,
        shard: Shard,
        *,
        token: str | None,
        bind: str,
        port: int = 0,
        tls: Tls | None = None,
        options: ServiceOptions | None = None,
        threads: int | None = None,
        any_address: bool = False,
    ):
        check_token(token, "ShardServer")
        if not any_address and is_any(bind):
            raise UsageError(
                f"ShardServer: bind must be the address of this node, got {bind!r}, which is every interface of it; set "
                "any_address if that is meant"
            )
        self.shard, self._bind, self._port, self._tls = shard, bind, port, tls
        self.service = ShardService(shard, options or ServiceOptions())
        count = threads or _MORE_THREADS + _THREADS_PER_REPLICA * shard.options.replicas
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=f"shard-{shard.index}")
        self._health = health.HealthServicer()
        self._server = grpc.server(
            self._threads,
            handlers=(handlers(SERVICE, self.service, _refuse),),
            interceptors=() if token is None else (Doorkeeper(token, "the job's"),),
            options=OPTIONS,
            maximum_concurrent_rpcs=count,  # one more is refused; it would wait for a thread that may never be free
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )

    @property
    def address(self) -> str:
        """``HOST:PORT`` that others connect to, once it is started."""
        return f"{host(self._bind)}:{self._port}"

    def start(self) -> int:
        """Bind and serve; returns the port.

        Raises:
          TransportError: the address is not this node's, or the port is taken.
        """
        try:
            if self._tls is None:
                self._port = self._server.add_insecure_port(self.address)
            else:
                self._port = self._server.add_secure_port(self.address, self._tls.server())
        except RuntimeError as error:
            raise TransportError(
                f"shard {self.shard.index}: cannot listen at {self.address}; is it an address of this node, and the port free?",
                shard=self.shard.index,
            ) from error
        for name in ("", SERVICE.full_name):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._server.start()
        return self._port

    def stop(self, grace_s: float = 0.0) -> None:
        """Take no more calls, cut those under way off after ``grace_s``, and return when all threads have ended."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()
        self._threads.shutdown(wait=True)


def _refuse(error: Exception, context: grpc.ServicerContext) -> Any:
    if not isinstance(error, Refused):
        raise error
    if error.version is not None:
        context.set_trailing_metadata(((VERSION_KEY, str(error.version)),))
    context.abort(grpc.StatusCode[error.code], error.reason)
