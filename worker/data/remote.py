"""Files behind URLs, through fsspec: which texts are URLs, opening their file system, and doing so in another process.

File systems of networks keep a thread, and a launcher that forks its workers must not have one. So whatever talks to such
a file system runs in a Python process of its own (``aside``); others (``memory://``, ``ftp://``) are used in place.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ps import errors
from ps.errors import DataError, HogsheadError, UsageError

# Two letters at least: one would be a drive.
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+::)*[A-Za-z][A-Za-z0-9+.-]+://")
_CREDENTIALS = re.compile(r"//[^/@\s]+@")
_ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from worker.data.remote import {{entry}}; {{entry}}({{arguments}})"
_CONNECT_S, _SILENCE_S = 30, 120  # a large file may take long, but not say nothing for long


def is_url(value: object) -> bool:
    """``s3://bucket/a.csv`` and the like, chained ones (``simplecache::s3://…``) too; not ``hogshead:a9a``."""
    return isinstance(value, str) and _URL.match(value) is not None


def shown(url: str) -> str:
    """The URL as it may stand in a message: without user and password."""
    return _CREDENTIALS.sub("//…@", url)


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
      DataError: the scheme is unknown, or a package that it needs is not installed; the message names both.
    """
    _classes(url)
    from fsspec.core import url_to_fs

    scheme = _schemes(url)[-1]
    try:
        options = _http_options() if scheme in ("http", "https") else {}
        return url_to_fs(url, **({scheme: options} if "::" in url and options else options))
    except ImportError as error:
        raise _missing(url, error) from error
    except Exception as error:
        raise DataError(f"{shown(url)}: cannot be opened: {explain(error)}") from error


def needs_process(url: str) -> bool:
    """Whether its file system keeps a thread, so that it is to be used ``aside``.

    Raises:
      DataError: as ``filesystem``.
    """
    return any(getattr(cls, "async_impl", False) for cls in _classes(url))


def run(function: str, *arguments: Any, url: str) -> Any:
    """Call ``module:function`` here or, where the URL's file system keeps a thread, aside; see ``aside``."""
    return aside(function, *arguments) if needs_process(url) else _function(function)(*arguments)


def aside(function: str, *arguments: Any) -> Any:
    """Call ``module:function`` in a Python process of its own; arguments and result travel as JSON.

    Raises:
      UsageError, HogsheadError: as the function raised it, by its class.
      HogsheadError: the process ended otherwise.
    """
    request = json.dumps({"function": function, "arguments": arguments})
    done = subprocess.run(command("answer"), input=request, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise HogsheadError(f"{function} ended with code {done.returncode}, and said: {said[0]}") from None
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"])
    return answer["result"]


def command(entry: str, arguments: str = "", module: str = __name__) -> list[str]:
    """The command line of a process that calls a function of ours, whatever lies in the working directory."""
    program = _PROGRAM.replace(__name__, module).format(entry=entry, arguments=arguments)
    return [sys.executable, "-P", "-c", program]


def answer() -> None:
    """The other side of ``aside``: a request on standard input, the answer on standard output."""
    reply = private_output()
    request = json.loads(sys.stdin.read())
    try:
        result = {"result": _function(request["function"])(*request["arguments"])}
    except (UsageError, HogsheadError) as error:
        result = {"error": type(error).__name__, "message": str(error)}
    with reply:
        json.dump(result, reply)


def private_output() -> Any:
    """Standard output as a file of text of one's own; what others print goes to standard error from now on."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def explain(error: BaseException) -> str:
    """An error of a file system in one line."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    text = " ".join(str(error).split()) or "no reason given"
    return shown(text if isinstance(error, OSError) else f"{type(error).__name__}: {text}")


def _classes(url: str) -> list[type]:
    try:
        from fsspec import get_filesystem_class
    except ImportError as error:
        raise _missing(url, error) from error
    try:
        return [get_filesystem_class(scheme) for scheme in _schemes(url)]
    except ImportError as error:
        raise _missing(url, error) from error
    except ValueError as error:
        raise DataError(f"{shown(url)}: {error}; e.g. s3://bucket/file, https://host/file or file:///path") from error


def _schemes(url: str) -> list[str]:
    """``["zip", "s3"]`` of ``zip://a.csv::s3://bucket/b.zip``."""
    return [part.partition("://")[0] for part in url.split("::")]


def _missing(url: str, error: ImportError) -> DataError:
    module = next(
        (cause.name for cause in (error.__cause__, error) if isinstance(cause, ImportError) and cause.name), ""
    )
    package = module.partition(".")[0]
    if not package:
        return DataError(f"{shown(url)}: needs a package that is not installed here: {error}")
    return DataError(f"{shown(url)}: needs the package {package}, which is not installed here: pip install {package}")


def _http_options() -> dict[str, Any]:
    """For HTTP: no limit on the whole, as files may be large; and files as they lie there, not compressed on the way."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}, "headers": {"Accept-Encoding": "identity"}}


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
