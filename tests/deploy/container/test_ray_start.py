"""What stands for Ray's own options where a container starts Ray, and that a machine of two cores has room for the examples."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import pytest

from deploy.container.ray_start import words_of
from deploy.job import load_job
from deploy.service.demand import pieces_of
from deploy.service.fitting import EMPTY, lack
from deploy.service.room import Room

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def test_the_password_is_read_from_its_file(tmp_path):
    (tmp_path / "password").write_text("sesame\n")
    words = ["start", "--head", f"--redis-password-file={tmp_path / 'password'}"]
    assert words_of(words, lambda: 2) == ["start", "--head", "--redis-password=sesame"]


def test_a_node_has_a_cpu_to_spare_for_shards():
    assert words_of(["start", "--spare-cpus=1"], lambda: 2) == ["start", "--num-cpus=3"]


def test_ray_counts_cores_as_we_ask_it_to():
    utils = pytest.importorskip("ray._private.utils", reason="Ray is not installed")
    assert all(
        parameter.default is not inspect.Parameter.empty
        for parameter in inspect.signature(utils.get_num_cpus).parameters.values()
    )


def test_an_example_that_steps_its_center_in_place_fits_a_node_of_two_cores(tmp_path):
    """All of it must be on one node: two workers and their shard."""
    shutil.copy2(EXAMPLES / "adult_hogwild.toml", tmp_path / "job.toml")
    pieces = pieces_of(load_job(tmp_path / "job.toml"), tmp_path)
    assert pieces.beside
    assert lack(pieces, [Room(cpus=2.0)], EMPTY) is not None
    assert lack(pieces, [Room(cpus=3.0)], EMPTY) is None
