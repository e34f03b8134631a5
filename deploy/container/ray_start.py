"""``ray start`` in a container: ``python -m deploy.container.ray_start start …``.

It is Ray's own command with patience on a busy machine (``deploy.cluster.patience``), a GCS server that is kept
(``deploy.container.gcs``) and two more options:

* ``--redis-password-file=PATH`` stands for ``--redis-password``, which every user of the machine could read;
* ``--spare-cpus=N`` stands for ``--num-cpus`` of N more than there are cores. Shards ask for a tenth of a CPU each and mostly
  wait. Without one to spare, as many workers as there are cores and a shard would find no place on a single machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.cluster.patience import patient_start
from deploy.container.gcs import kept_gcs

_FILE, _SPARE = "--redis-password-file=", "--spare-cpus="


def words_of(arguments: Sequence[str], cores: Callable[[], int]) -> list[str]:
    """Ray's words for ours.

    Args:
      arguments: the command line. cores: counts those that this container may use.
    """
    return [_word(word, cores) for word in arguments]


def _word(word: str, cores: Callable[[], int]) -> str:
    if word.startswith(_FILE):
        return f"--redis-password={Path(word.removeprefix(_FILE)).read_text(encoding='utf-8').strip()}"
    if word.startswith(_SPARE):
        return f"--num-cpus={int(cores()) + int(word.removeprefix(_SPARE))}"
    return word


def main() -> None:
    """Ray's command."""
    from ray._private.utils import get_num_cpus
    from ray.scripts.scripts import cli

    with patient_start(), kept_gcs():
        cli(args=words_of(sys.argv[1:], get_num_cpus))


if __name__ == "__main__":
    main()
