"""Checkpoints of a run on a cluster: one moment for all shards, written while the training goes on.

Replicas hold their transfers, not their computation, for as long as the shards take to copy themselves; every push is then in all
shards' copies or in none. What replicas have of their own is not in it: whoever goes on from here starts them from the center.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError

from deploy.blueprint import Blueprint
from deploy.cluster.crew import ClusterCrew
from deploy.cluster.groups import Groups
from deploy.cluster.shards import Shards
from deploy.saving import write_checkpoint
from ps.checkpoint import Writer
from ps.errors import CheckpointError, HogsheadError, TransportError

SAVING = -3  # the key of its messages
_HOLD_S = 10.0


class NotNow(CheckpointError):
    """Somebody did not answer; a moment later all may."""


class Saving:
    """Makes checkpoints, one at a time.

    Args:
      setup: the job made ready. writer: into the run directory. shards, crew, groups: of the run.
    """

    def __init__(self, setup: Blueprint, writer: Writer, shards: Shards, crew: ClusterCrew, groups: Groups):
        self._setup, self._writer, self._shards, self._crew, self._groups = setup, writer, shards, crew, groups
        self._thread: threading.Thread | None = None

    @property
    def under_way(self) -> bool:
        """One is being written."""
        return self._thread is not None and self._thread.is_alive()

    def cut(self, still: bool = False) -> dict[int, dict[str, Any]]:
        """Have the shards copy themselves at one moment.

        Args:
          still: workers also make no step, and all stays as it is until ``release``.

        Returns:
          Replica -> what it held in that moment, as ``ClusterWorker.held``.

        Raises:
          NotNow: a replica or a shard did not hold still in time.
        """
        try:
            held = self._hold(self._handles(), still)
            self._shards.ask("cut", timeout_s=_HOLD_S)
            return held
        except HogsheadError as error:
            raise NotNow(f"no checkpoint now: {error}") from error
        finally:
            if not still:
                self.release()

    def release(self) -> None:
        """Have all go on."""
        for handle in self._handles().values():
            handle.release.remote()

    def _handles(self) -> dict[int, Any]:
        return self._crew.handles() | self._groups.handles

    def _hold(self, handles: Mapping[int, Any], still: bool = False) -> dict[int, dict[str, Any]]:
        bound = _HOLD_S / (4 if still else 2)  # of each of the two waits, or of the only one
        calls = {replica: handle.hold.remote(bound, still) for replica, handle in handles.items()}
        held = {}
        for replica, call in calls.items():
            try:
                facts = ray.get(call, timeout=_HOLD_S)
            except GetTimeoutError as error:
                raise CheckpointError(f"worker {replica} does not answer") from error
            except ActorDiedError:  # it changes nothing any more
                continue
            except RayError as error:  # out of reach from here, but perhaps at work
                raise TransportError(f"worker {replica} cannot be reached", replica=replica) from error
            if facts is None:
                raise CheckpointError(f"a transfer of worker {replica} takes too long")
            held[replica] = facts
        return held

    def write(self, state: Mapping[str, Any]) -> Path:
        """Write the last ``cut``.

        Args:
          state: of the run, for the manifest.

        Raises:
          CheckpointError: it cannot be written. TransportError: a shard died with its copy.
        """
        arrays = self._shards.ask("taken", timeout_s=600.0)
        partial = self._writer.begin()
        setup = self._setup
        described = {
            "layout": setup.layout.to_json(),
            "rule": setup.rule.name,
            "slots": list(setup.rule.slots),
            "shards": [
                {"start": part.start, "stop": part.stop, "version": int(shard["header"][0])}
                for part, shard in zip(self._shards.ranges, arrays)
            ],
        }
        return write_checkpoint(self._writer, partial, setup, arrays, {}, state, described)

    def write_behind(self, state: Mapping[str, Any]) -> None:
        """``write`` beside the training; the crew's events tell how it went."""

        def work() -> None:
            try:
                path = self.write(state)
                message = {"kind": "checkpoint", "message": f"saved {path.name}", "path": str(path)}
            except HogsheadError as error:
                message = {"kind": "checkpoint_failed", "message": str(error)}
            self._crew.events.put((SAVING, message))

        self._thread = threading.Thread(target=work, name="write-checkpoint")
        self._thread.start()

    def settle(self) -> None:
        """Wait for the one that is being written."""
        if self._thread is not None:
            self._thread.join()
