"""A page as a browser shows it: for tests of what we write as HTML."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

QUIET = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=2000", "--enable-logging=stderr",
)  # fmt: skip


class Shown(NamedTuple):
    """What came of a page.

    Attributes:
        html: the document after its scripts ran.
        console: what they, or faults, wrote to the console.
        requests: addresses that the page asked the network for.
    """

    html: str
    console: list[str]
    requests: list[str]


def show(page: Path, folder: Path, query: str = "") -> Shown:
    """Opens a page in headless Chromium; skips the test where there is none.

    Args:
        page: the file.
        folder: for the browser's own files.
        query: behind the address, such as `?theme=dark`.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    log = folder / "net.json"
    asked = [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--dump-dom"]
    command = [browser, *QUIET, *asked, f"{page.resolve().as_uri()}{query}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return Shown(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line], requests_in(log))


def requests_in(log: Path) -> list[str]:
    """The addresses in a network log that pages, not the browser itself, asked for."""
    events = re.sub(r",?\s*$", "", log.read_text())
    found = json.loads(events if events.endswith("}") else events + "]}")
    pages = [event["params"] for event in found["events"] if "initiator" in event.get("params", {})]
    return [each["url"] for each in pages if each["initiator"] != "not an origin" and each["url"].startswith("http")]
