"""What an examination looks at on a node.

It is sent to the nodes as it stands here, and needs nothing there but Ray and Python: that hogshead may be missing is one of the
things to find out.
"""

from __future__ import annotations


class NodeProbe:
    """An actor on one node."""

    def __init__(self):
        self._listener = None

    def facts(self):
        """Versions, shared memory and settings of the node, as plain values."""
        import os
        import platform
        import shutil

        import ray

        try:
            shm = shutil.disk_usage("/dev/shm")
            memory = {"total": shm.total, "free": shm.free, "writable": os.access("/dev/shm", os.W_OK)}
        except OSError:
            memory = {"total": 0, "free": 0, "writable": False}
        return {
            "python": platform.python_version(),
            "ray": ray.__version__,
            "token": self._checks_tokens(),
            "shm": memory,
            "hogshead": self._hogshead(),
        }

    def clock(self):
        """Seconds since 1970, as this node has it."""
        import time

        return time.time()

    def listen(self, address):
        """Listen on the node's address, on a port that the system chooses, as a shard does; returns the port."""
        import socket

        self._listener = socket.create_server((address, 0), backlog=256)
        return self._listener.getsockname()[1]

    def reach(self, peers, timeout_s):
        """Which of ``peers`` ((address, port), …) cannot be connected to: a list of (address, reason)."""
        import socket
        from concurrent.futures import ThreadPoolExecutor

        def attempt(peer):
            try:
                socket.create_connection(tuple(peer), timeout=timeout_s).close()
                return None
            except OSError as error:
                return [peer[0], "no answer" if isinstance(error, TimeoutError) else str(error.strerror)]

        with ThreadPoolExecutor(16) as pool:
            return [failure for failure in pool.map(attempt, peers) if failure]

    def job(self, tables, bundle):
        """Try what a job needs of a node: its files unpacked, its task and rules imported, its data in place.

        Returns:
          {"error": None or one line, "missing": [(option, path), …]}.
        """
        import os
        import shutil
        import tempfile

        folder = tempfile.mkdtemp(prefix="hogshead-doctor-")
        try:
            from deploy.cluster.bundle import Bundle, unpack
            from worker.tasks import task_class

            job = unpack(Bundle(**bundle), folder, tables)
            cls = task_class(job.task.name)
            job.build_strategy(), job.build_rule(), job.build_local_rule()
            missing = []
            for option in getattr(cls, "paths", ()):
                value = job.task_options.get(option)
                for path in value if isinstance(value, list) else [value]:
                    if isinstance(path, str) and os.path.isabs(path) and not os.path.exists(path):
                        missing.append([option, path])
            return {"error": None, "missing": missing}
        except Exception as error:
            cause = error.__cause__ or error
            text = str(error) if cause is error else f"{error} ({type(cause).__name__}: {cause})"
            return {"error": f"{type(error).__name__}: {text}".splitlines()[0][:500], "missing": []}
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @staticmethod
    def _checks_tokens():
        try:
            from ray._private.authentication.authentication_utils import is_token_auth_enabled

            return bool(is_token_auth_enabled())
        except Exception:  # an older Ray has none
            return None

    @staticmethod
    def _hogshead():
        """Version and digest of the code, or the error of importing it."""
        import hashlib
        import importlib
        import os
        from importlib import metadata

        try:
            modules = [importlib.import_module(name) for name in ("hogshead", "ps", "worker", "deploy")]
            importlib.import_module("deploy.job")
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        whole = hashlib.sha256()
        for module in modules:
            top = os.path.dirname(module.__file__)
            files = [module.__file__]
            if module.__name__ != "hogshead":
                files = sorted(
                    os.path.join(parent, name)
                    for parent, _, names in os.walk(top)
                    for name in names
                    if name.endswith(".py")
                )
            for path in files:
                with open(path, "rb") as file:
                    whole.update(os.path.relpath(path, top).encode() + b"\0" + file.read() + b"\0")
        try:
            version = metadata.version("hogshead")
        except metadata.PackageNotFoundError:
            version = "not installed"
        return {"version": version, "digest": whole.hexdigest(), "folder": os.path.dirname(modules[0].__file__)}
