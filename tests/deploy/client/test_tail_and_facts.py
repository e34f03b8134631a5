"""What a user who watches may meet: a log of which only news are wanted, and a service that is busy or away for a moment."""

from __future__ import annotations

import grpc
import pytest

from deploy.client.client import run_facts
from deploy.client.failures import translated
from deploy.client.settings import Settings
from deploy.client.status import parsed
from deploy.service.states import BUSY
from tests.deploy.client.fake import UNAVAILABLE


def test_no_line_of_the_log_but_what_comes(client, fake):
    fake.add("a-1")
    fake.log = b"before\nlast\n"
    assert b"".join(client.logs("a-1", follow=True, tail=0)) == b""
    begun = fake.asked("Logs")[-1]
    assert (begun.offset, begun.tail_lines, begun.follow) == (len(fake.log), 0, True)


def test_of_an_empty_log_all_that_comes_is_news(client, fake):
    fake.add("a-1")
    assert b"".join(client.logs("a-1", follow=True, tail=0)) == b""
    assert fake.asked("Logs")[-1].offset == 0


@pytest.mark.parametrize(
    "failure", [(grpc.StatusCode.RESOURCE_EXHAUSTED, f"8 fetches under way, {BUSY}"), (UNAVAILABLE, "it is stopping")]
)
def test_whoever_watches_does_without_the_facts_of_a_run_that_cannot_be_had_now(client, fake, failure):
    fake.add("a-1")
    fake.files = {"job.toml": b"[stop]\nepochs = 3\n"}
    fake.failures["Fetch"] = [failure]
    assert run_facts(client, "a-1") == {}
    assert run_facts(client, "a-1") == {"stop": {"epochs": 3}}


def test_a_record_of_absurd_depth_is_none():
    assert parsed('{"a":' + "[" * 100_000) is None
    assert parsed('{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("details, said", [("", "older one; give"), ("unknown service", "one (unknown service); give")])
def test_what_is_no_job_service_is_said_without_an_empty_reason(details, said):
    class Unimplemented(grpc.RpcError):
        def code(self):
            return grpc.StatusCode.UNIMPLEMENTED

        def details(self):
            return details

    assert said in str(translated(Unimplemented(), Settings()))
