"""Imports run downwards only, and algorithms know no clock, no chance but the one handed to them, and no surroundings."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TRANSPORTS = {"ray", "grpc", "torch", "jax", "optax", "multiprocessing"}
FORBIDDEN = {"ps": {"worker", "deploy", "hogshead"} | TRANSPORTS, "worker": {"deploy", "hogshead"} | TRANSPORTS}
HEAVY = {"deploy", "hogshead", "ray", "grpc", "torch", "jax", "sklearn"}
# The seams to libraries that are installed on demand: they import them inside functions, when they are used.
ADAPTERS = {
    "torch": ("ps/rules/torch_rule", "worker/tasks/torch_"),
    "jax": ("ps/rules/optax_rule", "worker/tasks/jax_"),
    "grpc": ("ps/transport/",),
}
# The ends of the wire. They are imported where a shard is served or reached over it, and by nobody below that.
WIRED = {f"ps.transport.{name}" for name in ("hosting", "server", "tls", "peer", "lane", "receiving", "remote")}
ALGORITHMS = ["ps/rules", "worker/strategies", "worker/coordinator.py", "ps/rounds.py", "ps/elastic.py", "ps/layout.py",
              "ps/reader_memory.py", "ps/shard.py", "ps/stepper.py", "ps/admission.py", "worker/stopping.py",
              "worker/commands.py", "worker/gate.py", "worker/membership.py"]  # fmt: skip
SURROUNDINGS = {"time", "datetime", "random", "secrets", "os", "sys", "pathlib", "io", "socket", "subprocess", "threading",
                "asyncio", "fcntl", "mmap", "tempfile", "uuid"}  # fmt: skip


def modules(*places: str) -> list[Path]:
    found: list[Path] = []
    for place in places:
        path = ROOT / place
        found.extend([path] if path.suffix == ".py" else sorted(path.rglob("*.py")))
    assert found
    return found


def imported(path: Path) -> Iterator[str]:
    """Full names of what a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_downwards_only(package):
    wrong = {
        f"{name_of(path)} imports {name}"
        for path in modules(package)
        for name in imported(path)
        if name.split(".")[0] in FORBIDDEN[package]
        and not name_of(path).startswith(ADAPTERS.get(name.split(".")[0], ()))
    }
    assert not wrong


@pytest.mark.parametrize("place", ALGORITHMS)
def test_algorithms_know_no_surroundings(place):
    for path in modules(place):
        names = {name.split(".")[0] for name in imported(path)}
        assert not names & SURROUNDINGS, f"{name_of(path)} imports {names & SURROUNDINGS}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("np.random."):
                # The types may be named; a generator is made by whoever owns the seed, and global state is never touched.
                assert node.attr in ("Generator", "SeedSequence", "default_rng"), (
                    f"{name_of(path)}: {ast.unparse(node)}"
                )
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("default_rng"):
                assert node.args, f"{name_of(path)}: a generator without a seed"
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("open", "input", "print", "exec", "eval"), f"{name_of(path)} calls {called}"


def test_importing_everything_below_loads_nothing_from_above():
    """As it is at run time: what numba and numpy import by themselves is theirs, but none of it may be Ray, gRPC or torch."""
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules("ps", "worker")]
    names = [name.removesuffix(".__init__") for name in names if name not in WIRED]
    program = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        f"print(*sorted({{name.split('.')[0] for name in sys.modules}} & {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
