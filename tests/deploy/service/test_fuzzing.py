"""Ten thousand random and mutated requests: each is answered, none is a fault, and nothing is left of those that are refused."""

from __future__ import annotations

import gc
import os
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from deploy.service.server import SERVICE
from deploy.service.states import State
from deploy.wire import jobs_pb2 as pb

from .serving import JOB, TOKEN, Client, Serving, folder, progress, records, submission_of, until

REQUESTS, THREADS = 10_000, 2
SOME = 20  # one that is left of every 500 requests would be seen
IDS = [
    "tiny-1",
    "tiny-2",
    "tiny-3",
    "",
    "tiny",
    "tiny-99",
    "../tiny-1",
    "tiny-1/../tiny-1",
    "/etc/passwd",
    "\0",
    "-",
    "ü-1",
    "x" * 300,
]
TEXTS = [
    "",
    "x",
    "seed=1",
    "workers.count=4",
    "a.b.c=1",
    "=",
    "\n",
    "task=",
    "name='x'",
    "summary.json",
    "*",
    "[!",
    "..",
    "\u202e",
    "9" * 400,
]
NUMBERS = [0, 1, 2, 7, 100, 1000, 1001, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
SHORT = {method.name for method in SERVICE.methods if not method.server_streaming}
EXPECTED = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "UNIMPLEMENTED",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
}


def message(generator: random.Random, kind: type) -> bytes:
    """A message of this kind with random fields."""
    made = kind()
    for field in kind.DESCRIPTOR.fields:
        if generator.random() < 0.3 or field.message_type is not None:
            continue
        values = [value(generator, field) for _ in range(generator.choice([1, 1, 3]))]
        if field.is_repeated:
            getattr(made, field.name).extend(values)
        else:
            setattr(made, field.name, values[0])
    return made.SerializeToString()


def value(generator: random.Random, field) -> object:
    if field.type == field.TYPE_STRING:
        return generator.choice(IDS if field.name == "id" else TEXTS)
    if field.type == field.TYPE_BYTES:
        return generator.randbytes(generator.choice([0, 1, 32, 500]))
    if field.type == field.TYPE_BOOL:
        return generator.random() < 0.5
    if field.type == field.TYPE_ENUM:
        return generator.choice([0, 1, 5, 7, 8, 2**31 - 1])
    number = generator.choice(NUMBERS)
    bits = {field.TYPE_INT32: 31, field.TYPE_UINT32: 32, field.TYPE_UINT64: 64}[field.type]
    return min(number, 2**bits - 1)


def submission(generator: random.Random) -> list[bytes]:
    """The messages of a submission, good but for some of its bytes."""
    job = JOB
    if generator.random() < 0.5:
        job = mutated(generator, JOB.encode()).decode("utf-8", "replace")
    facts, archive = submission_of(job=job, client_token=generator.choice(["", "t", "u"]))
    if generator.random() < 0.5:
        archive = mutated(generator, archive)
        facts, _ = submission_of(archive, job=job) if generator.random() < 0.7 else (facts, None)
    given = {name: value for name, value in vars(facts).items() if value is not None}
    pieces = [archive[at : at + 100] for at in range(0, len(archive), 100)]
    sent = [pb.SubmitRequest(submission=pb.Submission(**given)), *(pb.SubmitRequest(archive=piece) for piece in pieces)]
    raw = [each.SerializeToString() for each in sent]
    if generator.random() < 0.3:
        raw[generator.randrange(len(raw))] = mutated(generator, generator.choice(raw))
    return raw


def mutated(generator: random.Random, data: bytes) -> bytes:
    """The same with some bytes changed, cut out or doubled."""
    made = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 8])):
        at = generator.randrange(len(made) + 1)
        kind = generator.randrange(3)
        if kind == 0 and at < len(made):
            made[at] = generator.randrange(256)
        elif kind == 1:
            del made[at : at + generator.choice([1, 3, 30])]
        else:
            made[at:at] = generator.choice([bytes(made[at : at + 20]), generator.randbytes(5), b"\xff" * 10])
    return bytes(made)


def request(generator: random.Random) -> tuple[str, list[bytes]]:
    """A method and the messages to send."""
    method = generator.choice(
        [*SERVICE.methods[1:], *SERVICE.methods[1:], SERVICE.methods[0]]
    )  # a submission takes longer
    kind = generator.random()
    if kind < 0.1:
        return method.name, [
            generator.randbytes(generator.choice([0, 1, 10, 200])) for _ in range(generator.choice([0, 1, 2]))
        ]
    if method.name == "Submit":
        return method.name, submission(generator)
    raw = message(generator, getattr(pb, method.input_type.name))
    return method.name, [mutated(generator, raw) if kind < 0.5 else raw]


def send(channel: grpc.Channel, method: str, messages: list[bytes]) -> str:
    """The status that a request is answered with."""
    name, options = (
        f"/{SERVICE.full_name}/{method}",
        {"metadata": [("authorization", f"Bearer {TOKEN}")], "timeout": 60},
    )
    try:
        if len(messages) == 1 and method in SHORT:  # the quickest call for it
            answers = [channel.unary_unary(name)(messages[0], **options)]
        elif len(messages) == 1:
            answers = channel.unary_stream(name)(messages[0], **options)
        else:
            answers = channel.stream_stream(name)(iter(messages), **options)
        for _ in answers:
            pass
    except grpc.RpcError as error:
        details = error.details()
        wrong = "fault of the service" in details or "Traceback" in details or "\n" in details
        assert not wrong, (method, messages, details)
        return error.code().name
    return "OK"


@pytest.mark.timeout(300)
def test_ten_thousand_random_requests(in_memory, caplog):
    with Serving(in_memory) as service:
        client = Client(service.channel())
        for number in (1, 2, 3):
            client.submit()
            records(service, f"tiny-{number}", progress(1), progress(2))
            folder(service, f"tiny-{number}").log.write_text("a line\n" * 10)
        settle(service)
        attack(service, 500, seed=1)  # what is imported, cached and started once
        before = resources()
        counts = attack(service, REQUESTS, seed=2)
        after = resources()
        assert set(counts) <= EXPECTED and sum(counts.values()) == REQUESTS, counts
        assert counts["OK"] > 500 and counts["INVALID_ARGUMENT"] > 2000 and counts["NOT_FOUND"] > 1000, counts
        assert after["megabytes"] < before["megabytes"] + 60, (before, after)
        # A thread and a connection of the last requests may be just ending, and on a busy machine more are at work at one time.
        until(lambda: all(resources()[name] <= before[name] + SOME for name in ("threads", "files")))
        kept = {path.name for path in service.jobs.iterdir()}
        assert kept == {".incoming", *service.store.ids()} and not list((service.jobs / ".incoming").iterdir())
        assert {path.name for path in in_memory.iterdir()} <= {
            "jobs",
            "jobs.sqlite",
            "jobs.sqlite-wal",
            "jobs.sqlite-shm",
        }
        assert client.submit(name="after").id == "after-1" and client.cluster().reachable
    assert not [record for record in caplog.records if record.levelname == "ERROR"], caplog.text


def attack(service: Serving, count: int, seed: int) -> Counter[str]:
    """How often each status came for so many requests."""
    stopped = threading.Event()
    keeper = threading.Thread(target=keep_ended, args=(service, stopped))
    keeper.start()
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            share = [pool.submit(one_of_them, service, count // THREADS, 100 * seed + part) for part in range(THREADS)]
            return sum((each.result() for each in share), Counter())
    finally:
        stopped.set()
        keeper.join()


def one_of_them(service: Serving, count: int, seed: int) -> Counter[str]:
    generator = random.Random(seed)
    with service.channel() as channel:
        return Counter(send(channel, *request(generator)) for _ in range(count))


def keep_ended(service: Serving, stopped: threading.Event) -> None:
    """Play the supervisor: whatever is active ends, so that whoever follows a job comes to an end."""
    while not stopped.wait(0.01):
        settle(service)


def settle(service: Serving) -> None:
    for job in service.store.active():
        try:
            service.store.change(job.id, {job.state}, state=State.STOPPED, ended_at=1.0)
        except Exception as error:
            assert type(error).__name__ in ("WrongState", "UnknownJob"), error


def resources() -> dict[str, float]:
    """Of this process."""
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    }
