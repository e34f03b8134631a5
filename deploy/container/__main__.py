"""The entry point of the image: ``head`` and ``node`` are the machines of a cluster, anything else is a command.

python -m deploy.container head|node
python -m deploy.container COMMAND…
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from deploy.container.roles import ROLES
from deploy.container.settings import Settings, SettingsError


def main(arguments: Sequence[str]) -> int:
    """Be what the arguments say until it is over; a command takes the place of this process."""
    if len(arguments) == 1 and arguments[0] in ROLES:
        try:
            settings = Settings.of(os.environ)
        except SettingsError as error:
            print(f"hogshead: {error}", file=sys.stderr)
            return 2
        return ROLES[arguments[0]](settings)
    command = ["hogshead", *arguments] if not arguments or arguments[0].startswith("-") else list(arguments)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"hogshead: {command[0]!r} is neither head nor node, nor a command: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
