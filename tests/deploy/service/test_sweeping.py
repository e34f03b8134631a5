"""Which jobs must have all workers on one node, as far as that can be told without running their task."""

from __future__ import annotations

import pytest

from deploy.service.checking import check
from deploy.service.room import Pieces, Room

HOGWILD = 'task = "{task}"\nstrategy = {strategy}\n[workers]\ncount = 3\n[data]\ntrain = "/d"\n'
PLAIN = "class {name}{made_of}:\n    def parameters(self, rng):\n        return {{}}\n"
WITH = PLAIN + "\n    # its loop\n    def sweep(self, center, examples, step_size, locking):\n        return 0.0\n"


def job(task="sparse_linear", strategy='"hogwild"', more=""):
    return HOGWILD.format(task=task, strategy=strategy) + more


@pytest.mark.parametrize(
    "text, beside",
    [
        (job(), True),
        (job("matrix_completion"), True),
        (job("mlp"), False),
        (job(strategy='{ name = "hogwild", between_nodes = "easgd" }'), False),
        (job(more='[rule]\nname = "sgd"\nclip_value = 1.0\n'), False),
        (job(more='[rule]\nname = "adagrad"\n'), False),
        (job(more='[rule]\nname = "torch.SGD"\n'), False),
        (job(strategy='"downpour"', more="batch_size = 4\n"), False),
        (job(more="[shards]\ncount = 2\n"), False),
    ],
)
def test_jobs_of_ours(tmp_path, text, beside):
    assert check(text, [], tmp_path).pieces.beside is beside


@pytest.mark.parametrize(
    "code, beside",
    [
        (WITH.format(name="Mine", made_of=""), True),
        (PLAIN.format(name="Mine", made_of=""), False),
        (PLAIN.format(name="Mine", made_of="") + WITH.format(name="Other", made_of=""), False),
        (WITH.format(name="Base", made_of="") + PLAIN.format(name="Mine", made_of="(Base)"), True),
        ("class Mine(mixins.Base, hogshead.SparseLinear):\n    scale = 1\n", True),
        ("class Mine(\n    MLP,\n):\n    pass\n", False),
        ("class Mine(Mine):\n    pass\n", False),
        ("class Mine:\n    sweep = some_function\n", True),
        ("class Mine:\n    pass\n\ndef sweep(x):\n    pass\n", False),
        ("class Mine:\r\n    pass\r\n\r\n    def sweep(self):\r\n        pass\r\n", True),
        ("nonsense (((", False),
        ("\udcff\0" * 100, False),
        ("class Mine" + "(" * 500_000, False),
        ("class Mine:" + "\n" * 300_000, False),
    ],
)
def test_tasks_of_users_are_read_not_run(tmp_path, code, beside):
    code = "raise SystemExit('the service must not run this')\n" + code
    (tmp_path / "mine.py").write_bytes(code.encode("utf-8", "surrogateescape"))
    assert check(job("mine.py:Mine").replace('train = "/d"', ""), [], tmp_path).pieces.beside is beside


def test_pieces_are_those_that_ray_is_asked_for(tmp_path):
    said = ["cluster.replica_gpus=0.4", "cluster.replica_memory_mb=5", "cluster.shard_memory_mb=2", "shards.count=3"]
    text = job("mlp", '"downpour"', '[cluster]\nshard_nodes = "pack"\n')
    found = check(text, [*said, "workers.count=", "workers.min=2", "workers.max=9"], tmp_path).pieces
    # Of a GPU, 0.4 fit twice, so that one takes a half.
    assert found == Pieces(3, Room(0.1, 0.0, 2_000_000), 2, Room(1.0, 0.5, 5_000_000), packed=True)
