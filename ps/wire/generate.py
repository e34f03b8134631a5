"""Make ``ps/wire/parameters_pb2.py`` from ``proto/parameters.proto``: ``python -m ps.wire.generate [FOLDER]``.

Run it with grpcio-tools 1.62 (protobuf 4): what that generates runs with every later protobuf, while newer generators write code
that refuses all but their own major version and the next.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCHEMAS = HERE.parents[1] / "proto"
# The name that protobuf's one registry of the process knows the file by; somebody else's parameters.proto is another one.
REGISTERED = "hogshead/parameters.proto"


def generate(folder: Path) -> Path:
    """Write ``parameters_pb2.py`` into ``folder`` and return its path; needs grpcio-tools."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as made:
        arguments = ["protoc", f"--proto_path=hogshead={SCHEMAS}", f"--python_out={made}", REGISTERED]
        if protoc.main(arguments) != 0:
            raise RuntimeError("protoc refused proto/parameters.proto; see above")
        return Path(shutil.copy(Path(made) / "hogshead" / "parameters_pb2.py", folder / "parameters_pb2.py"))


def main(argv: Sequence[str]) -> int:
    """``python -m ps.wire.generate [FOLDER]``, by default beside this file."""
    print(generate(Path(argv[0]) if argv else HERE))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
