"""A trainer in a process of its own, through the public attach()."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

from farflung.config.run import DataSpec, InnerSpec, ModelSpec, OuterSpec, RunSpec
from farflung.events import Event, TaskFailed
from farflung.inner import channel
from farflung.inner.seam import SharedState
from farflung.outer.layout import Layout
from farflung.tasks import Tasks
from farflung.trainers import process as process_trainer
from farflung.trainers.link import TrainerLink
from farflung.trainers.port import Landing, TrainerDied, Work
from farflung.trainers.process import ProcessTrainer, last_words

TOY = (sys.executable, str(Path(__file__).parent / "toy_trainer.py"))
ENTRIES = [("0.weight", (4, 3)), ("0.bias", (4,)), ("1.weight", (2, 4))]
N = 24
FRAGMENTS = (((0, 5), (16, 24)), ((5, 16),))
SPEC = RunSpec(
    model=ModelSpec(preset="custom", program=("toy",)),
    data=DataSpec(source="synthetic", seq_len=10),
    inner=InnerSpec(batch_rows=2, schedule="constant", warmup_steps=0, join_warmup_steps=0),
    outer=OuterSpec(fragments=2, window=2),
)


@asynccontextmanager
async def toy(
    folder: Path,
    program: tuple[str, ...] = TOY,
    entries: list[tuple[str, tuple[int, ...]]] = ENTRIES,
    **env: str,
) -> AsyncIterator[ProcessTrainer]:
    shared = SharedState.create(N, FRAGMENTS, 2, memfd=True)
    shared.anchor[:] = np.arange(N, dtype=np.float32)
    trainer = ProcessTrainer(
        shared,
        SPEC,
        layout=Layout.from_entries(entries),
        program=program,
        data_dir=folder,
        log_path=folder / "trainer.log",
        emit=print,
        env=env,
    )
    try:
        yield trainer
    finally:
        await trainer.close()


def lease(round_: int = 0, first: int = 0, rows: int = 6) -> Work:
    return Work(
        round=round_,
        fragment=round_ % 2,
        generation=1,
        ranges=((first, first + rows),),
        steps=rows // 2,
        progress_start=0.0,
        progress_end=0.1,
        slot=round_ % 2,
    )


def landing(op: str, fragment: int, alpha: float = 0.0) -> Landing:
    return Landing(round=0, fragment=fragment, op=op, alpha=alpha, slot=fragment)  # type: ignore[arg-type]


def part(values: np.ndarray, fragment: int) -> np.ndarray:
    return np.concatenate([values[a:b] for a, b in FRAGMENTS[fragment]])


def within(seconds: float, main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await main()

    asyncio.run(bounded())


def test_two_leases_and_every_landing_are_exact(tmp_path: Path) -> None:
    async def main() -> None:
        async with toy(tmp_path) as port:
            await port.start()
            start = np.arange(N, dtype=np.float32)
            report = await port.train(lease(0))
            assert (report.rows, report.steps, report.tokens, port.steps) == (6, 3, 60, 3)
            assert report.finite and not report.note
            assert report.loss_sum == sum(start.sum() - 0.25 * N * k for k in range(3))
            np.testing.assert_array_equal(port.shared.sent(0, 0), part(start, 0) - 0.75)

            port.shared.anchor[:] += 100.0
            await port.land(landing("overwrite", 0))
            port.shared.land(1, 1)[:] = 0.125
            await port.land(landing("carry", 1))
            report = await port.train(lease(1, rows=0))
            np.testing.assert_array_equal(port.shared.sent(1, 1), part(start, 1) - 0.625)
            assert (report.steps, report.rows) == (0, 0)

            await port.land(landing("blend", 1, alpha=0.5))
            await port.train(lease(1, first=6, rows=2))
            blended = 0.5 * (part(start, 1) - 0.625) + 0.5 * (part(start, 1) + 100.0)
            np.testing.assert_array_equal(port.shared.sent(1, 1), blended - 0.25)
            await port.train(lease(2, rows=0))
            np.testing.assert_array_equal(port.shared.sent(0, 0), part(start, 0) + 99.75)

            await port.reset()
            await port.train(lease(0, rows=0))
            np.testing.assert_array_equal(port.shared.sent(0, 0), part(start, 0) + 100.0)
            assert port.steps == 4 and port.steps_per_s > 0 and port.phase == "waiting"
        assert "toy ends" in (tmp_path / "trainer.log").read_text()

    within(60, main)


def test_an_amended_schedule_holds_from_the_next_lease_on_and_after_a_restart(
    tmp_path: Path,
) -> None:
    """Halfway through a decay that lasts the whole run a step is half as large."""
    inner = msgspec.structs.replace(SPEC.inner, schedule="wsd", decay_fraction=1.0)
    decaying = msgspec.structs.replace(SPEC, inner=inner)

    def halfway(round_: int) -> Work:
        half = {"progress_start": 0.5, "progress_end": 0.5}
        return msgspec.structs.replace(lease(round_), **half)

    async def main() -> None:
        async with toy(tmp_path) as port:
            await port.start()
            start = np.arange(N, dtype=np.float32)
            await port.train(halfway(0))
            np.testing.assert_array_equal(port.shared.sent(0, 0), part(start, 0) - 0.75)
            port.amend(decaying)
            port.amend(decaying)
            await port.train(halfway(0))
            np.testing.assert_array_equal(port.shared.sent(0, 0), part(start, 0) - 0.75 - 0.375)
            await port.start()
            await port.train(halfway(0))
            np.testing.assert_array_equal(port.shared.sent(0, 0), part(start, 0) - 0.375)

    within(60, main)


def test_a_lease_ends_early_and_a_landing_arrives_between_steps(tmp_path: Path) -> None:
    async def main() -> None:
        async with toy(tmp_path, TOY_STEP_S="0.05", TOY_NAN_AT="400") as port:
            await port.start()
            training = asyncio.create_task(port.train(lease(0, rows=400)))
            await asyncio.sleep(0.3)
            port.shared.land(1, 1)[:] = 1000.0
            await port.land(landing("rebase", 1))
            assert not training.done() and port.phase == "training"
            port.stop_early()
            report = await training
            assert 0 < report.steps < 200 and report.rows == 2 * report.steps
            await port.train(lease(1, rows=0))
            moved = part(np.arange(N, dtype=np.float32), 1) + 1000.0 - 0.25 * report.steps
            np.testing.assert_array_equal(port.shared.sent(1, 1), moved)

            report = await port.train(lease(0, first=398, rows=4))
            assert not report.finite and report.note == "non-finite loss at step 2"
            assert np.isfinite(report.loss_sum)

            given_up = asyncio.create_task(port.train(lease(0, rows=400)))
            await asyncio.sleep(0.1)
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
            await port.reset()
            report = await port.train(lease(0, rows=2))
            assert report.steps == 1
            fresh = part(np.arange(N, dtype=np.float32), 0) - 0.25
            np.testing.assert_array_equal(port.shared.sent(0, 0), fresh)

    within(60, main)


@pytest.mark.slow
def test_a_killed_trainer_is_noticed_and_can_be_started_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with toy(tmp_path, TOY_STEP_S="0.02") as port:
            await port.start()
            training = asyncio.create_task(port.train(lease(0, rows=4000)))
            await asyncio.sleep(0.5)
            assert port._processes
            os.kill(port._processes[0].pid, signal.SIGKILL)
            with pytest.raises(TrainerDied, match="SIGKILL"):
                await training
            with pytest.raises(TrainerDied):
                await port.reset()
            before = port.steps
            assert before > 0
            await port.start()
            assert (await port.train(lease(0))).steps == 3
            assert port.steps == before + 3

    within(60, main)


def test_a_trainer_that_nobody_can_watch_counts_as_dead(tmp_path: Path) -> None:
    class Unwatchable:
        async def wait(self) -> int:
            await asyncio.sleep(0.01)
            raise KeyError("no such child")

    async def main() -> None:
        async with toy(tmp_path) as port:
            events: list[Event] = []
            port._tasks = Tasks(events.append, port._unwatched)
            link = port._link = TrainerLink(lambda _: None)
            port._tasks.start(port._watch([Unwatchable()], link), "watch")  # type: ignore[arg-type]
            with pytest.raises(TrainerDied, match="no such child"):
                await port.reset()
            assert [type(e) for e in events] == [TaskFailed]

    within(60, main)


def test_a_reset_ends_a_poisoned_optimizer_state(tmp_path: Path) -> None:
    async def main() -> None:
        async with toy(tmp_path, TOY_ADAMW="1", TOY_POISON_AT="2") as port:
            await port.start()
            report = await port.train(lease(0))
            assert not report.finite and report.steps == 3 and report.finite_steps == 1
            assert report.note == "non-finite loss at step 2 (of 3 steps, 2 were not finite)"
            await port.reset()
            report = await port.train(lease(0, first=10))
            assert report.finite and report.steps == 3

    within(60, main)


def test_a_trainer_without_its_agent_ends_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It ends by itself, however long a loaded machine takes over that: nobody kills it here.
    monkeypatch.setattr(process_trainer, "POLITE_S", 600.0)

    async def main() -> None:
        async with toy(tmp_path, TOY_STEP_S="0.02") as port:
            await port.start()
            training = asyncio.create_task(port.train(lease(0, rows=4000)))
            await asyncio.sleep(0.2)
            assert port._link is not None
            port._link.close()  # what the trainer sees when its agent is killed
            with pytest.raises(TrainerDied, match=r"exit code 0\)"):
                await training
        assert "the agent is gone; the trainer ends" in (tmp_path / "trainer.log").read_text()

    within(120, main)


def test_it_works_on_uvloop_too(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with asyncio.timeout(30), toy(tmp_path) as port:
            await port.start()
            assert (await port.train(lease(0))).steps == 3

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_a_program_that_fails_gives_its_last_line(tmp_path: Path) -> None:
    async def main() -> None:
        fails = (sys.executable, "-c", "raise SystemExit('no GPU in this room')")
        async with toy(tmp_path, program=fails) as port:
            with pytest.raises(TrainerDied, match=r"exit code 1\): no GPU in this room"):
                await port.start()
        async with toy(tmp_path, program=("/does/not/exist",)) as port:
            with pytest.raises(TrainerDied, match="cannot run '/does/not/exist'"):
                await port.start()

    within(30, main)


def test_two_batches_before_a_step_end_the_program_with_one_sentence(tmp_path: Path) -> None:
    async def main() -> None:
        async with toy(tmp_path, TOY_ACCUMULATES="1") as port:
            await port.start()
            told = (
                r"exit code 1\): a second batch was taken before peer\.step\(\) for the last batch"
            )
            with pytest.raises(TrainerDied, match=told):
                await port.train(lease(0))
            assert port.failure.endswith(f"(log: {tmp_path / 'trainer.log'})") and port.steps == 0

    within(30, main)


def test_a_program_that_failed_between_two_questions_is_told_by_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        async with toy(tmp_path, TOY_FAILS_AFTER="0") as port:
            await port.start()
            assert (await port.train(lease(0))).steps == 3 and port.failure == ""
            with pytest.raises(TrainerDied, match="RuntimeError: the toy is broken"):
                await port.train(lease(1, first=6))
            with pytest.raises(TrainerDied, match="RuntimeError: the toy is broken"):
                await port.reset()
            failed = port.failure
            assert "RuntimeError: the toy is broken (log: " in failed
            await port.start()
            assert port.failure == failed
            assert (await port.train(lease(0))).steps == 3 and port.failure == ""

    within(60, main)


def test_a_program_that_fails_when_told_to_end_has_failed(tmp_path: Path) -> None:
    async def main() -> None:
        async with toy(tmp_path, TOY_EXIT="7") as port:
            await port.start()
            await port.train(lease(0))
        assert "exit code 7): toy ends (log: " in port.failure
        async with toy(tmp_path) as port:
            await port.start()
        assert port.failure == ""

    within(60, main)


def test_last_words_are_the_error_of_the_last_traceback() -> None:
    trace = "Traceback (most recent call last):\n  File 'x.py', line 1\n    f()\n"
    assert last_words("") == ""
    assert last_words("one\n two \n\n") == "two"
    assert last_words(f"{trace}ValueError: no\nmore\nleaked semaphores") == "ValueError: no"
    assert last_words(f"{trace}A: 1\n\nDuring handling\n\n{trace}B: 2\n") == "B: 2"
    assert last_words(f"{trace}farflung.errors.UserError: say it") == "say it"
    assert last_words(trace) == "f()"


def test_another_model_is_refused_by_its_first_difference(tmp_path: Path) -> None:
    async def main() -> None:
        entries: list[tuple[str, tuple[int, ...]]] = [("0.weight", (12,)), *ENTRIES[1:]]
        async with toy(tmp_path, entries=entries) as port:
            with pytest.raises(TrainerDied, match=r"'0.weight' has shape \[4, 3\], in the run"):
                await port.start()

    within(30, main)


RAW = """
import os, socket, struct, time
s = socket.socket(socket.AF_UNIX); s.connect(os.environ["FARFLUNG_AGENT_SOCKET"])
body = bytes.fromhex(os.environ["RAW"]); s.sendall(struct.pack("<I", len(body)) + body)
print(s.recv(1000)); time.sleep(60)
"""


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (b"\x83\xa4kind\xa6Attach\xa7version\x09\xa3new\xc3", "speaks trainer protocol 9, this"),
        (b"\x82\xa4kind\xa6Landed\xa6serial\x01", "began with Landed, not Attach"),
        (b"\xc1", "did not greet"),
    ],
)
def test_a_foreign_greeting_is_refused_in_a_sentence(
    tmp_path: Path, message: bytes, sentence: str
) -> None:
    async def main() -> None:
        program = (sys.executable, "-c", RAW)
        async with toy(tmp_path, program=program, RAW=message.hex()) as port:
            with pytest.raises(TrainerDied, match=sentence):
                await port.start()

    within(30, main)


def test_a_program_that_never_attaches_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_trainer, "START_S", 0.3)

    async def main() -> None:
        async with toy(tmp_path, program=("sleep", "60")) as port:
            with pytest.raises(TrainerDied, match="did not attach"):
                await port.start()

    within(10, main)


def test_the_agent_side_never_imports_torch() -> None:
    code = (
        "import sys, farflung.trainers.process, farflung.trainers.numpy_trainer; "
        "assert not {'torch', 'pydantic', 'rich', 'typer'} & set(sys.modules)"
    )
    process = asyncio.run(_run(sys.executable, "-c", code))
    assert process == 0


async def _run(*command: str) -> int:
    process = await asyncio.create_subprocess_exec(*command)
    return await process.wait()


def test_an_oversized_frame_is_refused_before_allocation() -> None:
    with pytest.raises(channel.FrameError):
        channel.frame_length(b"\xff\xff\xff\xff")
