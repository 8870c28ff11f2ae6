"""A headless Chromium, driven over WebDriver's HTTP. Where there is none, Debian's is unpacked into the cache."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tools import debian

_PACKAGES = {"chromium": "chromium", "chromedriver": "chromium-driver"}
_FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1200,1600",
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key of an element in an answer, by the WebDriver standard."""
_WAIT_SECONDS = 20


def find() -> dict[str, str]:
    """The environment of the programs; a PackagesError says why there are none."""
    if reason := debian.unavailable(_PACKAGES):
        raise debian.PackagesError(reason)
    return debian.environment(_PACKAGES)


class Browser:
    """One tab. Elements are named by CSS selectors."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def open(self, url: str) -> None:
        self._call("POST", "/url", url=url)

    def text(self, selector: str) -> str:
        """What a reader sees."""
        return self._call("GET", f"/element/{self._find(selector)}/text")

    def click(self, selector: str) -> None:
        self._call("POST", f"/element/{self._find(selector)}/click")

    def write(self, selector: str, text: str) -> None:
        element = self._find(selector)
        self._call("POST", f"/element/{element}/clear")
        self._call("POST", f"/element/{element}/value", text=text)

    def run(self, script: str, *arguments: Any) -> Any:
        return self._call("POST", "/execute/sync", script=script, args=list(arguments))

    def until(self, script: str, *arguments: Any) -> Any:
        deadline = time.monotonic() + _WAIT_SECONDS
        while not (value := self.run(f"return {script}", *arguments)):
            assert time.monotonic() < deadline, f"never true: {script}\n{self.text('body')}"
            time.sleep(0.05)
        return value

    def console(self) -> list[dict[str, Any]]:
        """What the console got since the last call: level, source and message."""
        return self._call("POST", "/se/log", type="browser")

    def requested(self) -> list[str]:
        entries = self._call("POST", "/se/log", type="performance")
        events = [json.loads(entry["message"])["message"] for entry in entries]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]

    def picture(self) -> str:
        """A PNG of what is seen, in base64."""
        return self._call("GET", "/screenshot")

    def devtools(self, command: str, **parameters: Any) -> dict[str, Any]:
        return self._call("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def _find(self, selector: str) -> str:
        return self._call("POST", "/element", using="css selector", value=selector)[_ELEMENT]

    def _call(self, method: str, path: str, **body: Any) -> Any:
        answer = self._http.request(method, path, json=body if method == "POST" else None)
        assert answer.status_code == 200, answer.text
        return answer.json()["value"]


@contextmanager
def browser(environment: dict[str, str], home: Path) -> Iterator[Browser]:
    """A new browser with an empty profile in `home`."""
    chromedriver = shutil.which("chromedriver", path=environment["PATH"])
    launcher = shutil.which("chromium", path=environment["PATH"])
    assert chromedriver is not None
    assert launcher is not None
    program = Path(launcher).parents[1] / "lib/chromium/chromium"  # the launcher wants the package installed
    flags = [*_FLAGS, f"--user-data-dir={home / 'profile'}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    wanted = {
        "goog:chromeOptions": {"binary": str(program if program.exists() else launcher), "args": flags},
        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
    }
    process = subprocess.Popen(
        [chromedriver, "--port=0"],
        env=environment | {"HOME": str(home), "TMPDIR": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        ports = (re.search(r"started successfully on port (\d+)", line) for line in process.stdout)
        address = f"http://127.0.0.1:{next(port for port in ports if port)[1]}"
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as http:
            answer = http.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
            assert answer.status_code == 200, answer.text
            session = f"{address}/session/{answer.json()['value']['sessionId']}"
            http.base_url = session
            try:
                yield Browser(http)
            finally:
                http.delete(session).raise_for_status()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the driver, and a browser that has not quit
        process.wait()
        if process.stdout:
            process.stdout.close()
