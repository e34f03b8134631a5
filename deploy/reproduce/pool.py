"""Independent runs side by side on the cores of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from ps.errors import HogsheadError


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def parallel(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """``[function(item) for item in items]``, in as many processes as there are cores and items.

    Args:
      function: at the top level of a module; its BLAS has one thread.
      items: values that can be pickled, as must be what ``function`` returns.

    Raises:
      HogsheadError: a process died, mostly for lack of memory. Whatever ``function`` raises, the first in order.
    """
    workers = min(cores(), len(items))
    if workers < 2:
        return [function(item) for item in items]
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    others = multiprocessing.active_children()
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), initializer=_begin)
    try:
        futures = [executor.submit(function, item) for item in items]
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise HogsheadError(f"one of {workers} processes died, perhaps for lack of memory") from error
    except KeyboardInterrupt:  # what runs may take minutes more
        for process in set(multiprocessing.active_children()) - set(others):
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _begin() -> None:
    """One thread, also where BLAS was loaded before the command line could say so; ^C ends the process in silence."""
    import signal

    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
