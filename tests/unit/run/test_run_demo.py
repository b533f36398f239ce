"""What the demo reads while its processes write."""

from __future__ import annotations

from pathlib import Path

from farflung.events import EventLog, RoundCommitted, older_log
from farflung.run.demo import DemoProgress, Watch


def committed(number: int) -> RoundCommitted:
    return RoundCommitted(
        round=number, fragment=0, attempt=0, contributors=2, tokens=10, total_tokens=10 * number,
        loss=1.0, took_s=1.0, holders=2, replicated=True, state_root="ab",
    )  # fmt: skip


def test_the_follower_loses_nothing_when_the_log_begins_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    watch = Watch(stage=lambda _: None, picture=lambda _: None, solo=lambda *_: None)
    follower = DemoProgress(path, watch)
    assert not follower.poll()  # not there yet
    log = EventLog(path, "n", lambda: 1.0, most_bytes=2000)
    for number in range(60):
        log.emit(committed(number))
        if number % 3 == 0:
            follower.poll()
    with path.open("a") as file:
        file.write('{"half a line')
    follower.poll()
    log.close()
    assert older_log(path).exists()
    assert [timed.round for timed in follower.rounds] == list(range(60))
    follower.close()
