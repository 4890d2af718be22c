"""Headless Chromium, driven over the DevTools protocol's pipe: no further package, no port."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
HIGH = 60
"""Descriptors from here on are nobody else's, so that 3 and 4 can be set without closing one of the two."""
PATIENCE = 60.0
"""Seconds to wait for an answer of the browser."""
LONG_AGO = 1e9


def found() -> str | None:
    """Return the path of a Chromium, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """A running browser with one page.

    Attributes:
        errors: what the page's console and scripts complained of, and what its policy refused, since ``open``.
        requests: addresses that were asked for since ``open``.
    """

    def __init__(self, program: str, profile: str) -> None:
        answers, told = os.pipe()
        orders, ordered = os.pipe()
        child = [fcntl.fcntl(each, fcntl.F_DUPFD, HIGH) for each in (orders, told)]
        shell = f'exec "$0" "$@" 3<&{child[0]} 4>&{child[1]}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=child, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        for each in (*child, orders, told):
            os.close(each)
        self.answers, self.ordered = answers, ordered
        self.buffer = b""
        self.number = 0
        self.session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.loaded = False
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(each for each in targets if each["type"] == "page")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Performance.enable", timeDomain="threadTicks")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something and return the answer."""
        self.number += 1
        number = self.number
        message = {"id": number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.ordered, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self._next(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, page: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file as it is shown on a screen of ``width`` × ``height`` points."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.errors.clear()
        self.requests.clear()
        self.loaded = False
        self.call("Page.navigate", url=Path(page).absolute().as_uri())
        deadline = time.monotonic() + PATIENCE
        while not self.loaded:
            self._next(deadline)

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Click on an element with the mouse, in the middle of what can be seen of it."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def write(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def picture(self, path: Path | str, box: tuple[float, float, float, float] | None = None) -> None:
        """Save what is on the screen as a PNG, or a box of the page: left, top, width, height."""
        more: dict[str, Any] = {}
        if box is not None:
            clip = dict(zip(("x", "y", "width", "height"), box)) | {"scale": 1}
            more = {"captureBeyondViewport": True, "clip": clip}
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **more)["data"]))

    def overflow(self) -> int:
        """Return by how many points the page is wider than the screen."""
        return int(self.run("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def opening(self) -> dict[str, float]:
        """Return the milliseconds from navigation until the page was parsed, loaded and first painted."""
        timing: dict[str, float] = self.run(
            "(() => { const t = performance.getEntriesByType('navigation')[0];"
            "const p = performance.getEntriesByName('first-contentful-paint')[0];"
            "return {parsed: t.domInteractive, loaded: t.loadEventEnd, painted: p ? p.startTime : -1}; })()"
        )
        return timing

    def worked(self) -> float:
        """Return the seconds that the page's thread has computed: the time to open, whatever else the machine does."""
        found = {each["name"]: each["value"] for each in self.call("Performance.getMetrics")["metrics"]}
        return float(found["TaskDuration"])

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            self.session = None
            self.call("Browser.close")
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.answers)
        os.close(self.ordered)

    def _next(self, deadline: float) -> dict[str, Any]:
        """Return the next message; keep what it tells of errors."""
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"Chromium gave no answer within {PATIENCE:g} seconds")
            block = os.read(self.answers, 1 << 20)
            if not block:
                raise RuntimeError(f"Chromium went away: {self.process.wait()}")
            self.buffer += block
        line, _, self.buffer = self.buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(told["exceptionDetails"].get("exception", told["exceptionDetails"])))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.errors.append(f"console.{told['type']}: {told['args']}")
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(told["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Give a browser, and end it.

    Raises:
        FileNotFoundError: if there is none on this machine.
    """
    program = found()
    if program is None:
        raise FileNotFoundError(f"none of {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True) as profile:
        page = Browser(program, profile)
        try:
            yield page
        finally:
            page.close()
