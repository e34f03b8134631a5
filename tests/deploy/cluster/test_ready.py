"""What a job becomes on a cluster, and which jobs are none for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.cluster.ready import beside, first_group, grouped, guests, ready
from deploy.job import Job
from ps.errors import JobError

LEAST_SQUARES = f"{Path(__file__).parents[1] / 'tasks' / 'least_squares.py'}:LeastSquares"


def made_ready(task="sparse", **sections):
    tables = {"backend": "ray", "strategy": "downpour", **sections}
    if task == "sparse":
        tables |= {"task": {"name": "sparse_linear"}, "data": {"train": "hogshead:a9a"}}
    else:
        tables |= {"task": LEAST_SQUARES}
    return ready(Job.from_dict(tables))


def test_replicas_come_first_then_guests():
    setup = made_ready("dense", workers={"count": 3}, cluster={"guests": 2})
    assert setup.shard_options.replicas == 5 and guests(setup) == 2 and first_group(setup) == 5
    assert not beside(setup) and not grouped(setup)


@pytest.mark.parametrize(
    "sections",
    [{"strategy": "synchronous"}, {"rule": {"name": "adaptive_revision", "lr": 0.1}}],
    ids=["rounds", "a rule that remembers"],
)
def test_no_guests_where_each_number_costs_a_vector(sections):
    setup = made_ready("dense", workers={"count": 3}, **sections)
    assert guests(setup) == 0 and setup.shard_options.replicas == 3


def test_hogwild_beside_its_shard():
    setup = made_ready(strategy="hogwild", workers={"count": 3})
    assert beside(setup) and not grouped(setup)


def test_hogwild_in_groups():
    setup = made_ready(
        strategy={"name": "hogwild", "between_nodes": "easgd"}, workers={"count": 3}, shards={"count": 2}
    )
    assert grouped(setup) and not beside(setup)
    assert first_group(setup) == 3 + guests(setup) and setup.shard_options.replicas == first_group(setup) + 3


def test_hogwild_on_several_shards_is_refused_with_the_remedy():
    with pytest.raises(JobError, match=r"\[strategy\] hogwild .* \[shards\] count is 2; set it to 1, or between_nodes"):
        made_ready(strategy="hogwild", shards={"count": 2})


def test_hogwild_without_a_compiled_sweep_goes_over_any_links():
    setup = made_ready("dense", strategy="hogwild", shards={"count": 2})
    assert not beside(setup) and not grouped(setup)
