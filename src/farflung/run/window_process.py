"""The window's process beside a host: started, started again when it dies, ended with the host.

It hangs on a pipe: its standard input is the host's to hold, so it ends whenever the host does,
killed or not. Nothing that happens to it touches the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path

from farflung.events import Emit, WindowEnded, WindowOpened
from farflung.ids import split_endpoint
from farflung.run.logs import last_line
from farflung.run.window_settings import WindowSettings

LOG = "window.log"
"""In the host's folder: what the process complained of since it was started last."""
OPEN_S = 60.0
"""Until it must have said where it listens; a cold machine reads many files."""
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0
CALM_S = 60.0
"""One that lived so long is started again at once."""
TELL_S = 5.0
"""Between two sentences about the disk."""
POLITE_S = 3.0
"""From the end of its input to SIGKILL: it tells its viewers how the run ended."""


class WindowProcess:
    """Keeps a window open for a host's folder."""

    def __init__(
        self, folder: Path, settings: WindowSettings, emit: Emit, disk: Callable[[], str]
    ) -> None:
        """`disk`: the keeper's, in a sentence."""
        self._folder, self._settings, self._emit, self._disk = folder, settings, emit, disk
        self._bind = settings.bind
        """Where it was: a page that is open finds it again."""

    async def run(self) -> None:
        """Until cancelled; the process is gone then."""
        pause_s = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            reason = await self._once()
            if time.monotonic() - began > CALM_S:
                pause_s = FIRST_PAUSE_S
            self._emit(WindowEnded(reason=reason, again_s=pause_s))
            await asyncio.sleep(pause_s)
            pause_s = min(LAST_PAUSE_S, 2 * pause_s)

    async def _once(self) -> str:
        """One process, from its start to its end. Why it ended."""
        try:
            process = await self._start()
        except OSError as error:
            return (error.strerror or str(error)).lower()
        try:
            if problem := await self._open(process):
                return problem
            await self._tell_until_end(process)
            return f"it ended with code {process.returncode}: {last_line(self._folder / LOG)}"
        finally:
            await _end(process)

    async def _start(self) -> Process:
        with (self._folder / LOG).open("wb") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "farflung.window",
                *("--folder", str(self._folder), "--lead"),
                *("--bind", self._bind, "--ports", str(self._settings.ports)),
                *(["--public"] if self._settings.public else []),
                *([] if self._settings.map else ["--no-map"]),
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the host, which ends it
            )

    async def _open(self, process: Process) -> str:
        """Wait for its address, and tell it. Otherwise: what went wrong."""
        assert process.stdout is not None
        try:
            async with asyncio.timeout(OPEN_S):
                told = json.loads(await process.stdout.readline())
        except TimeoutError:
            return f"it said nothing for {OPEN_S:g} s"
        except ValueError:
            return f"it did not start: {last_line(self._folder / LOG)}"
        if "error" in told:
            return str(told["error"])
        wanted = split_endpoint(self._settings.bind)[1]
        port = int(told["port"])
        self._bind = f"{self._settings.bind.rpartition(':')[0]}:{port}"
        self._emit(
            WindowOpened(
                address=str(told["address"]),
                public=self._settings.public,
                taken=wanted if wanted not in (0, port) else 0,
            )
        )
        return ""

    async def _tell_until_end(self, process: Process) -> None:
        assert process.stdin is not None
        while process.returncode is None:
            line = json.dumps({"keeper_disk": self._disk()})
            with contextlib.suppress(ConnectionError):
                process.stdin.write(line.encode() + b"\n")
                await process.stdin.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TELL_S):
                    await process.wait()


async def _end(process: Process) -> None:
    """It leaves when its input ends."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(POLITE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    finally:
        if process.returncode is None:  # cancelled a second time
            process.kill()
