"""A headless Chromium for tests of the web page, spoken to over a pipe in its own protocol (DevTools)."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

PATIENCE_S = 60.0


def found() -> str | None:
    """Path of a Chromium on this machine, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Chromium:
    """One page of a browser that is started here and ends with the context.

    Attributes:
      complaints: what the page said that it should not: exceptions, errors on its console, breaches of its policy.
      process: of the browser.
    """

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self._document = ""
        self._folder = tempfile.mkdtemp(prefix="chromium-")
        read_by_it, self._write = os.pipe()
        self._read, written_by_it = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
                   "--no-first-run", "--disable-extensions", "--disable-background-networking", "--hide-scrollbars",
                   f"--user-data-dir={self._folder}", "about:blank"]  # fmt: skip
        # The protocol wants its two pipes at 3 and 4, which may be ours at the same time: a shell puts them there.
        script = f'exec 8<&{read_by_it} 9>&{written_by_it}; exec "$0" "$@" 3<&8 4>&9 8<&- 9>&-'
        self.process = subprocess.Popen(
            ["bash", "-c", script, str(found()), *options],
            pass_fds=(read_by_it, written_by_it),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(read_by_it)
        os.close(written_by_it)
        self._number, self._rest = 0, b""
        self._session: str | None = None
        attached = self.call("Target.attachToTarget", targetId=self._page(), flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser for something, and wait for it."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def screen(self, width: int, height: int, *, dark: bool = False, scale: float = 1.0) -> None:
        """How large the page is, and whether its user likes it dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, still])

    def go(self, address: str) -> None:
        """Open an address in a new document."""
        for url in ("about:blank", address):
            document = self.call("Page.navigate", url=url)["loaderId"]
            while self._document != document:  # what is asked before would be asked of the one that is going
                self._next()

    def hurry(self, times: float) -> None:
        """Let the clocks of the documents that are opened from now on run so many times as fast."""
        for name in ("setTimeout", "setInterval"):
            script = f"{{ const slow = {name}; window.{name} = (act, wait, ...more) => slow(act, wait / {times}, ...more); }}"
            self.call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression; promises are waited for."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(f"{expression}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until the expression is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain for {expression}; the page shows:\n{self.text()}")
            self.evaluate("new Promise((done) => setTimeout(done, 50))")

    def text(self) -> str:
        """What a person reads on the page."""
        return self.evaluate("document.body?.innerText ?? ''")

    def picture(self, path: Path, whole: bool = True) -> None:
        """Save a PNG of the page, all of it or what the screen shows."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole, format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser."""
        for end in (self._write, self._read):
            os.close(end)
        try:
            self.process.wait(timeout=30)  # a browser whose pipe is closed ends by itself
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _page(self) -> str:
        """Id of the page that a browser opens as it begins, and which need not be there yet."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            for target in self.call("Target.getTargets")["targetInfos"]:
                if target["type"] == "page":
                    return target["targetId"]
            assert time.monotonic() < deadline, "the browser opens no page"
            time.sleep(0.02)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], PATIENCE_S)
            more = os.read(self._read, 1 << 20) if ready else b""
            if not more:
                raise RuntimeError("the browser does not answer" if not ready else "the browser has ended")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(line)
        self._listen(message.get("method"), message.get("params", {}))
        return message

    def _listen(self, method: str | None, facts: dict[str, Any]) -> None:
        if method == "Page.frameNavigated" and "parentId" not in facts["frame"]:
            self._document = facts["frame"]["loaderId"]
        elif method == "Runtime.exceptionThrown":
            details = facts["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.complaints.append(facts["entry"]["text"] + " " + facts["entry"].get("url", ""))
        elif method == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning", "assert"):
            self.complaints.append(str([entry.get("value") for entry in facts["args"]]))
