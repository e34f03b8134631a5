"""One job's own code may have written anything into its folder: the other jobs do not suffer."""

from __future__ import annotations

import pytest

from deploy.service.states import State

from .pages import Served, progress

DEEP = "[" * 100_000


@pytest.mark.parametrize("content", ["[]", "7", '"text"', "null", DEEP])
def test_a_file_that_is_no_table_is_as_good_as_none(theatre, content):
    job = theatre.submit()
    theatre.look()
    for name in ("outcome", "beat", "order", "generation"):
        (theatre.folder(job).path / f"{name}.json").write_text(content)
    folder = theatre.folder(job)
    assert (folder.outcome, folder.beat, folder.order, folder.generation, folder.uid) == ({}, {}, {}, 0, "")


def test_a_job_that_the_supervisor_stumbles_over_keeps_no_other_waiting(theatre, caplog):
    odd, good = theatre.submit(cpus=1.0), theatre.submit(cpus=1.0)
    theatre.look()
    theatre.drive(good)
    (theatre.folder(odd).path / "order.json").write_text('{"above": "high"}')
    waiting = theatre.submit(cpus=1.0)
    theatre.look()
    assert (theatre.state(good), theatre.state(waiting)) == ("running", "starting")
    assert f"stumbled over {odd}" in caplog.text


@pytest.mark.parametrize(
    "toml", ["a = " + DEEP, "\n".join(f"k{number} = 1" for number in range(5000)), "a = ", "stop = 3"]
)
def test_a_run_whose_job_cannot_be_read_is_listed_beside_the_others(tmp_path, toml):
    with Served(tmp_path) as served:
        odd, good = served.add("odd").id, served.add("good", State.SUCCEEDED).id
        for job in (odd, good):
            served.write(job, progress(1, 1000))
        (served.run(odd) / "job.toml").write_text(toml)
        answer = served.get("/api/jobs")
        assert answer.status == 200 and {row["id"] for row in answer.json()["jobs"]} == {odd, good}
