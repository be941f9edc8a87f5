"""A real Chromium, driven over the WebDriver protocol with nothing but the standard library."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


def find_browser() -> tuple[str, str] | None:
    """Paths of Chromium and its driver, or None where one of them is missing."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """One headless browser with a window of its own.

    Args:
        browser, driver: paths of Chromium and chromedriver.
        profile: an empty folder for the browser's data.
    """

    def __init__(self, browser: str, driver: str, profile: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._driver = subprocess.Popen(
            [driver, f"--port={self._url.rpartition(':')[2]}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        options = {"binary": browser, "args": [*ARGUMENTS, f"--user-data-dir={profile}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            self._wait_until_ready()
            session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        except BaseException:
            self._driver.kill()
            self._driver.wait()
            raise
        self._session = f"/session/{session}"

    def open(self, path: Path) -> None:
        """Load a file and wait until it is loaded."""
        self._call("POST", f"{self._session}/url", {"url": path.resolve().as_uri()})

    def run(self, script: str, *arguments):
        """The value that a script returns."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def click(self, css: str) -> None:
        """Click on the first element of a selector, as a user does: it must be visible."""
        found = self._call("POST", f"{self._session}/element", {"using": "css selector", "value": css})
        self._call("POST", f"{self._session}/element/{next(iter(found.values()))}/click", {})

    def choose(self, css: str, value: str) -> None:
        """Choose the option of a <select>."""
        self.click(f'{css} option[value="{value}"]')

    def resize(self, width: int, height: int) -> None:
        """Give the window another size in pixels."""
        self._call("POST", f"{self._session}/window/rect", {"width": width, "height": height})

    def messages(self) -> list[dict]:
        """What the console has said since the last call, as level and message."""
        return self._call("POST", f"{self._session}/se/log", {"type": "browser"})

    def close(self) -> None:
        """End the browser and its driver."""
        try:
            self._call("DELETE", self._session)
        finally:
            self._driver.terminate()
            self._driver.wait(timeout=10)

    def _wait_until_ready(self) -> None:
        for _ in range(200):
            try:
                if self._call("GET", "/status")["ready"]:
                    return
            except urllib.error.URLError:
                time.sleep(0.05)
        raise RuntimeError("chromedriver did not start")

    def _call(self, method: str, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(json.load(error)["value"]["message"]) from None


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A Chromium for the tests of pages; they are skipped where there is none."""
    if (found := find_browser()) is None:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    opened = Browser(*found, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
