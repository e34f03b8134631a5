"""The gRPC server of one shard."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ps.errors import TransportError, UsageError
from ps.shard import Shard
from ps.transport.requests import Refused
from ps.transport.service import ServiceOptions, ShardService
from ps.transport.tls import Tls
from ps.wire import parameters_pb2 as pb
from ps.wire.framing import MESSAGE_BYTES

SERVICE = pb.DESCRIPTOR.services_by_name["Parameters"]
VERSION_KEY = "hogshead-version"  # trailing metadata of a refusal that depends on the shard's state
# A replica keeps a stream for pushes and one for exchanges, pulls, and waits; others want to look in, too.
_THREADS_PER_REPLICA, _MORE_THREADS = 5, 16

_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.so_reuseport", 0),  # two servers at one port would share out the calls
    # A peer that has gone without a word holds no thread for long, and clients may ask often whether we are there.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
]


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
        if token is not None and not (token and token.isascii() and token.isprintable()):
            raise UsageError("ShardServer: token must be printable ASCII and not empty; None if there is to be none")
        if not any_address and _is_any(bind):
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
            handlers=(_handlers(self.service),),
            interceptors=() if token is None else (_Doorkeeper(token),),
            options=_OPTIONS,
            maximum_concurrent_rpcs=count,  # one more is refused; it would wait for a thread that may never be free
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )

    @property
    def address(self) -> str:
        """``HOST:PORT`` that others connect to, once it is started."""
        return f"{_host(self._bind)}:{self._port}"

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


class _Doorkeeper(grpc.ServerInterceptor):
    """Lets in who carries the token, also to health checks and reflection."""

    def __init__(self, token: str):
        self._expected = f"Bearer {token}".encode()

    def intercept_service(self, continuation: Callable, details: grpc.HandlerCallDetails) -> Any:
        given = [value for key, value in details.invocation_metadata if key == "authorization"]
        if len(given) == 1 and hmac.compare_digest(_bytes(given[0]), self._expected):
            return continuation(details)
        reason = "a wrong token" if given else "no token"
        return grpc.stream_stream_rpc_method_handler(lambda _messages, context: _turn_away(context, reason))


def _turn_away(context: grpc.ServicerContext, reason: str) -> Iterator[bytes]:
    context.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        f"{reason}: every call must carry the job's token as `authorization: Bearer TOKEN`",
    )
    yield b""


def _handlers(service: ShardService) -> grpc.GenericRpcHandler:
    """The service's methods; messages stay bytes, so that what is malformed is refused with a reason."""
    table = {}
    for method in SERVICE.methods:
        name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in method.name).lstrip("_")
        call = _named(service, name)
        sends = "stream" if method.server_streaming else "unary"
        takes = "stream" if method.client_streaming else "unary"
        make = getattr(grpc, f"{takes}_{sends}_rpc_method_handler")
        table[method.name] = make(_streaming(call) if method.server_streaming else _single(call))
    return grpc.method_handlers_generic_handler(SERVICE.full_name, table)


def _named(service: ShardService, name: str) -> Callable:
    return lambda *args: getattr(service, name)(*args)


def _single(call: Callable) -> Callable:
    def handle(request: Any, context: grpc.ServicerContext) -> bytes:
        try:
            return call(request, context)
        except Refused as refusal:
            return _refuse(context, refusal)

    return handle


def _streaming(call: Callable) -> Callable:
    def handle(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            yield from call(request, context)
        except Refused as refusal:
            _refuse(context, refusal)

    return handle


def _refuse(context: grpc.ServicerContext, refusal: Refused) -> Any:
    if refusal.version is not None:
        context.set_trailing_metadata(((VERSION_KEY, str(refusal.version)),))
    context.abort(grpc.StatusCode[refusal.code], refusal.reason)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def _host(bind: str) -> str:
    return f"[{bind}]" if ":" in bind and not bind.startswith("[") else bind


def _is_any(bind: str) -> bool:
    host = bind.strip("[]")
    if host in ("", "*"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            return not any(socket.inet_aton(host))  # "0" and the like
        except OSError:
            return False
    return (getattr(address, "ipv4_mapped", None) or address).is_unspecified
