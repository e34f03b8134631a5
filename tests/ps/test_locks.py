"""Locks: they exclude threads and processes, and the kernel frees those of the dead."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from ps import locks
from ps.locks import LockFile
from ps.segment import FOLDER, sweep

from .building import forked, until


@pytest.fixture
def file():
    file = LockFile("test")
    yield file
    file.close()


def is_free(file: LockFile, index: int) -> bool:
    """Seen from another process; the answer comes at once."""

    def look(connection):
        try:
            fcntl.lockf(file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
            connection.send(True)
        except BlockingIOError:
            connection.send(False)

    with forked(look) as (process,):
        answer = process.connection.recv()
        process.join()
    return answer


def test_a_lock_excludes_other_processes_and_is_given_back(file):
    lock = file.lock(1)
    with lock:
        assert not is_free(file, 1)
        assert is_free(file, 0) and is_free(file, 2)
    assert is_free(file, 1)
    with pytest.raises(RuntimeError), lock:
        raise RuntimeError
    assert is_free(file, 1)


def test_a_lock_excludes_other_threads(file):
    lock, inside, worst = file.lock(0), [], []

    def work():
        for _ in range(300):
            with lock:
                inside.append(1)
                worst.append(len(inside))
                os.sched_yield()
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worst) == 900 and max(worst) == 1


def test_a_killed_process_leaves_no_lock_held(file):
    def hold(connection):
        file.lock(0).__enter__()
        connection.send("held")
        signal.pause()

    with forked(hold) as (process,):
        assert process.connection.recv() == "held" and not is_free(file, 0)
        process.kill()
    with file.lock(0):
        pass


def test_who_waits_gets_the_lock_when_its_holder_is_killed(file):
    def hold(connection):
        file.lock(0).__enter__()
        connection.send("held")
        signal.pause()

    def wait(connection):
        with file.lock(0):
            connection.send("got it")

    with forked(hold) as (holder,):
        holder.connection.recv()
        with forked(wait) as (waiter,):
            until(lambda: blocked(waiter.pid))
            assert not waiter.connection.poll()
            holder.kill()
            assert waiter.connection.recv() == "got it"
            waiter.join()


def blocked(pid: int) -> bool:
    """``pid`` waits for a lock, says the kernel."""
    return any("->" in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


def test_threads_that_wait_crosswise_are_no_deadlock(file, monkeypatch):
    """The kernel sees processes, not threads, and would refuse the fourth of these with EDEADLK."""

    def other(connection):
        second = file.lock(1)
        second.__enter__()
        connection.send("holds 1")

        def take_first():
            with file.lock(0):
                pass

        connection.recv()  # the first is taken
        waiting = threading.Thread(target=take_first)
        waiting.start()
        connection.recv()  # told to let go
        second.__exit__()
        waiting.join()

    first, took, refused, give_way = file.lock(0), [], threading.Event(), os.sched_yield

    def take_second():
        try:
            with file.lock(1):
                took.append(1)
        finally:
            refused.set()

    def ask_again():
        refused.set()
        give_way()

    with forked(other) as (process,):
        with first:
            assert process.connection.recv() == "holds 1"
            process.connection.send("first is taken")
            until(lambda: blocked(process.pid))
            monkeypatch.setattr(locks.os, "sched_yield", ask_again)
            thread = threading.Thread(target=take_second)
            thread.start()
            refused.wait()
            process.connection.send("let go")
            thread.join()
        process.join()
    assert took == [1]


def test_an_alleged_deadlock_is_asked_about_again_and_other_errors_are_raised(file, monkeypatch):
    answers = [OSError(errno.EDEADLK, "deadlock"), OSError(errno.EDEADLK, "deadlock"), None]
    real = fcntl.lockf

    def answer(descriptor, how, *args):
        if how == fcntl.LOCK_EX and answers and (error := answers.pop(0)):
            raise error
        return real(descriptor, how, *args)

    monkeypatch.setattr(locks.fcntl, "lockf", answer)
    lock = file.lock(0)
    with lock:
        assert not answers
    answers[:] = [OSError(errno.ENOLCK, "no locks")]
    with pytest.raises(OSError, match="no locks"), lock:
        pass
    with lock:  # not left half taken
        pass


def test_an_interrupt_while_waiting_leaves_the_lock_to_the_next(file, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    lock = file.lock(0)
    with monkeypatch.context() as patch:
        patch.setattr(locks.fcntl, "lockf", interrupt)
        with pytest.raises(KeyboardInterrupt), lock:
            pass
    with lock:
        assert not is_free(file, 0)
    assert is_free(file, 0)


def test_the_file_goes_with_its_maker():
    file = LockFile("test")
    with forked(lambda _connection: file.close()) as (process,):
        process.join()
    assert file.path.exists()
    file.close()
    assert not file.path.exists()
    file.close()  # twice is once


def test_the_file_of_a_dead_maker_is_swept():
    def make_and_wait(connection):
        connection.send(LockFile("test").path.name)
        connection.recv()

    with forked(make_and_wait) as (process,):
        path = FOLDER / process.connection.recv()
        sweep()
        assert path.exists()
        process.kill()
    sweep()  # unless another run of ours on this machine was quicker
    assert not path.exists()


def test_the_holder_of_a_lock_is_known(file):
    """Also while it is stopped, so that it can be told from those that wait for it."""
    lock = file.lock(1)

    def hold(connection):
        with lock:
            connection.send(True)
            os.kill(os.getpid(), signal.SIGSTOP)

    with forked(hold) as (process,):
        assert process.connection.recv()
        assert lock.holder() == process.pid and file.lock(0).holder() is None
        process.kill()
        assert lock.holder() is None
