"""The states of a submitted job."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a job stands; the values are also what users read."""

    QUEUED = "queued"  # waits for room, or for the cluster
    STARTING = "starting"  # its driver is being started, or it waits for its first worker
    RUNNING = "running"
    STOPPING = "stopping"  # was asked to end
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"  # ended as it was asked to


ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.STOPPED})
AT_WORK = frozenset({State.STARTING, State.RUNNING, State.STOPPING})  # they take room

# What was asked of a job at work.
STOP, KILL = "stop", "kill"
KILLED = "killed, as it was asked to be"  # the reason of such an end

# How a refusal ends that only means that there is no turn just now.
BUSY = "as many as there may be; try later"
