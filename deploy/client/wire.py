"""Calls to the job service: the channel, the token, deadlines, and when a call is tried again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from deploy.client.failures import ServiceAway, ServiceBusy, ServiceError, no_job_service, translated
from deploy.client.settings import Settings
from deploy.wire import jobs_pb2 as pb
from ps.transport.tls import Tls

SERVICE = pb.DESCRIPTOR.services_by_name["Jobs"]
_OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A service that has gone without a word, or a machine that sleeps, is noticed.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),  # what may be repeated, and for how long, is decided below
    ("grpc.enable_http_proxy", 0),  # the service is a neighbour; a proxy for the web does not know it
]


@dataclass(frozen=True)
class Patience:
    """How long a lost connection is looked for, and a turn at a busy service waited for.

    Attributes:
      call_s: deadline of a call that answers once.
      lost_s: how long to try again once the service had been reached; 0: not at all.
      pause_s: longest pause between two tries.
    """

    call_s: float = 30.0
    lost_s: float = 300.0
    pause_s: float = 3.0


class Wire:
    """A connection to the job service.

    Args:
      settings: where it is.
      patience: bounds.
      on_lost: told once, in words, each time the connection is lost and looked for, or the service busy.

    Attributes:
      reached: the service has answered before.

    Raises:
      UsageError: a certificate cannot be read.
    """

    def __init__(
        self, settings: Settings, patience: Patience | None = None, on_lost: Callable[[str], None] | None = None
    ):
        self.settings, self.patience = settings, patience or Patience()
        self.say = on_lost or (lambda message: None)
        self._metadata = () if settings.token is None else (("authorization", f"Bearer {settings.token}"),)
        self._channel = _channel(settings)
        self.reached = False

    def greet(self) -> None:
        """Find out whether the service is there and lets us in, before anything large is sent.

        Raises:
          HogsheadError: see ``deploy.client.failures``.
        """
        ask = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            ask(
                health_pb2.HealthCheckRequest(service=SERVICE.full_name),
                timeout=self.patience.call_s,
                metadata=self._metadata,
            )
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                raise no_job_service(self.settings) from error
            raise translated(error, self.settings) from error
        self.reached = True

    def await_service(self) -> None:
        """After the connection was lost: return when the service is there again.

        Raises:
          ServiceAway: it was not, for too long.
        """
        search = Search(self)
        while True:
            try:
                return self.greet()
            except (ServiceAway, ServiceBusy) as error:
                search.pause(error)

    def call(self, method: str, request: Message) -> Any:
        """Call a method that answers once.

        Raises:
          HogsheadError, UsageError: see ``deploy.client.failures``.
        """
        return self._once(method, request, self.patience.call_s)

    def insist(self, method: str, make: Callable[[], Any], timeout_s: float) -> Any:
        """Call a method that may be repeated, anew with ``make()`` after the connection was lost or while the service is busy."""
        search = Search(self)
        while True:
            try:
                return self._once(method, make(), timeout_s)
            except (ServiceAway, ServiceBusy) as error:
                search.pause(error)

    def stream(self, method: str, make: Callable[[], Message], resumable: bool = True) -> Iterator[Any]:
        """Replies of a method that streams; with ``resumable`` called anew with ``make()`` as ``insist`` does.

        Closing the iterator ends the call.
        """
        search = Search(self)
        while True:
            stream = self._method(method)(make(), metadata=self._metadata)
            try:
                for reply in stream:
                    self.reached = True
                    search.found()
                    yield reply
                return
            except grpc.RpcError as error:
                failure = translated(error, self.settings)
                if not (resumable and isinstance(failure, (ServiceAway, ServiceBusy))):
                    raise failure from error
                search.pause(failure)
            finally:
                stream.cancel()

    def close(self) -> None:
        """End the connection; calls under way fail."""
        self._channel.close()

    def _once(self, method: str, request: Any, timeout_s: float) -> Any:
        try:
            reply = self._method(method)(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise translated(error, self.settings) from error
        self.reached = True
        return reply

    def _method(self, name: str) -> Any:
        facts = SERVICE.methods_by_name[name]
        takes = "stream" if facts.client_streaming else "unary"
        gives = "stream" if facts.server_streaming else "unary"
        reply = getattr(pb, facts.output_type.name)
        return getattr(self._channel, f"{takes}_{gives}")(
            f"/{SERVICE.full_name}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )


class Search:
    """Paces the tries after a connection was lost, or while the service is busy, and ends them."""

    def __init__(self, wire: Wire):
        self._wire = wire
        self._lost_at: float | None = None
        self._said: type[ServiceError] | None = None
        self._tries = 0

    def found(self) -> None:
        """It goes on."""
        self._lost_at, self._said, self._tries = None, None, 0

    def pause(self, error: ServiceAway | ServiceBusy) -> None:
        """Wait before the next try, longer each time; raises ``error`` if there is to be none.

        Where the service was never reached, nobody listens there, which the user wants to know now.
        """
        now = time.monotonic()
        patience = self._wire.patience
        busy = isinstance(error, ServiceBusy)
        if not busy and not self._wire.reached:
            raise error
        if self._lost_at is None:
            self._lost_at = now
        if patience.lost_s > 0 and self._said is not type(error):
            self._said = type(error)
            lost = f"the connection to {self._wire.settings.address} was lost; looking for it"
            self._wire.say(f"{error}; waiting for a turn" if busy else lost)
        if now - self._lost_at >= patience.lost_s:
            raise error
        self._tries += 1
        longest = min(patience.pause_s, 0.2 * 2**self._tries)
        time.sleep(random.uniform(0.5, 1.0) * longest)


def _channel(settings: Settings) -> grpc.Channel:
    if not settings.tls:
        return grpc.insecure_channel(settings.address, options=_OPTIONS)
    paths = (
        None if path is None else Path(path).expanduser()
        for path in (settings.tls_ca, settings.tls_cert, settings.tls_key)
    )
    options = list(_OPTIONS)
    if settings.tls_server_name:
        options.append(("grpc.ssl_target_name_override", settings.tls_server_name))
    return grpc.secure_channel(settings.address, Tls(*paths).channel(), options=options)
