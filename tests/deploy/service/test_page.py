"""The web page in a real browser: what a person sees, live, on a desk and on a phone; hostile jobs can do nothing to it."""

from __future__ import annotations

import time

import pytest

from deploy.service.states import AT_WORK, State
from tests.deploy.service import chromium
from tests.deploy.service.chromium import Chromium
from tests.deploy.service.pages import TOKEN, Served, progress

pytestmark = [
    pytest.mark.skipif(chromium.found() is None, reason="there is no Chromium here (Debian: chromium)"),
    pytest.mark.timeout(300),
]

EVIL = "<img src=x onerror='window.hit = 1'><script>window.hit = 1</script>"


@pytest.fixture(scope="module")
def started():
    with Chromium() as browser:
        browser.hurry(10)  # the page asks every few seconds
        yield browser


@pytest.fixture
def browser(started):
    """The browser, which must have had nothing to complain about."""
    started.screen(1200, 900)
    started.complaints.clear()
    yield started
    expected = "Failed to load resource: the server responded with a status of 4"  # a refused token, an unknown job
    assert [text for text in started.complaints if not text.startswith(expected)] == []


@pytest.fixture
def served(browser, tmp_path):
    with Served(tmp_path) as served:
        yield served
        browser.go("about:blank")


def visit(browser, served, path: str = "") -> None:
    """Open the list, or another place of the page, with the right token."""
    browser.go(f"{served.address}#token={TOKEN}")
    browser.wait("document.querySelector('.job, .welcome, .empty') && !location.hash.includes('token')")
    if path:
        browser.evaluate(f"location.hash = '#/{path}'")
        browser.wait("document.querySelector('h1') && document.querySelector('.crumb')")


def shows(browser, text: str) -> None:
    browser.wait(f"document.body?.innerText.includes({text!r})")


def test_a_job_is_followed_live(browser, served):
    job = served.add("digits_easgd").id
    (served.run(job) / "job.toml").write_text("[stop]\nepochs = 10\n")
    (served.jobs / job / "log.txt").write_text("hello\n")
    served.write(job, progress(1, 1000), progress(2, 2500), {"kind": "evaluation", "seconds": 2, "examples": 2500,
                                                            "evaluation": {"test_accuracy": 0.5}})  # fmt: skip
    visit(browser, served)
    shows(browser, "25 %")
    assert TOKEN not in browser.evaluate("location.href") and TOKEN not in browser.text()
    browser.evaluate("document.querySelector('.job a').click()")
    shows(browser, "Training loss")
    for text in ("running", "epoch 2.5 of 10", "Test accuracy", "node node0", "node node1", "2 of 2", "hello"):
        shows(browser, text)
    browser.evaluate("document.querySelector('.log').dataset.still = 'here'")
    served.write(
        job, progress(4, 5000), {"kind": "event", "seconds": 4, "event": "worker_died", "message": "worker 1 died"}
    )
    with open(served.jobs / job / "log.txt", "a") as log:
        log.write("\x1b[31mred\x1b[0m\n 1 %\r 2 %\nlast\n")
    for text in ("50 %", "worker 1 died", "red\n 2 %\nlast"):
        shows(browser, text)
    assert browser.evaluate("document.querySelector('.log').dataset.still") == "here"  # nothing was built anew
    assert "[31m" not in browser.text()
    (served.run(job) / "report.html").write_text("report")
    served.store.change(job, AT_WORK, state=State.FAILED, ended_at=time.time(), reason="TaskError: it broke")
    for text in ("failed", "TaskError: it broke"):
        shows(browser, text)
    assert browser.evaluate("document.title").startswith("digits_easgd-1 · failed")


def test_hostile_text_stays_text(browser, served):
    job = served.add("hostile", strategy=EVIL, task=EVIL, job=EVIL, overrides=[EVIL]).id
    served.store.change(job, AT_WORK, state=State.FAILED, ended_at=time.time(), reason=EVIL)
    served.write(job, progress(1, 10, nodes=[{"worker": 0, "node": EVIL, "links": [EVIL]}]), progress(2, 20),
                 {"kind": "evaluation", "seconds": 1, "examples": 10, "evaluation": {EVIL[:40]: 0.5}},
                 {"kind": "event", "seconds": 1, "event": EVIL[:50], "message": EVIL})  # fmt: skip
    (served.run(job) / "summary.json").write_text('{"error": "<script>window.hit = 1</script>"}')
    (served.jobs / job / "log.txt").write_text(EVIL)
    (served.run(job) / "<img src=x onerror=alert(1)>").write_text("")
    visit(browser, served)
    shows(browser, EVIL)
    visit(browser, served, f"jobs/{job}")
    for text in (EVIL, "<img src=x onerror=alert(1)>"):
        shows(browser, text)
    browser.wait("document.querySelector('.log').textContent.includes('script')")
    assert browser.evaluate("window.hit === undefined && document.images.length === 1")  # the one is ours
    browser.evaluate(f"location.hash = '#/jobs/' + encodeURIComponent({EVIL!r})")
    shows(browser, "Not here")
    assert browser.evaluate("window.hit === undefined")


def test_a_file_of_a_run_is_opened_in_a_sandbox(browser, served):
    job = served.add().id
    script = "try { sessionStorage.length; document.title = 'inside' } catch (error) { document.title = error.name }"
    (served.run(job) / "report.html").write_text(f"<title>x</title><script>{script}; fetch('/api/jobs')</script>report")
    [file] = served.get(f"/api/jobs/{job}/files").json()["files"]
    visit(browser, served)
    browser.go(served.address + file["href"])
    browser.wait("document.title === 'SecurityError'")
    assert browser.evaluate("window.origin") == "null"
    assert any("api/jobs" in text and "violates" in text for text in browser.complaints)  # it may not ask for anything
    browser.complaints.clear()


def test_the_token_is_asked_for(browser, served):
    served.add()
    browser.go(served.address)
    shows(browser, "Which token?")
    enter = "document.querySelector('#token').value = {!r}; document.querySelector('form').requestSubmit()"
    browser.evaluate(enter.format("wrong"))
    shows(browser, "The service refused this token.")
    browser.evaluate(enter.format("tökén€"))
    shows(browser, "The service refused this token.")
    browser.evaluate(enter.format(f" {TOKEN} "))
    shows(browser, "digits-1")
    browser.evaluate("document.querySelector('#leave').click()")
    shows(browser, "Which token?")
    assert browser.evaluate("sessionStorage.length") == 0
    browser.go(f"{served.address}#token=wrong")
    shows(browser, "The service refused this token.")


def test_an_empty_list_an_unknown_job_and_a_service_that_is_away(browser, served):
    visit(browser, served)
    shows(browser, "No jobs yet")
    visit(browser, served, "jobs/digits-7")
    shows(browser, "there is no job")
    served.add()
    visit(browser, served)
    served.away()
    shows(browser, "no answer, trying again")
    assert "digits-1" in browser.text()  # what was known stays
    served.again()
    browser.wait("document.querySelector('.health.live')")
    browser.complaints[:] = [text for text in browser.complaints if "net::ERR_" not in text]


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_by_day_and_by_night(browser, served, dark):
    job = served.add("a" * 64, strategy="s" * 100, task="t" * 200, priority=5).id
    served.add("waits", State.QUEUED)
    served.write(job, progress(1, 1_000_000, shards=40, workers=40), progress(3, 3_000_000, shards=40, workers=40),
                 {"kind": "event", "seconds": 4, "event": "e" * 60, "message": "m" * 500})  # fmt: skip
    (served.jobs / job / "log.txt").write_text("l" * 3000)
    (served.run(job) / ("f" * 200)).write_text("")
    browser.screen(360, 740, dark=dark)
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    visit(browser, served)
    shows(browser, "waits-1")
    assert browser.evaluate(fits)
    visit(browser, served, f"jobs/{job}")
    shows(browser, "f" * 50)
    assert browser.evaluate(fits)
    style = "getComputedStyle(document.body)"
    page, ink = ("rgb(13, 13, 13)", "rgb(255, 255, 255)") if dark else ("rgb(249, 249, 247)", "rgb(11, 11, 11)")
    assert browser.evaluate(f"[{style}.backgroundColor, {style}.color]") == [page, ink]


def test_more_jobs_than_a_page_holds(browser, served):
    for number in range(203):
        served.store.add(name=f"sweep{number % 3}", priority=0, cpus=1.0, gpus=0.0, memory_bytes=0, on_loss="fail",
                         most_attempts=1, strategy="easgd", task="mlp", job="", state=State.SUCCEEDED)  # fmt: skip
    visit(browser, served)
    rows = "document.querySelectorAll('.job').length"
    browser.wait(f"{rows} === 200")
    browser.evaluate("document.querySelector('.foot button').click()")
    browser.wait(f"{rows} === 203 && !document.querySelector('.foot button')")
    browser.evaluate("const i = document.querySelector('input'); i.value = 'SWEEP1'; i.oninput()")
    browser.wait(f"{rows} === 68")
    browser.evaluate("[...document.querySelectorAll('.chip')].find((chip) => chip.textContent === 'failed').click()")
    shows(browser, "No job is failed.")


def test_values_are_read_off_a_chart_by_keyboard(browser, served):
    job = served.add().id
    served.write(job, *(progress(second, 100 * second, loss=float(second)) for second in range(1, 6)))
    visit(browser, served, f"jobs/{job}")
    shows(browser, "Training loss")
    press = "document.querySelector('.lines').dispatchEvent(new KeyboardEvent('keydown', {key: '%s'}))"
    for key, value in (
        ("ArrowLeft", "4 at 4 s"),
        ("Home", "1 at 1 s"),
        ("ArrowRight", "2 at 2 s"),
        ("End", "5 at 5 s"),
    ):
        browser.evaluate(press % key)
        assert browser.evaluate("document.querySelector('.chart .value').textContent") == value
    browser.evaluate("[...document.querySelectorAll('.chip')].find((chip) => chip.textContent === 'examples').click()")
    browser.evaluate(press % "Home")
    assert browser.evaluate("document.querySelector('.chart .value').textContent") == "1 at 100"
    named = "(e) => e.ariaLabel || e.textContent || e.labels?.length"
    assert browser.evaluate(f"[...document.querySelectorAll('svg, button, input, [role=img]')].every({named})")
