"""``[service]``: what a job says to the job service of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from deploy.schema import Section, key


@dataclass(frozen=True)
class ServiceSection(Section):
    """``[service]``: read when a job is submitted to a cluster's job service, and by nobody else."""

    section: ClassVar[str] = "service"
    priority: int = key(0, help="jobs with a higher one are started first")
    on_loss: str = key(
        "resume",
        help='a job that is lost with the cluster is resumed from its checkpoint, or "fail"s',
        one_of=("resume", "fail"),
    )
    most_attempts: int = key(5, help="starts of a job that is lost again and again", at_least=1)
