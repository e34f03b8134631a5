"""A lane: one bidirectional stream on which changes travel one after another and are answered in order.

So many may be on their way at once, which hides the time that one takes. What is not answered when the stream breaks is sent
again on the next stream, from the oldest on; the shard's watermarks see to it that nothing is applied twice.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import grpc

from ps.transport.peer import Connection, Passing, Peer, path, watch

_LOOK_S = 0.05


@dataclass(eq=False)
class Errand:
    """One change to be carried out at a shard.

    Attributes:
      messages: gives the request's messages, anew for each try.
      answer: takes one message of the answer; returns the result, or None while more is to come.
      begin: forgets half an answer, before each try.
      future: gets the result.
    """

    messages: Callable[[], Iterator[bytes]]
    answer: Callable[[bytes], Any]
    begin: Callable[[], None] = lambda: None
    future: Future = field(default_factory=Future)


class Lane:
    """A stream to one peer that is opened when there is something to send, and again after it broke.

    Args:
      peer: the other end.
      method: name of the call.
      window: errands on their way at once; one more waits for the oldest.
    """

    def __init__(self, peer: Peer, method: str, window: int):
        self._peer, self._method, self._window = peer, method, window
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)  # something is to be sent, or the stream is another one
        self._room = threading.Condition(self._lock)  # something was answered, or given up
        self._pending: deque[Errand] = deque()  # not answered yet, oldest first
        self._unsent: deque[Errand] = deque()  # those of them that the present stream has not taken
        self._stream: object | None = None  # the present one's mark
        self._call: Any = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def start(self, errand: Errand) -> Future:
        """Send an errand; waits while the window is full."""
        with self._lock:
            self._wait(lambda: self._closed or len(self._pending) < self._window)
            if self._closed:
                raise self._peer.error("the link was closed")
            self._pending.append(errand)
            self._unsent.append(errand)
            if self._thread is None:
                name = f"{self._method}-{self._peer.index}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
            self._work.notify_all()
        return errand.future

    def drain(self) -> None:
        """Wait until nothing is on its way."""
        with self._lock:
            self._wait(lambda: not self._pending)

    def close(self) -> None:
        """Give up what is on its way and end the thread."""
        with self._lock:
            self._closed, self._stream = True, None
            self._work.notify_all()
            self._room.notify_all()
        self._cancel()
        if self._thread is not None:
            self._thread.join()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._has_work():
            try:
                self._deliver()
            except (
                BaseException
            ) as error:  # what is asked while waiting may raise anything; whoever waits must hear of it
                self._fail_all(error)
        self._fail_all(self._peer.error("the link was closed"))

    def _has_work(self) -> bool:
        with self._lock:
            while not self._pending and not self._closed:
                self._work.wait()
            return not self._closed

    def _deliver(self) -> None:
        """Open streams until all errands are answered or one cannot be."""
        attempts = self._peer.attempts()
        while self._has_pending():
            try:
                self._converse(attempts.succeeded)
            except Passing as failure:
                if self._has_pending():
                    attempts.failed(failure.error)
            except Exception as error:  # answers come in order: what was refused is the oldest
                self._refused(error)

    def _has_pending(self) -> bool:
        return bool(self._pending) and not self._closed

    def _converse(self, succeeded: Callable[[], None]) -> None:
        """Send and take answers on one stream, until it breaks."""
        connection, mark = self._peer.connect(), object()
        with self._lock:
            self._stream = mark
            self._unsent = deque(self._pending)
            for errand in self._pending:
                errand.begin()
        try:
            with watch(self._peer, self._cancel, lambda: bool(self._pending)) as self._watched:
                self._listen(self._open(connection, mark), connection, succeeded)
        finally:
            with self._lock:
                self._stream, self._call = None, None
                self._work.notify_all()

    def _open(self, connection: Connection, mark: object) -> Any:
        try:
            stream = connection.channel.stream_stream(path(self._method))
            call = stream(self._outgoing(mark), metadata=self._peer.metadata)
        except ValueError as error:  # the channel was closed by another call that failed
            raise Passing(self._peer.error("the connection was closed")) from error
        with self._lock:
            self._call = call
            if self._closed:
                call.cancel()
        return call

    def _cancel(self) -> None:
        call = self._call
        if call is not None:
            call.cancel()

    def _listen(self, call: Any, connection: Connection, succeeded: Callable[[], None]) -> None:
        try:
            for raw in call:
                self._watched.progress()
                self._take(raw, call, connection)
                succeeded()
        except grpc.RpcError as error:
            raise self._peer.meaning(error, connection, self._watched.expired) from error
        self._peer.drop(connection)
        raise Passing(self._peer.error("the stream was ended"))

    def _take(self, raw: bytes, call: Any, connection: Connection) -> None:
        with self._lock:
            errand = self._pending[0] if self._pending else None
        if errand is None:
            call.cancel()
            raise self._peer.error(f"answered a {self._method} that was not sent")
        try:
            result = errand.answer(raw)
        except BaseException:
            call.cancel()
            raise
        if result is not None:
            with self._lock:
                self._pending.popleft()
                self._room.notify_all()
            errand.future.set_result(result)

    def _outgoing(self, mark: object) -> Iterator[bytes]:
        """The messages of a stream; gRPC takes them in a thread of its own."""
        while True:
            with self._lock:
                while self._stream is mark and not self._unsent:
                    self._work.wait()
                if self._stream is not mark:
                    return
                errand = self._unsent.popleft()
            for message in errand.messages():
                self._watched.progress()  # the one before has gone out
                yield message

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _refused(self, error: Exception) -> None:
        with self._lock:
            if not self._pending:
                return
            errand = self._pending.popleft()
            self._room.notify_all()
        errand.future.set_exception(error)

    def _fail_all(self, error: BaseException) -> None:
        with self._lock:
            failed, self._pending = list(self._pending), deque()
            self._unsent.clear()
            self._room.notify_all()
        for errand in failed:
            errand.future.set_exception(error)

    def _wait(self, done: Callable[[], bool]) -> None:
        """With the condition held, until ``done()``; looks now and then whether to stop waiting."""
        while not done():
            if not self._room.wait(_LOOK_S):
                self._peer.stopped()
