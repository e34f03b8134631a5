"""The other end of the wire: where a shard's server is, the connection to it, and what its failures mean."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from ps.errors import HogsheadError, NonFiniteError, TransportError, UsageError
from ps.transport.requests import NOT_FINITE
from ps.transport.retry import WATCH, Attempts, Retry
from ps.transport.tls import Tls
from ps.wire import parameters_pb2 as pb
from ps.wire.framing import MESSAGE_BYTES, MalformedMessage, parse

SERVICE = pb.DESCRIPTOR.services_by_name["Parameters"]
_VERSION_KEY = "hogshead-version"
_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel must not take over a connection that is dead
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_retries", 0),
    ("SingleThreadedUnaryStream", 1),  # a pull needs no thread of its own
]
# The peer may be starting, stopping or out of reach: whatever it is asked, it may be asked again.
_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
_USERS = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED}
_CROWDED = "Concurrent RPC limit exceeded"


class Passing(Exception):
    """A call failed in a way that another try may mend; ``error`` is what to raise if none does."""

    def __init__(self, error: TransportError):
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Connection:
    """A channel and where it leads."""

    channel: grpc.Channel
    address: str


class Peer:
    """One shard's server.

    Args:
      index: of the shard.
      where: gives its address, ``HOST:PORT``; asked at first and after each failure, for a restarted shard has a new one.
      token: of the job.
      tls: certificates; None: unencrypted.
      retry: bounds.
      stopped: asked while waiting; raise in it to give up.
      replica: who asks, for errors.
    """

    def __init__(
        self,
        index: int,
        where: Callable[[], str],
        *,
        token: str | None,
        tls: Tls | None,
        retry: Retry,
        stopped: Callable[[], None],
        replica: int | None = None,
    ):
        self.index, self.retry, self.replica = index, retry, replica
        self._where, self._tls, self._stopped = where, tls, stopped
        self.metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._address = "an unknown address"
        self._closed = False

    def connection(self) -> Connection:
        """The connection, made anew where there is none."""
        with self._lock:
            if self._closed:
                raise self.error("the link was closed")
            if self._connection is None:
                self._address = self._where()
                self._connection = Connection(self._open(self._address), self._address)
            return self._connection

    def drop(self, connection: Connection | None) -> None:
        """After a failure: whoever needs a connection next asks where to. Other calls on this one are cut off and try again."""
        with self._lock:
            if connection is None or connection is not self._connection:
                return
            self._connection = None
        connection.channel.close()

    def close(self) -> None:
        """Close the connection; calls under way fail."""
        with self._lock:
            self._closed = True
        self.drop(self._connection)

    def stopped(self) -> None:
        """Raises what ends the waiting for a call."""
        if self._closed:
            raise self.error("the link was closed")
        self._stopped()

    def attempts(self, stopped: Callable[[], None] | None = None) -> Attempts:
        """Counts failures of a call here."""
        return Attempts(self.retry, stopped or self.stopped)

    def error(self, what: str, version: int | None = None) -> TransportError:
        """A failure that names this peer."""
        message = f"shard {self.index} at {self._address}: {what}"
        return TransportError(message, shard=self.index, replica=self.replica, version=version)

    def deadline(self) -> TransportError:
        """Nothing came of a call for too long."""
        return self.error(f"deadline of {self.retry.deadline_s:g} s passed")

    def meaning(self, error: grpc.RpcError, connection: Connection, expired: bool = False) -> Exception:
        """What a failed call is to raise: ``Passing`` where it should be tried again. The connection is dropped if need be."""
        code, reason = error.code(), error.details() or ""
        if expired or code == grpc.StatusCode.DEADLINE_EXCEEDED:
            self.drop(connection)
            return Passing(self.deadline())
        if code in _PASSING or (code == grpc.StatusCode.INTERNAL and "RST_STREAM" in reason):
            self.drop(connection)
            return Passing(self.error(f"not reached: {reason}"))
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED and _CROWDED in reason:
            return Passing(self.error("serves as many calls as it can"))
        if self._has_moved(connection):  # somebody else's server may have its old port
            self.drop(connection)
            return Passing(self.error(f"somebody else answered: {reason}"))
        return self._refusal(error, code, reason)

    def ask(
        self,
        method: str,
        request: Any,
        reply: Any,
        *,
        wait_s: float = 0.0,
        once: bool = False,
        stopped: Callable[[], None] | None = None,
    ) -> Any:
        """Make a call of one request and one reply.

        Args:
          method: its name.
          request, reply: message, and type of message.
          wait_s: how long the peer may take on purpose.
          once: do not try again after a try that may have reached the peer.
          stopped: instead of the peer's.

        Raises:
          TransportError: it failed, also when tried again.
          UsageError: the peer refused it as wrong.
        """
        attempts, raw = self.attempts(stopped), request.SerializeToString()
        while True:
            try:
                return parse(self._call(method, raw, wait_s), reply)
            except Passing as failure:
                if once:
                    raise failure.error from failure
                attempts.failed(failure.error)
            except MalformedMessage as nonsense:
                raise self.error(f"answered {method} with what is {nonsense}") from nonsense

    def connect(self) -> Connection:
        """As ``connection``; a failure to learn the address can pass."""
        try:
            return self.connection()
        except TransportError as error:
            raise Passing(error) from error

    def _call(self, method: str, raw: bytes, wait_s: float) -> bytes:
        connection = self.connect()
        try:
            call = connection.channel.unary_unary(path(method))
            return call(raw, timeout=wait_s + self.retry.deadline_s, metadata=self.metadata)
        except grpc.RpcError as error:
            raise self.meaning(error, connection) from error
        except ValueError as error:  # the channel was closed by another call that failed
            raise Passing(self.error("the connection was closed")) from error

    def _open(self, address: str) -> grpc.Channel:
        if self._tls is None:
            return grpc.insecure_channel(address, _OPTIONS)
        options = list(_OPTIONS)
        if self._tls.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self._tls.server_name))
        return grpc.secure_channel(address, self._tls.channel(), options)

    def _has_moved(self, connection: Connection) -> bool:
        try:
            return self._where() != connection.address
        except HogsheadError:
            return False

    def _refusal(self, error: Any, code: grpc.StatusCode, reason: str) -> Exception:
        if code == grpc.StatusCode.INVALID_ARGUMENT and reason.startswith(NOT_FINITE):
            message = f"shard {self.index} at {self._address}: {reason}"
            return NonFiniteError(message, shard=self.index, replica=self.replica)
        if code in _USERS:
            return UsageError(f"shard {self.index} at {self._address}: {reason}")
        version = dict(error.trailing_metadata() or ()).get(_VERSION_KEY)
        if code == grpc.StatusCode.FAILED_PRECONDITION:
            return self.error(reason, version=None if version is None else int(version))
        return self.error(f"{code.name}: {reason}")


def path(method: str) -> str:
    """The name of a method on the wire."""
    return f"/{SERVICE.full_name}/{method}"


def watch(peer: Peer, cancel: Callable[[], object], busy: Callable[[], bool] | None = None):
    """Cancel a call on ``peer`` when nothing comes of it within the deadline."""
    return WATCH.over(cancel, peer.retry.deadline_s, busy)
