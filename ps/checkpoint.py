"""Checkpoints: safetensors per shard and per replica plus one JSON manifest, written beside, checksummed, and renamed into place.

::

    checkpoint/
      00000000042/            one per save, numbered upwards; the last K are kept
        manifest.json         layout, ranges, versions, checksums, data position, replicas' scalars
        shard-0.safetensors   center, slot.NAME, header, watermarks, row_steps.TABLE, memory, owners
        replica-0.safetensors a replica's own arrays (see worker.replica)

A checkpoint restores onto another number of shards or replicas. There is no pickle in it. Zeros are left out (see ps.zeros).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ps import zeros
from ps.errors import CheckpointError, UsageError
from ps.layout import Layout
from ps.shard import ROUND, STEPS, VERSION, Shard
from ps.state import State

FORMAT = 2
READABLE = (1, 2)  # 1 had all zeros in it
MANIFEST = "manifest.json"
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class Writer:
    """Writes checkpoints into one folder.

    Attributes:
      folder: made when the first is written.
      keep: how many finished checkpoints are kept, >= 1.
    """

    folder: Path
    keep: int = 3

    def __post_init__(self):
        if self.keep < 1:
            raise UsageError(
                f"checkpoint: keep must be >= 1, got {self.keep}; leave every_epochs out to save only at the end"
            )

    def begin(self) -> Path:
        """A folder to put the parts into; ``commit`` makes it a checkpoint.

        Raises:
          CheckpointError: it cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # After all that is there, also what somebody has taken a manifest from: a rename onto it would fail.
            number = max((int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()), default=-1) + 1
            for stale in self.folder.glob(f"{_PARTIAL}*"):
                shutil.rmtree(stale)
            partial = self.folder / f"{_PARTIAL}{number:011d}"
            partial.mkdir()
        except OSError as error:
            raise CheckpointError(f"{self.folder}: cannot begin a checkpoint: {error.strerror}") from error
        return partial

    def commit(self, partial: Path, manifest: Mapping[str, Any]) -> Path:
        """Checksum the parts, write the manifest, rename, and drop the oldest.

        Raises:
          CheckpointError: the disk is full or the like; nothing older was touched.
        """
        try:
            files = {path.name: {"sha256": _digest(path)} for path in sorted(partial.glob("*.safetensors"))}
            body = json.loads(json.dumps({"format": FORMAT, **manifest, "files": files}))
            with open(partial / MANIFEST, "w", encoding="utf-8") as file:
                json.dump({**body, "sha256": _digest_of(body)}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            _sync(partial)
            final = self.folder / partial.name.removeprefix(_PARTIAL)
            os.rename(partial, final)
            _sync(self.folder)
        except OSError as error:
            self.abandon(partial)
            raise CheckpointError(
                f"{self.folder}: cannot write a checkpoint: {error.strerror}; older ones are intact"
            ) from error
        for old in checkpoints(self.folder)[: -self.keep]:
            doomed = self.folder / f"{_PARTIAL}{old.name}"
            with suppress(OSError):  # renamed first: half removed, it must not look like a checkpoint
                old.rename(doomed)
            self.abandon(doomed)
        return final

    def abandon(self, partial: Path) -> None:
        """Remove the parts of a checkpoint that will not be finished."""
        shutil.rmtree(partial, ignore_errors=True)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to a safetensors file and to the disk.

    Raises:
      CheckpointError: the disk is full or the like.
    """
    try:
        tensors, metadata = zeros.without_zeros(arrays)
        save_file(tensors, path, metadata or None)
        _sync(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path.parent.parent}: cannot write a checkpoint: {error}; older ones are intact"
        ) from error


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints in ``folder``, oldest first."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.name.isdecimal() and (path / MANIFEST).is_file())
    return sorted(found, key=lambda path: int(path.name))


def shard_arrays(shard: Shard) -> dict[str, np.ndarray]:
    """Copies of everything a shard must not forget; take them while nobody pushes, and all shards are one cut."""
    arrays = {"center": shard.center, "header": shard.header, "watermarks": shard.watermarks}
    arrays |= {f"slot.{name}": slot for name, slot in shard.slots.items()}
    arrays |= {f"row_steps.{name}": steps for name, steps in shard.row_steps.items() if steps.size}
    if shard.memory is not None:
        arrays |= {"memory": shard.memory.rows, "owners": shard.memory.owners}
    return {name: array.copy() for name, array in arrays.items()}


def load_shard(shard: Shard, arrays: Mapping[str, np.ndarray]) -> None:
    """Write what ``shard_arrays`` of a shard of the same range gave into ``shard``, while nobody pushes."""
    np.copyto(shard.center, arrays["center"])
    for name, slot in shard.slots.items():
        np.copyto(slot, arrays[f"slot.{name}"])
    for name, steps in shard.row_steps.items():
        if steps.size:
            np.copyto(steps, arrays[f"row_steps.{name}"])
    _restore_words(shard, arrays)


def describe_state(state: State) -> dict[str, Any]:
    """The manifest's part about the shards."""
    rule = state.shards[0].rule
    return {
        "layout": state.layout.to_json(),
        "rule": rule.name,
        "slots": list(rule.slots),
        "shards": [
            {"start": shard.range.start, "stop": shard.range.stop, "version": shard.version} for shard in state.shards
        ],
    }


class Checkpoint:
    """One finished checkpoint, verified.

    Args:
      path: its folder.

    Raises:
      CheckpointError: it is no checkpoint, of another format, incomplete, or a checksum differs.
    """

    def __init__(self, path: Path):
        self.path = path
        self.manifest = self._read_manifest()
        try:
            self.layout = Layout.from_json(self.manifest["layout"])
            digests = {name: facts["sha256"] for name, facts in self.manifest["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._foreign(error) from error
        for name, digest in digests.items():
            self._verify(name, digest)

    @staticmethod
    def newest(folder: Path) -> Checkpoint:
        """The newest checkpoint in ``folder``.

        Raises:
          CheckpointError: there is none, or it is corrupt; the message says how to use an older one.
        """
        found = checkpoints(folder)
        if not found:
            raise CheckpointError(f"{folder}: there is no checkpoint")
        return Checkpoint(found[-1])

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of one file, e.g. ``shard-0`` or ``replica-1``."""
        try:
            with safe_open(self.path / f"{name}.safetensors", framework="numpy") as file:
                return {array: zeros.read(file, array) for array in zeros.names(file)}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.path / name}: cannot be read: {error}") from error

    def has(self, name: str) -> bool:
        """There is a file of that name in it."""
        return f"{name}.safetensors" in self.manifest["files"]

    def vector(self, slot: str | None = None) -> np.ndarray:
        """The whole center (N,), or the whole of a slot."""
        name = "center" if slot is None else f"slot.{slot}"
        parts = self.shards()
        if any(name not in part for part in parts):
            raise CheckpointError(f"{self.path}: has no {name}; there are: {', '.join(sorted(parts[0]))}")
        return np.concatenate([part[name] for part in parts])

    def incarnations(self) -> list[int]:
        """The newest incarnation that has pushed, by the number at the shards, be it a replica's, a group's or another client's.

        A run that goes on from here may use the numbers otherwise; whoever has one must be newer than who had it before.
        """
        newest: list[int] = []
        for index in range(len(self.manifest["shards"])):
            path = self.path / f"shard-{index}.safetensors"
            try:
                with safe_open(path, framework="numpy") as file:
                    found = zeros.read(file, "watermarks")[:, 0].tolist()
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path}: cannot be read: {error}") from error
            newest = [max(pair) for pair in zip(newest, found)] if newest else found
        return newest

    def shards(self) -> list[dict[str, np.ndarray]]:
        """The arrays of every shard."""
        return [self.arrays(f"shard-{index}") for index in range(len(self.manifest["shards"]))]

    def _read_manifest(self) -> dict[str, Any]:
        path = self.path / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            found = manifest["format"]
            if found not in READABLE:
                known = " and ".join(map(str, READABLE))
                raise CheckpointError(f"{path}: has format {found}, this version reads the formats {known}")
            manifest["files"], manifest["layout"], manifest["shards"], manifest["slots"]
            digest = manifest.pop("sha256")
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._foreign(error) from error
        if _digest_of(manifest) != digest:
            raise CheckpointError(f"{path}: its checksum differs from its content, the file is corrupt{self._remedy()}")
        return manifest

    def _foreign(self, error: Exception) -> CheckpointError:
        return CheckpointError(f"{self.path / MANIFEST}: not a manifest of Hogshead: {error!r}{self._remedy()}")

    def _verify(self, name: str, digest: str) -> None:
        path = self.path / name
        if not path.is_file():
            raise CheckpointError(f"{path}: is missing{self._remedy()}")
        if _digest(path) != digest:
            raise CheckpointError(
                f"{path}: its checksum differs from the manifest's, the file is corrupt{self._remedy()}"
            )

    def _remedy(self) -> str:
        known = checkpoints(self.path.parent)
        older = known[: known.index(self.path)] if self.path in known else []
        return (
            f"; remove {self.path} to go on from the older {older[-1].name}"
            if older
            else "; there is no older checkpoint"
        )


def restore_state(checkpoint: Checkpoint, state: State) -> None:
    """Write a checkpoint's shards into ``state``, which may have another number of shards or replicas.

    Watermarks and reader memory of replicas that no longer exist are dropped. Where the shards are cut otherwise, every shard
    starts at the highest version and watermarks, and what delay-aware rules remembered is dropped (their next push falls back
    once).

    Raises:
      CheckpointError: the parameters or the rule's slots are not those of this job.
    """
    _check_same_model(checkpoint, state)
    parts = checkpoint.shards()
    for name in ("center", *(f"slot.{slot}" for slot in state.shards[0].rule.slots)):
        np.concatenate([part[name] for part in parts], out=state.arrays[name])
    for table in state.layout.tables:
        name = f"row_steps.{table.name}"
        np.concatenate([part[name] for part in parts if name in part], out=state.arrays[name])
    same_cut = [(s["start"], s["stop"]) for s in checkpoint.manifest["shards"]] == [
        (shard.range.start, shard.range.stop) for shard in state.shards
    ]
    for index, shard in enumerate(state.shards):
        if same_cut:
            _restore_words(shard, parts[index])
        else:
            _restore_highest(shard, parts)


def _restore_highest(shard: Shard, parts: list[dict[str, np.ndarray]]) -> None:
    """For a shard cut otherwise. The parts are one cut across shards: a push that one of them has seen, all have."""
    for word in (VERSION, STEPS, ROUND):
        shard.header[word] = max(int(part["header"][word]) for part in parts)
    for replica, stamps in enumerate(zip(*(part["watermarks"].tolist() for part in parts))):
        if replica < len(shard.watermarks):
            shard.watermarks[replica] = max(stamps)


def _restore_words(shard: Shard, part: Mapping[str, np.ndarray]) -> None:
    shard.header[:] = part["header"]
    replicas = min(len(shard.watermarks), len(part["watermarks"]))
    shard.watermarks[:replicas] = part["watermarks"][:replicas]
    if shard.memory is not None and "memory" in part:
        rows = min(len(shard.memory.rows), len(part["memory"]))
        shard.memory.rows[:rows] = part["memory"][:rows]
        shard.memory.owners[:rows] = np.where(part["owners"][:rows] <= len(shard.watermarks), part["owners"][:rows], 0)


def _check_same_model(checkpoint: Checkpoint, state: State) -> None:
    if checkpoint.layout != state.layout:
        raise CheckpointError(
            f"{checkpoint.path}: is of another model: it has {_shapes(checkpoint.layout)}, the job has {_shapes(state.layout)}"
        )
    rule, manifest = state.shards[0].rule, checkpoint.manifest
    slots = list(rule.slots)
    # Rules without slots may be exchanged; equal names of slots do not mean that two rules mean the same by them.
    if manifest["slots"] != slots or (slots and manifest.get("rule", rule.name) != rule.name):
        raise CheckpointError(
            f"{checkpoint.path}: is of another rule: {manifest.get('rule', 'one')} with the slots {manifest['slots']}, "
            f"the job's is {rule.name} with {slots}"
        )


def _shapes(layout: Layout) -> str:
    shown = [f"{p.name} {p.shape}" for p in layout.parameters[:6]]
    return ", ".join(shown) + (", …" if len(layout.parameters) > 6 else "") + f" ({layout.dtype})"


def _digest_of(body: Mapping[str, Any]) -> str:
    """Of a manifest without its own checksum, in one way of writing it."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
