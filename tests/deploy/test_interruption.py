"""^C, SIGTERM and SIGHUP come where the launcher waits, not in the middle of something."""

from __future__ import annotations

import os
import signal
import threading

import pytest

import hogshead
from deploy import crew
from deploy.interruption import Interruption, held_back, termination_as_interrupt
from tests.deploy.conftest import LEAST_SQUARES

BOTH = pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
STOPS = pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])


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
def test_ctrl_c_after_another_signal_comes_at_once(sign):
    with Interruption():
        send(sign)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


@BOTH
def test_what_a_supervisor_sends_after_another_signal_is_not_counted(sign):
    """Systemd sends SIGTERM and SIGHUP in a row; a shell that ends passes on a SIGHUP that the kernel has sent already."""
    stopped = []
    with Interruption() as interruption:
        send(sign)
        send(signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt), interruption.admitted():
            stopped.append("never")
        with interruption.admitted():
            send(signal.SIGTERM)
            stopped.append("saved")
    assert stopped == ["saved"]


@STOPS
def test_a_command_without_a_launcher_is_interrupted_once(sign):
    with termination_as_interrupt():
        with pytest.raises(KeyboardInterrupt):
            send(sign)
        send(signal.SIGTERM)
        send(signal.SIGHUP)


@STOPS
def test_a_signal_that_a_launcher_has_taken_does_not_interrupt_what_follows(sign):
    with termination_as_interrupt():
        with Interruption() as interruption, pytest.raises(KeyboardInterrupt), interruption.admitted():
            send(sign)
        send(signal.SIGTERM)


@BOTH
def test_a_signal_that_is_held_back_comes_at_the_end(sign):
    reached = []
    with termination_as_interrupt(), pytest.raises(KeyboardInterrupt), held_back():
        send(sign)
        reached.append("whole")
    assert reached == ["whole"]


def test_handlers_are_as_before():
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in signals]
    with termination_as_interrupt(), Interruption(), held_back():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in signals] == before


@BOTH
def test_a_signal_that_is_ignored_stays_ignored(sign):
    before = signal.signal(sign, signal.SIG_IGN)
    try:
        with termination_as_interrupt(), held_back(), Interruption() as interruption:
            send(sign)
            with interruption.admitted():
                pass
    finally:
        signal.signal(sign, before)


def test_a_program_keeps_its_own_handler_of_sighup():
    heard = []
    before = signal.signal(signal.SIGHUP, lambda *_: heard.append(True))
    try:
        with termination_as_interrupt(), Interruption() as interruption, interruption.admitted():
            send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert heard == [True]


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
