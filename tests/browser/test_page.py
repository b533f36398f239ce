"""The page in a real browser, over real windows: nothing fails, nothing is asked elsewhere, nothing
is wider than the screen, and what it shows is what the run did.

`FARFLUNG_SHOTS=folder` keeps a picture of every view (docs/img is made so).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "window"))

from synthetic import Options, write_folder

from farflung.cli.report import report

pytestmark = [pytest.mark.slow, pytest.mark.browser]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
SWITCHES = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDE, PHONE, NARROW = (1440, 900), (390, 844), (360, 740)
PAGES = ("", "training", "map", "timeline", "links", "peers", "samples", "log", "about")
SHOTS = os.environ.get("FARFLUNG_SHOTS", "")
SHOWN_S = 60.0


@dataclass
class Looked:
    """A page that is open, and what went wrong with it."""

    page: Any
    home: str
    wrong: list[str] = field(default_factory=list)

    def settle(self) -> None:
        self.page.wait_for_selector(".panel", timeout=SHOWN_S * 1000)
        self.page.evaluate("document.fonts.ready")
        self.page.wait_for_timeout(400)

    def go(self, address: str) -> None:
        self.page.goto(self.home + address)
        self.settle()

    def check(self) -> None:
        """Nothing failed, and nothing is wider than the window."""
        over = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert over <= 0, f"{self.page.url} is {over} px wider than the window"
        assert self.wrong == []

    def keep(self, name: str, *, whole: bool = False) -> None:
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=f"{SHOTS}/{name}.png", full_page=whole)


Open = Callable[..., Looked]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        yield launched
        launched.close()


@pytest.fixture
def look(browser: Any) -> Iterator[Open]:
    """Opens a page at an address; everything that it does is watched."""
    with contextlib.ExitStack() as closing:

        def opened(
            home: str, size: tuple[int, int] = WIDE, *, dark: bool = False, touch: bool = False
        ) -> Looked:
            context = browser.new_context(
                viewport={"width": size[0], "height": size[1]},
                color_scheme="dark" if dark else "light",
                reduced_motion="reduce",
                has_touch=touch,
            )
            closing.callback(context.close)
            page = context.new_page()
            looked = Looked(page, home)
            inside = (
                "file:" if home.startswith("file:") else home.partition("?")[0],
                "data:",
                "blob:",
            )
            page.on("pageerror", lambda error: looked.wrong.append(f"error: {error}"))
            page.on(
                "console",
                lambda m: looked.wrong.append(f"console: {m.text}") if m.type == "error" else None,
            )
            page.on(
                "request",
                lambda r: (
                    None if r.url.startswith(inside) else looked.wrong.append(f"asked {r.url}")
                ),
            )
            page.on("dialog", lambda d: (looked.wrong.append("a dialog opened"), d.dismiss()))
            return looked

        yield opened


@contextlib.contextmanager
def window(folder: Path, *options: str) -> Iterator[str]:
    """The address of a real window over a folder."""
    process = subprocess.Popen(
        [sys.executable, "-m", "farflung", "window", str(folder), *options],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line
        address = found.group()
        _until_read(address)
        yield address
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


def _until_read(address: str) -> None:
    import urllib.error
    import urllib.request

    end = time.monotonic() + 4 * SHOWN_S
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{address}healthz", timeout=10) as answer:
                if answer.status == 200:
                    return
        except urllib.error.HTTPError as error:
            error.close()
        time.sleep(0.2)
    raise AssertionError("the window did not read its run")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 peers, some with hostile names (not on pictures that are kept), 120 rounds; as if hosted
    by this process."""
    folder = tmp_path_factory.mktemp("run")
    shown: dict[str, Any] = {"hostile": False, "start": time.time() - 5200} if SHOTS else {}
    write_folder(Options(peers=24, rounds=120, seed=5, **shown), folder)
    (folder / "lock").write_text(f"{os.getpid()}\n")
    return folder


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    with window(run) as found:
        yield found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE, NARROW], ids=["wide", "phone", "narrow"])
def test_every_page_at_every_size(
    address: str, look: Open, size: tuple[int, int], dark: bool
) -> None:
    looked = look(address, size, dark=dark, touch=size != WIDE)
    for name in PAGES:
        looked.go(f"#/{name}")
        looked.check()
        shade, width = "dark" if dark else "light", "wide" if size == WIDE else "phone"
        if size != NARROW:
            looked.keep(f"{name or 'overview'}-{width}-{shade}", whole=name in ("", "training"))


@pytest.mark.skipif(bool(SHOTS), reason="pictures are made without hostile names")
def test_hostile_names_are_text(address: str, look: Open) -> None:
    looked = look(address)
    looked.go("#/peers")
    rows = looked.page.locator('[data-panel="peers"] a[href^="#/peer/"]')
    assert rows.count() >= 10
    texts = looked.page.locator('[data-panel="peers"]').inner_text()
    assert "<script>" in texts or "<img" in texts
    assert looked.page.evaluate("document.querySelectorAll('img[src=x], b').length") == 0
    looked.check()


def test_a_volunteers_own_page(address: str, look: Open) -> None:
    for size, dark in ((WIDE, False), (PHONE, True)):
        looked = look(address, size, dark=dark, touch=size == PHONE)
        looked.go("#/peers")
        looked.page.locator('[data-panel="peers"] a[href^="#/peer/"]').first.click()
        looked.page.wait_for_selector('[data-panel="peer"]')
        looked.settle()
        looked.check()
        looked.keep(f"peer-{'phone-dark' if dark else 'wide-light'}", whole=True)


def test_new_rounds_appear_while_one_looks(tmp_path: Path, run: Path, look: Open) -> None:
    """The last rounds are appended to a copy while the page is open."""
    live = tmp_path / "live"
    live.mkdir()
    shutil.copy(run / "host.json", live)
    lines = (run / "events.jsonl").read_bytes().splitlines(keepends=True)
    journal = (run / "journal.bin").read_bytes()
    at = next(
        i
        for i, line in enumerate(lines)
        if b'"RoundCommitted"' in line and b'"round": 100,' in line
    )
    (live / "journal.bin").write_bytes(journal)
    (live / "events.jsonl").write_bytes(b"".join(lines[:at]))
    with window(live) as home:
        looked = look(home)
        looked.go("#/log")
        log = looked.page.locator('[data-panel="log"]')
        assert "round 100 committed" not in log.inner_text()
        with (live / "events.jsonl").open("ab") as file:
            file.write(lines[at])
        log.get_by_text("round 100 committed").first.wait_for(timeout=SHOWN_S * 1000)
        looked.check()


def test_the_keys_lead_everywhere(address: str, look: Open) -> None:
    looked = look(address)
    looked.go("")
    looked.page.keyboard.press("?")
    looked.page.locator("dialog.help").wait_for()
    looked.page.keyboard.press("Escape")
    looked.page.keyboard.press("Tab")
    assert looked.page.evaluate("document.activeElement.className") == "skip"
    looked.check()


def test_an_embedded_part_is_alone(address: str, look: Open) -> None:
    looked = look(address + "?embed=loss,map", (800, 700))
    looked.go("")
    panels = looked.page.locator("[data-panel]")
    assert panels.count() == 2
    assert looked.page.locator("nav").count() == 0
    looked.check()


def test_a_private_map_says_so_and_tells_nothing(run: Path, look: Open) -> None:
    with window(run, "--no-map") as home:
        looked = look(home)
        looked.go("#/map")
        assert "keeps to itself" in looked.page.locator('[data-panel="map"]').inner_text()
        assert looked.page.evaluate("fetch('api/v1/regions').then(r => r.json())") == []
        looked.check()


def test_a_report_replays_from_a_disk(run: Path, tmp_path: Path, look: Open) -> None:
    out = tmp_path / "report"
    report(str(run), html=out)
    looked = look((out / "index.html").as_uri())
    looked.go("")
    slider = looked.page.locator('.replay-bar input[type="range"]')
    slider.focus()
    where = looked.page.locator(".replay-where")
    end = where.inner_text()
    looked.keep("replay-wide-light")
    looked.page.keyboard.press("Home")
    looked.page.wait_for_function(
        "([text]) => document.querySelector('.replay-where').innerText !== text", arg=[end]
    )
    looked.page.wait_for_timeout(500)
    for name in PAGES:
        looked.page.evaluate(f"location.hash = '#/{name}'")
        looked.settle()
    looked.check()


def test_a_thousand_peers(tmp_path: Path, look: Open) -> None:
    write_folder(Options(peers=1000, rounds=12, seed=6), tmp_path)
    with window(tmp_path) as home:
        for size, dark in ((WIDE, False), (PHONE, True)):
            looked = look(home, size, dark=dark, touch=size == PHONE)
            for name in ("", "map", "timeline", "links", "peers", "log"):
                looked.go(f"#/{name}")
                looked.check()
                looked.keep(f"thousand-{name or 'overview'}-{'phone' if dark else 'wide'}")
            looked.go("#/peers")
            drawn = looked.page.locator('[data-panel="peers"] a[href^="#/peer/"]').count()
            assert 5 <= drawn < 200  # a virtual list


def test_a_hundred_thousand_rounds(tmp_path: Path, look: Open) -> None:
    write_folder(Options(peers=4, rounds=100_000, seed=7, contributors=2), tmp_path)
    with window(tmp_path) as home:
        looked = look(home)
        looked.go("#/training")
        looked.check()
        points = looked.page.evaluate(
            "fetch('api/v1/rounds').then(r => r.json()).then(r => r.round.length)"
        )
        assert 200 <= points <= 2000
        looked.keep("long-training-wide")
