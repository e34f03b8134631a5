"""Ray for tests: as a command, and as a cluster of several nodes on this machine."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

# Ray's command; it waits for a node that takes longer than Ray allows, as it may on a busy machine.
RAY = (sys.executable, "-m", "deploy.cluster.patience")


def empty_cluster() -> Cluster:
    """A cluster without nodes.

    ``Cluster`` writes its address into Ray's default folder, whatever folder its nodes have, and does not make it: on a machine
    where Ray has never run there is none.
    """
    from ray._common.utils import get_default_ray_temp_dir
    from ray.cluster_utils import Cluster

    os.makedirs(get_default_ray_temp_dir(), exist_ok=True)
    return Cluster()
