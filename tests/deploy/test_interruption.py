"""^C and SIGTERM come where the launcher waits, not in the middle of something."""

from __future__ import annotations

import os
import signal
import threading

import pytest

import hogshead
from deploy import crew
from deploy.interruption import Interruption
from tests.deploy.conftest import LEAST_SQUARES

BOTH = pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])


def send(sign):
    os.kill(os.getpid(), sign)


@BOTH
def test_it_comes_where_it_is_admitted(sign):
    reached = []
    with Interruption() as interruption:
        with interruption.admitted():
            reached.append("nothing asked")
        send(sign)
        reached.append("after the signal")
        with pytest.raises(KeyboardInterrupt), interruption.admitted():
            reached.append("never")
        with interruption.admitted():
            reached.append("once only")
    assert reached == ["nothing asked", "after the signal", "once only"]


@BOTH
def test_it_ends_a_wait(sign):
    with Interruption() as interruption, pytest.raises(KeyboardInterrupt), interruption.admitted():
        threading.Timer(0.01, send, (sign,)).start()
        threading.Event().wait(60)


@BOTH
def test_whoever_asks_twice_is_obeyed_at_once(sign):
    with Interruption():
        send(sign)
        with pytest.raises(KeyboardInterrupt):
            send(sign)


def test_handlers_are_as_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interruption():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_who_ignores_it_still_does():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            send(signal.SIGINT)
            with interruption.admitted():
                pass
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_cannot_and_does_without():
    went_on = []

    def work():
        with Interruption() as interruption, interruption.admitted():
            went_on.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert went_on == [True]


@BOTH
def test_a_message_is_read_whole(sign, monkeypatch, tmp_path):
    """The rest of one that was half read was taken for the length of the next: the launcher then waited for ever."""
    whole, receive = [], crew.receive

    def interrupted(connection):
        first = not whole
        if first:
            send(sign)
        message = receive(connection)
        whole.append(message)
        return message

    monkeypatch.setattr(crew, "receive", interrupted)
    result = hogshead.train(
        task=LEAST_SQUARES, strategy="easgd", stop={"epochs": 100_000}, run=tmp_path / "run", quiet=True
    )
    assert whole and result.summary["status"] == "interrupted" and result.summary["error"] is None
