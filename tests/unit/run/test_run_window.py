"""Where a host's window is shown: what is remembered, what is refused, what is said."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec
import pytest

from farflung.cli.host_lines import shown_window
from farflung.errors import ConfigError, UserError
from farflung.events import Event, WindowEnded, WindowOpened, sentence_of
from farflung.run import window_process
from farflung.run.host_folder import HostOptions, Settings, load_settings, wanted_settings
from farflung.run.window_process import WindowProcess
from farflung.run.window_settings import (
    DEFAULT_WINDOW,
    WindowChoice,
    WindowSettings,
    check_window,
    chosen_window,
)


def test_what_a_start_was_told_is_remembered_by_the_next() -> None:
    told = wanted_settings(
        None, HostOptions(window=WindowChoice(public="0.0.0.0:8000", map=False)), "run"
    )
    again = wanted_settings(told, HostOptions())
    assert again.window == WindowSettings(bind="0.0.0.0:8000", public=True, map=False)
    hidden = wanted_settings(again, HostOptions(window=WindowChoice(none=True)))
    assert not hidden.window.shown and not wanted_settings(hidden, HostOptions()).window.shown
    back = wanted_settings(hidden, HostOptions(window=WindowChoice(bind="127.0.0.1:9000")))
    assert back.window == WindowSettings(bind="127.0.0.1:9000", map=False), "private again"


def test_settings_of_before_there_was_a_window_are_read(tmp_path: Path) -> None:
    old = {"run": "r", "bind": "127.0.0.1:7000", "advertise": [], "keeper": True}
    (tmp_path / "host.json").write_bytes(msgspec.json.encode(old))
    settings = load_settings(tmp_path)
    assert isinstance(settings, Settings) and settings.window == WindowSettings()


def test_only_the_default_port_may_be_another_one() -> None:
    assert WindowSettings().bind == DEFAULT_WINDOW and WindowSettings().ports > 1
    assert WindowSettings(bind="127.0.0.1:7090").ports == 1


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (WindowChoice(bind="0.0.0.0:7080"), "say so with --public 0.0.0.0:7080"),
        (WindowChoice(bind="example.org:7080"), "other machines"),
        (WindowChoice(bind="127.0.0.1:1", public="0.0.0.0:1"), "exclude each other"),
        (WindowChoice(bind="127.0.0.1:1", none=True), "exclude each other"),
    ],
)
def test_what_does_not_go_together_is_refused(choice: WindowChoice, words: str) -> None:
    with pytest.raises(UserError, match=words):
        chosen_window(WindowSettings(), choice)


def test_an_address_without_a_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="for example"):
        chosen_window(WindowSettings(), WindowChoice(public="example.org"))


def test_a_port_that_was_named_must_be_free_and_not_the_coordinators() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match="give another --window"):
            asyncio.run(check_window(WindowChoice(bind=f"127.0.0.1:{port}"), "127.0.0.1:0"))
    with pytest.raises(UserError, match="has the port of --bind"):
        asyncio.run(check_window(WindowChoice(public="0.0.0.0:7000"), "0.0.0.0:7000"))
    asyncio.run(check_window(WindowChoice(), "127.0.0.1:7000"))


def test_the_terminal_says_where_it_is_and_why_there() -> None:
    at = "http://127.0.0.1:7081/"
    said = [
        shown_window(WindowOpened(address=at, public=public, taken=taken))
        for public, taken in ((False, 0), (False, 7080), (True, 0))
    ]
    assert said == [
        f"dashboard: {at}",
        f"dashboard: {at}  (port 7080 is taken)",
        f"dashboard: {at}  (everybody may see it)",
    ]


def test_one_that_cannot_listen_is_tried_again_later_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process each time, and the host hears of it in a sentence."""
    monkeypatch.setattr(window_process, "FIRST_PAUSE_S", 0.01)
    told: list[Event] = []

    async def story(bind: str) -> None:
        twice = asyncio.Event()

        def hear(event: Event) -> None:
            told.append(event)
            if len(told) == 2:
                twice.set()

        keeping = WindowProcess(tmp_path, WindowSettings(bind=bind), hear, lambda: "")
        running = asyncio.ensure_future(keeping.run())
        await twice.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        asyncio.run(story(f"127.0.0.1:{taken.getsockname()[1]}"))
    assert all(isinstance(event, WindowEnded) for event in told[:2])
    pauses = [event.again_s for event in told[:2] if isinstance(event, WindowEnded)]
    assert pauses == [0.01, 0.02]
    assert "in use" in sentence_of(told[0])
