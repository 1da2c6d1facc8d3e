"""A headless Chromium for tests: opens a page without a network, and says what happened there.

It is driven over the DevTools protocol through a pair of pipes. Names are resolved to nothing, so that only files,
`data:` and 127.0.0.1 can be reached; every request is noted all the same, also one that failed.

    @needs_chromium
    def test_the_page_is_quiet(tmp_path):
        with chromium() as browser:
            page = browser.open((tmp_path / "page.html").as_uri(), width=400)
            assert page.errors == []
            assert page.outside_requests() == []
            assert page.serious_violations() == []
            page.press("j")
            assert page.evaluate("document.querySelectorAll('.row').length") == 3
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on this machine")
PATIENCE = 60.0
"""Seconds that any one answer of the browser is waited for."""
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe",
)  # fmt: skip
# The protocol's pipes must be file descriptors 3 and 4; those given may bear any number, these too.
_START = (
    "import os, sys\nends = [os.dup(os.dup(os.dup(int(end)))) for end in sys.argv[1:3]]\n"
    "os.dup2(ends[0], 3), os.dup2(ends[1], 4)\nos.execv(sys.argv[3], sys.argv[3:])"
)
_LOCAL = ("file:", "data:", "blob:", "about:", "http://127.0.0.1:")
_KEYS = {"ArrowDown": 40, "ArrowUp": 38, "ArrowLeft": 37, "ArrowRight": 39, "Enter": 13, "Escape": 27, "Tab": 9}


class BrowserError(RuntimeError):
    """The browser did not do what it was told."""


class Page:
    """One open tab, with what it has complained about and asked for so far."""

    def __init__(self, browser: "Browser", session: str) -> None:
        self._browser, self._session = browser, session
        self.errors: list[str] = []
        """Console errors, uncaught exceptions, and what the browser logged as an error."""
        self.requests: list[str] = []
        """Address of everything asked for, the page itself first."""
        self.loaded = False

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol to this tab."""
        return self._browser.send(method, session=self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression; a promise is waited for."""
        done = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise BrowserError(f"{expression[:80]}: {_told(done['exceptionDetails'])}")
        return done["result"].get("value")

    def wait_for(self, expression: str, *, seconds: float = 20.0) -> Any:
        """Evaluate until the value is true, and return it."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            if time.monotonic() > deadline:
                raise BrowserError(f"not true within {seconds:g} s: {expression}; errors so far: {self.errors}")
            time.sleep(0.05)
        return value

    def press(self, key: str) -> None:
        """Press and release a key: a letter, or a name such as ArrowDown."""
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        code = _KEYS.get(key, ord(key[0].upper()))
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path, *, whole: bool = True) -> Path:
        """Save a PNG of the whole page, or of what the window shows."""
        done = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(done["data"]))
        return path

    def overflows(self) -> bool:
        """Whether the page is wider than the window, so that it would have to be scrolled sideways."""
        return self.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth + 1")

    def outside_requests(self) -> list[str]:
        """What was asked for beyond files, data and 127.0.0.1."""
        return [url for url in self.requests if not url.startswith(_LOCAL)]

    def serious_violations(self, *, without: Sequence[str] = ()) -> list[str]:
        """What axe-core finds of impact serious or critical, one line for each element.

        Args:
            without: Names of rules that are not asked.
        """
        found = find_spec("axe_core_python")
        assert found is not None and found.origin is not None, "axe-core-python is not installed"
        self.evaluate((Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8") + "; 0")
        options = json.dumps({"rules": {name: {"enabled": False} for name in without}, "resultTypes": ["violations"]})
        violations = self.evaluate(f"axe.run(document, {options}).then(done => done.violations)")
        return [
            f"{each['id']} ({each['impact']}): {node['html'][:120]} {node.get('failureSummary', '')[:200]}"
            for each in violations
            for node in each["nodes"]
            if each["impact"] in ("serious", "critical")
        ]

    def hear(self, method: str, said: dict[str, Any]) -> None:
        """Note an event of this tab."""
        if method == "Runtime.exceptionThrown":
            self.errors.append(_told(said["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(each.get("value", each.get("description"))) for each in said["args"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] == "error":
            self.errors.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"][:300])
        elif method == "Page.loadEventFired":
            self.loaded = True


class Browser:
    """A running Chromium; `chromium()` starts one."""

    def __init__(self, process: subprocess.Popen, commands: int, answers: int) -> None:
        self._process, self._commands, self._answers = process, commands, answers
        self._held, self._number = b"", 0
        self._pages: dict[str, Page] = {}

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        """Open an address in a new tab of a given size and wait until it is loaded."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        page.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.send("Emulation.setEmulatedMedia", features=[scheme])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.loaded = False
        failed = page.send("Page.navigate", url=url).get("errorText")
        if failed:
            raise BrowserError(f"{url}: {failed}")
        deadline = time.monotonic() + PATIENCE
        while not page.loaded:
            self._listen(deadline)
        return page

    def send(self, method: str, *, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its answer."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        command |= {} if session is None else {"sessionId": session}
        data = json.dumps(command).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        deadline = time.monotonic() + PATIENCE
        while True:
            said = self._listen(deadline)
            if said.get("id") == self._number:
                if "error" in said:
                    raise BrowserError(f"{method}: {said['error']['message']}")
                return said["result"]

    def _listen(self, deadline: float) -> dict[str, Any]:
        """The next thing the browser says; an event is noted by its page."""
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._answers, 1 << 20) if ready else b""
            if not data:
                state = f"ended with status {self._process.poll()}" if ready else "does not answer"
                raise BrowserError(f"{CHROMIUM} {state}")
            self._held += data
        message, _, self._held = self._held.partition(b"\0")
        said = json.loads(message)
        page = self._pages.get(said.get("sessionId", ""))
        if page is not None and "method" in said:
            page.hear(said["method"], said["params"])
        return said


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a Chromium with a profile of its own, and end it."""
    assert CHROMIUM is not None, "mark the test with needs_chromium"
    their_in, commands = os.pipe()
    answers, their_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", _START, str(their_in), str(their_out), *command],
            pass_fds=(their_in, their_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(their_in)
        os.close(their_out)
        try:
            yield Browser(process, commands, answers)
        finally:
            os.close(commands)
            os.close(answers)
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _told(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details.get("text"))
