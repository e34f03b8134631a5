"""``hogshead export``: a run's trained parameters as a state_dict for PyTorch, or as safetensors."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deploy.exit_codes import DONE
from deploy.words import short_path
from ps.errors import UsageError
from ps.extras import import_extra

SUFFIXES = (".pt", ".pth", ".safetensors")


def export(arguments: Namespace) -> int:
    """Write the file and say where it is."""
    values = write_export(arguments.run, arguments.out)
    count = sum(int(np.prod(value.shape)) for value in values.values())
    print(f"{short_path(Path(arguments.out))}: {len(values)} tensors, {count:,} values")
    return DONE


def write_export(run: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the trained parameters of a run.

    Of a torch task that is the whole state_dict of its module, frozen parameters and integer buffers included, so that
    ``module.load_state_dict`` takes it as it is. Of any other task, and of one that cannot be loaded here, the parameters by
    name.

    Args:
      run: a run directory with a checkpoint.
      out: .pt or .pth (``torch.load(out, weights_only=True)``), or .safetensors.

    Returns:
      What was written, name -> tensor or array.

    Raises:
      UsageError: another suffix, the file cannot be written, or PyTorch is needed and not installed.
      RunDirectoryError, CheckpointError: no run, no checkpoint.
    """
    from deploy.run_directory import require_run
    from deploy.saving import load_parameters

    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise UsageError(f"export: the file must end in {', '.join(SUFFIXES)}, got {str(out)!r}")
    if out.suffix != ".safetensors":
        import_extra("torch", "torch", f"export to {out.suffix}")
    folder = require_run(run)
    values = _values(folder, load_parameters(folder))
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        _write(values, partial, out.suffix)
        os.replace(partial, out)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"export: {out} cannot be written: {getattr(error, 'strerror', None) or error}") from error
    return values


def _values(run: Path, parameters: Mapping[str, np.ndarray]) -> dict[str, Any]:
    from deploy.job import load_job
    from worker.tasks import task_class

    try:
        job = load_job(run / "job.toml")
        cls = task_class(job.task.name)
    except UsageError as error:
        print(f"hogshead: only the parameters are exported, by name: {error}", file=sys.stderr)
        return dict(parameters)
    to_state_dict = getattr(cls, "export", None)
    return dict(parameters) if to_state_dict is None else to_state_dict(job.task_options, parameters)


def _write(values: Mapping[str, Any], path: Path, suffix: str) -> None:
    if suffix == ".safetensors":
        from safetensors.numpy import save_file as save_arrays

        if all(isinstance(value, np.ndarray) for value in values.values()):
            save_arrays({name: np.ascontiguousarray(value) for name, value in values.items()}, path)
            return
        from safetensors.torch import save_file as save_tensors

        save_tensors({name: value.contiguous() for name, value in values.items()}, path)
        return
    import torch

    tensors = {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in values.items()}
    torch.save(tensors, path)
