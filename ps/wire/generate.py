"""Make the Python code of the schemas in ``proto/``: ``python -m ps.wire.generate``.

``parameters.proto`` becomes ``ps/wire/parameters_pb2.py`` and ``jobs.proto`` becomes ``deploy/wire/jobs_pb2.py``.

Run it with grpcio-tools 1.62 (protobuf 4): what that generates runs with every later protobuf, while newer generators write code
that refuses all but their own major version and the next.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "proto"
TARGETS = {"parameters": ROOT / "ps" / "wire", "jobs": ROOT / "deploy" / "wire"}
# The folder of the names that protobuf's one registry of the process knows the files by; another's jobs.proto is another one.
PACKAGE = "hogshead"


def generate(schema: str, folder: Path) -> Path:
    """Write ``<schema>_pb2.py`` into ``folder`` and return its path; needs grpcio-tools."""
    from grpc_tools import protoc

    registered = f"{PACKAGE}/{schema}.proto"
    with tempfile.TemporaryDirectory() as made:
        arguments = ["protoc", f"--proto_path={PACKAGE}={SCHEMAS}", f"--python_out={made}", registered]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc refused proto/{schema}.proto; see above")
        return Path(shutil.copy(Path(made) / PACKAGE / f"{schema}_pb2.py", folder / f"{schema}_pb2.py"))


def main() -> int:
    """``python -m ps.wire.generate``."""
    for schema, folder in TARGETS.items():
        print(generate(schema, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
