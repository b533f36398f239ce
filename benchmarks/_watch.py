"""What `averaging.py` and `loop_blocks.py` put into the processes that they start; not a benchmark.

`patch` makes the text that runs in such a process before farflung's `main`. Only names that the
benchmarks rely on are touched: `farflung.averaging.exchange.Exchange`, the class `NumpyTrainer`
wherever its module lies, and asyncio's own loop.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import heapq
import importlib
import inspect
import json
import os
import pkgutil
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
KEPT = 10
"""Callbacks that are told of, the longest by wall and the longest by CPU."""
SAMPLE_S = 0.01
WRITE_S = 1.0
CPU_STEP_S = 0.001


def patch(function: str, out: Path) -> str:
    """Python text that calls `_watch.<function>(out)`."""
    path = f"sys.path.insert(0, {str(HERE)!r})"
    return f"{path}\nfrom pathlib import Path\nimport _watch\n_watch.{function}(Path({str(out)!r}))"


# ---- time inside the test trainer --------------------------------------------------------------


class TrainerTime:
    """Wall and thread CPU seconds inside NumpyTrainer's methods.

    The trainer lives in the agent's process and is not an agent's work.
    """

    def __init__(self, left: Callable[[], None] = lambda: None) -> None:
        self.loop_wall_s = self.loop_cpu_s = 0.0
        """On the thread that installed this: the event loop's."""
        self.cpu_s = 0.0
        """On any thread."""
        self._left = left
        self._loop_thread = threading.get_ident()
        self._local = threading.local()

    def install(self) -> None:
        cls = trainer_class()
        for name, function in list(vars(cls).items()):
            if inspect.iscoroutinefunction(function):
                setattr(cls, name, self._driven(function))
            elif inspect.isfunction(function):
                setattr(cls, name, self._timed(function))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def outer(*args: Any, **named: Any) -> Any:
            with self:
                return function(*args, **named)

        return outer

    def _driven(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def outer(*args: Any, **named: Any) -> Any:
            return await _Driven(function(*args, **named), self)

        return outer

    def __enter__(self) -> None:
        depth = getattr(self._local, "depth", 0)
        self._local.depth = depth + 1
        if depth == 0:
            self._local.began = (time.perf_counter(), time.thread_time())

    def __exit__(self, *_: object) -> None:
        self._local.depth -= 1
        if self._local.depth:
            return
        wall, cpu = self._local.began
        wall_s, cpu_s = time.perf_counter() - wall, time.thread_time() - cpu
        self.cpu_s += cpu_s
        if threading.get_ident() == self._loop_thread:
            self.loop_wall_s += wall_s
            self.loop_cpu_s += cpu_s
        self._left()


class _Driven:
    """Awaits a coroutine; the time that it runs, not that it waits, is counted."""

    def __init__(self, coroutine: Any, times: TrainerTime) -> None:
        self._coroutine = coroutine
        self._times = times

    def __await__(self) -> Generator[Any, Any, Any]:
        resume, value = self._coroutine.send, None
        while True:
            try:
                with self._times:
                    waited = resume(value)
            except StopIteration as stop:
                return stop.value
            try:
                value = yield waited
                resume = self._coroutine.send
            except BaseException as error:  # a cancellation is thrown in
                resume, value = self._coroutine.throw, error


def trainer_class() -> Any:
    """`NumpyTrainer`; its module may move within the package."""
    import farflung

    for module in pkgutil.walk_packages(farflung.__path__, "farflung."):
        if module.name.endswith(".numpy_trainer"):
            return importlib.import_module(module.name).NumpyTrainer
    raise SystemExit("no module numpy_trainer in farflung")


# ---- marks for averaging.py --------------------------------------------------------------------


def marks(out: Path) -> None:
    """Write a line per frame of results that arrives, and the trainer's CPU so far."""
    from farflung.averaging.exchange import Exchange

    file = out.open("a", buffering=1)

    def mark(**fields: Any) -> None:
        file.write(json.dumps({"t": time.monotonic(), **fields}) + "\n")

    told_s = 0.0

    def trainer_cpu() -> None:
        nonlocal told_s
        if times.cpu_s - told_s > CPU_STEP_S:
            told_s = times.cpu_s
            mark(kind="TrainerCpu", cpu_s=told_s)

    first: Any = Exchange.deliver_result

    def deliver_result(self: Exchange, *args: Any, **named: Any) -> None:
        mark(kind="Result", round=self.attempt.round, attempt=self.attempt.attempt)
        first(self, *args, **named)

    times = TrainerTime(trainer_cpu)
    times.install()
    Exchange.deliver_result = deliver_result  # type: ignore[method-assign]


# ---- the event loop, for loop_blocks.py --------------------------------------------------------


class _Longest:
    """The longest callbacks by one measure."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, dict[str, Any]]] = []
        self._count = 0

    def takes(self, seconds: float) -> bool:
        return len(self._heap) < KEPT or seconds > self._heap[0][0]

    def add(self, seconds: float, row: dict[str, Any]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (seconds, self._count, row))
        if len(self._heap) > KEPT:
            heapq.heappop(self._heap)

    def rows(self) -> list[dict[str, Any]]:
        return [row for _, _, row in sorted(self._heap.copy(), reverse=True)]


class LoopWatch:
    """Times every callback of asyncio's loop; a thread looks where the long ones are."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._times = TrainerTime()
        self._by_wall, self._by_cpu = _Longest(), _Longest()
        self._trainer_s = 0.0
        """Longest stretch of the trainer within one callback."""
        self._callbacks = 0
        self._born_s = time.perf_counter()
        self._main = threading.get_ident()
        self._began_s = 0.0  # of the running callback; 0: none runs
        self._seen: dict[str, float] = {}
        """Seconds of the running callback by place."""

    def install(self) -> None:
        self._times.install()
        first: Any = asyncio.events.Handle._run

        def run(handle: Any) -> None:
            before = _stack(handle)
            self._seen = {}
            trainer_wall, trainer_cpu = self._times.loop_wall_s, self._times.loop_cpu_s
            cpu = time.thread_time()
            self._began_s = wall = time.perf_counter()
            try:
                first(handle)
            finally:
                wall_s = time.perf_counter() - wall
                self._began_s = 0.0
                cpu_s = time.thread_time() - cpu
                trainer_s = self._times.loop_wall_s - trainer_wall
                self._note(
                    handle,
                    before,
                    wall_s - trainer_s,
                    cpu_s - (self._times.loop_cpu_s - trainer_cpu),
                    trainer_s,
                )

        timed: Any = run
        asyncio.events.Handle._run = timed  # type: ignore[method-assign]
        atexit.register(self.write)
        threading.Thread(target=self._look, daemon=True, name="loop-watch").start()

    def _note(
        self, handle: Any, before: list[str], wall_s: float, cpu_s: float, trainer_s: float
    ) -> None:
        self._callbacks += 1
        self._trainer_s = max(self._trainer_s, trainer_s)
        if not (self._by_wall.takes(wall_s) or self._by_cpu.takes(cpu_s)):
            return
        row = {
            "wall_s": round(wall_s, 4),
            "cpu_s": round(cpu_s, 4),
            "at_s": round(time.perf_counter() - self._born_s - wall_s, 2),
            "callback": _name(handle),
            "from": before,
            "to": _stack(handle),
            "seen": [
                (where, round(seconds, 3))
                for where, seconds in sorted(self._seen.items(), key=lambda s: -s[1])[:3]
            ],
        }
        if self._by_wall.takes(wall_s):
            self._by_wall.add(wall_s, row)
        if self._by_cpu.takes(cpu_s):
            self._by_cpu.add(cpu_s, row)

    def _look(self) -> None:
        """Where the loop's thread is while a callback takes long; writes the file at times."""
        written_s = last_s = 0.0
        while True:
            time.sleep(SAMPLE_S)
            began_s, now_s = self._began_s, time.perf_counter()
            if began_s and now_s - began_s > SAMPLE_S:
                frames = _frames(sys._current_frames().get(self._main))
                if frames:  # who keeps the interpreter lock is seen once, at its end
                    where, seen = " < ".join(frames), self._seen
                    seen[where] = seen.get(where, 0.0) + now_s - max(last_s, began_s)
            last_s = now_s
            if now_s - written_s > WRITE_S:
                written_s = now_s
                self.write()

    def write(self) -> None:
        text = {
            "callbacks": self._callbacks,
            "trainer_s": round(self._trainer_s, 4),
            "by_wall": self._by_wall.rows(),
            "by_cpu": self._by_cpu.rows(),
        }
        part = self._out.with_suffix(f".{threading.get_ident()}")
        part.write_text(json.dumps(text, indent=1))
        part.replace(self._out)


def loop(out: Path) -> None:
    """asyncio's own loop instead of uvloop, watched."""
    sys.modules["uvloop"] = None  # type: ignore[assignment]
    LoopWatch(out).install()


def _task(handle: Any) -> Any:
    owner = getattr(handle._callback, "__self__", None)
    return owner if isinstance(owner, asyncio.Task) else None


def _name(handle: Any) -> str:
    task, callback = _task(handle), handle._callback
    if task is not None:
        return f"task {task.get_coro().__qualname__}"
    owner = getattr(callback, "__self__", None)
    name = getattr(callback, "__qualname__", None) or type(callback).__qualname__
    return f"{name} of {type(owner).__qualname__}" if inspect.ismethod(callback) else str(name)


def _stack(handle: Any) -> list[str]:
    """The coroutines of the handle's task from the outermost in; empty for a plain callback."""
    task = _task(handle)
    at: Any = None if task is None else task.get_coro()
    names: list[str] = []
    while at is not None and hasattr(at, "cr_await"):
        names.append(at.__qualname__)
        at = at.cr_await
    return names[-4:]


def _frames(frame: FrameType | None) -> list[str]:
    """The innermost frame and the innermost three of the package; none inside the trainer."""
    names: list[str] = []
    ours = 0
    while frame is not None:
        path = frame.f_code.co_filename
        if path.endswith("numpy_trainer.py"):
            return []
        inside = f"{os.sep}farflung{os.sep}" in path
        if ours < 3 and (inside or not names):
            names.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
        ours += inside
        frame = frame.f_back
    return names
