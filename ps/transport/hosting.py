"""What every gRPC server of ours does alike: who is let in, where it listens, and how methods are found."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from ps.errors import UsageError
from ps.wire.framing import MESSAGE_BYTES

OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.so_reuseport", 0),  # two servers at one port would share out the calls
    # A peer that has gone without a word holds no thread for long, and clients may ask often whether we are there.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    ("grpc.server_handshake_timeout_ms", 10_000),  # one that connects and says nothing takes a descriptor from others
]

Guard = Callable[[Exception, grpc.ServicerContext], Any]


class Doorkeeper(grpc.ServerInterceptor):
    """Lets in who carries the token, also to health checks and reflection.

    Args:
      token: see ``check_token``.
      whose: what it is the token of, for those who are turned away.
    """

    def __init__(self, token: str, whose: str):
        self._expected, self._whose = f"Bearer {token}".encode(), whose

    def intercept_service(self, continuation: Callable, details: grpc.HandlerCallDetails) -> Any:
        given = [value for key, value in details.invocation_metadata if key == "authorization"]
        if len(given) == 1 and hmac.compare_digest(_bytes(given[0]), self._expected):
            return continuation(details)
        reason = "a wrong token" if given else "no token"
        return grpc.stream_stream_rpc_method_handler(lambda _messages, context: self._turn_away(context, reason))

    def _turn_away(self, context: grpc.ServicerContext, reason: str) -> Iterator[bytes]:
        context.abort(
            grpc.StatusCode.UNAUTHENTICATED,
            f"{reason}: every call must carry {self._whose} token as `authorization: Bearer TOKEN`",
        )
        yield b""


def check_token(token: str | None, whose: str) -> None:
    """Refuse a token that cannot go into metadata.

    Raises:
      UsageError: it is empty, or not printable ASCII.
    """
    if token is not None and not (token and token.isascii() and token.isprintable()):
        raise UsageError(f"{whose}: token must be printable ASCII and not empty; None if there is to be none")


def handlers(service: Any, servicer: Any, refuse: Guard) -> grpc.GenericRpcHandler:
    """The methods of a service; messages stay bytes, so that what is malformed is refused with a reason.

    Args:
      service: its descriptor.
      servicer: has a method ``do_this(raw or iterator of raw, context)`` for the service's ``DoThis``.
      refuse: what to do with an exception of a method; it aborts the call.
    """
    table = {}
    for method in service.methods:
        name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in method.name).lstrip("_")
        call = _named(servicer, name)
        sends = "stream" if method.server_streaming else "unary"
        takes = "stream" if method.client_streaming else "unary"
        make = getattr(grpc, f"{takes}_{sends}_rpc_method_handler")
        table[method.name] = make(_streaming(call, refuse) if method.server_streaming else _single(call, refuse))
    return grpc.method_handlers_generic_handler(service.full_name, table)


def _named(servicer: Any, name: str) -> Callable:
    return lambda *args: getattr(servicer, name)(*args)


def _single(call: Callable, refuse: Guard) -> Callable:
    def handle(request: Any, context: grpc.ServicerContext) -> bytes:
        try:
            return call(request, context)
        except Exception as error:
            return refuse(error, context)

    return handle


def _streaming(call: Callable, refuse: Guard) -> Callable:
    def handle(request: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            yield from call(request, context)
        except Exception as error:
            refuse(error, context)

    return handle


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def host(bind: str) -> str:
    """An address as it stands before ``:PORT``."""
    return f"[{bind}]" if ":" in bind and not bind.startswith("[") else bind


def is_any(bind: str) -> bool:
    """It is the address of all interfaces, in any spelling."""
    name = bind.strip("[]")
    if name in ("", "*"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        try:
            return not any(socket.inet_aton(name))  # "0" and the like
        except OSError:
            return False
    return (getattr(address, "ipv4_mapped", None) or address).is_unspecified
