"""A whole simulated run on a disk: sound as it is, and every tampering gives one sentence."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from farflung.checkpoint.blob_store import FOLDER as BLOBS
from farflung.checkpoint.input_log import attempt_name
from farflung.cli.main import app
from farflung.config.load import from_table
from farflung.disk import MemoryDisk
from farflung.errors import UserError
from farflung.events import Event
from farflung.run.verify import Violation, verify_folder
from farflung.sim.loop import run_virtual
from farflung.sim.world import JOURNAL, SimSwarm, seeded_identity, verify_record
from farflung.swarm.journal import HEADER, Journal
from farflung.swarm.ranges import Ranges
from farflung.swarm.records import AnyRecord, Commit, Mix

ROUNDS = 4
SPEC = {
    "name": "sim",
    "record": "all",
    "model": {"preset": "quadratic", "parameters": 2048},
    "data": {
        "seq_len": 16,
        "sources": [
            {"name": "web", "source": "synthetic", "rows": 1000, "weight": 3},
            {"name": "notes", "source": "synthetic", "rows": 7, "weight": 1},
        ],
    },
    "inner": {"batch_rows": 4, "optimizer": "adamw", "lr": 0.1},
    "outer": {"inner_steps": 5, "rounds": ROUNDS, "chunk_elements": 256},
    "swarm": {"start_peers": 2, "min_peers": 1, "snapshot_every": 4},
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disks and event logs of a finished run with `--record all`."""

    async def main() -> SimSwarm:
        swarm = await SimSwarm.start(from_table(SPEC), peers=2)
        await swarm.finished()
        await swarm.stop()
        return swarm

    swarm = run_virtual(main())
    folder = tmp_path_factory.mktemp("run")
    dump(swarm.disk, folder / "coordinator", swarm.events)
    for label, node in swarm.nodes.items():
        dump(node.disk, folder / label, node.events)
    return folder


def dump(disk: MemoryDisk, folder: Path, events: list[Event]) -> None:
    for name, data in disk._durable.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"kind": type(e).__name__, **dataclasses.asdict(e)}) for e in events]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def journals(folder: Path) -> list[Path]:
    return sorted(folder.rglob(JOURNAL))


def violation(folder: Path) -> str:
    with pytest.raises(Violation) as caught:
        verify_folder(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) > 20
    return sentence


def rewrite(folder: Path, change: Callable[[list[AnyRecord]], list[AnyRecord]]) -> None:
    """Every journal again, changed and signed by the true run key: a lying coordinator."""
    key = seeded_identity("run-0")
    for path in journals(folder):
        disk = MemoryDisk({JOURNAL: path.read_bytes()})
        records = list(Journal.open(disk, JOURNAL, verifier=verify_record, sign=None).records())
        fresh = MemoryDisk()
        again = Journal.open(
            fresh, JOURNAL, verifier=verify_record, sign=lambda m: key.sign(b"journal", m)
        )
        again.append_all(change(records))
        path.write_bytes(fresh.read(JOURNAL) or b"")


def changed(
    records: list[AnyRecord], round_: int, change: Callable[[Commit], Commit]
) -> list[AnyRecord]:
    return [change(r) if isinstance(r, Commit) and r.round == round_ else r for r in records]


# ---- sound ---------------------------------------------------------------------------------


def test_an_honest_run_passes_at_every_depth(original: Path) -> None:
    seen: list[tuple[int, int]] = []
    findings = verify_folder(original, lambda done, total: seen.append((done, total)))
    assert seen == [(n, ROUNDS) for n in range(1, ROUNDS + 1)]
    assert findings.journals == 4
    assert findings.commits == findings.steps_recomputed == ROUNDS
    assert findings.reductions_recomputed >= ROUNDS
    assert findings.slices_without_inputs == 0
    assert findings.signatures >= 2 * ROUNDS
    assert findings.events_compared >= 4 * ROUNDS
    assert (findings.duplicated, findings.lost, findings.partial) == (0, 0, 0)


def test_every_source_is_accounted_for(original: Path) -> None:
    """The small source was read several times when the large one has begun."""
    findings = verify_folder(original)
    web, notes = findings.sources
    assert (web.name, notes.name, notes.epoch_rows) == ("web", "notes", 7)
    assert web.consumed + notes.consumed == findings.credited
    assert 0.6 < web.consumed / findings.credited < 0.9
    assert web.epochs < 1 < 4 < notes.epochs
    assert [(s.duplicated, s.lost, s.returned) for s in findings.sources] == [(0, 0, 0)] * 2


def test_the_sources_are_printed_on_demand(original: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(original), "--data"])
    assert result.exit_code == 0
    lines = [line for line in result.output.splitlines() if line.startswith("data ")]
    assert len(lines) == 2
    assert "notes: " in lines[1] and "epochs of 7 rows; consumed" in lines[1]
    assert "duplicated 0, lost 0" in lines[1]
    assert "epochs" not in CliRunner().invoke(app, ["verify", str(original)]).output


def after_the_first_commit(records: list[AnyRecord], mix: Mix) -> list[AnyRecord]:
    at = next(i for i, r in enumerate(records) if isinstance(r, Commit)) + 1
    return [*records[:at], mix, *records[at:]]


def test_a_change_of_the_mixture_is_counted_from_where_it_starts(folder: Path) -> None:
    """Nothing below position 1,000 moves, so a change there changes no figure of a short run."""
    before = verify_folder(folder).sources
    mix = Mix(term=1, start_row=1000, weights=(1, 9), bases=(750, 250))
    rewrite(folder, lambda records: after_the_first_commit(records, mix))
    assert verify_folder(folder).sources == before


@pytest.mark.parametrize(
    ("mix", "words"),
    [
        (Mix(term=1, start_row=0, weights=(1, 9), bases=(0, 0)), "at 0 .* should be at 1000"),
        (Mix(term=1, start_row=1000, weights=(1, 9), bases=(700, 300)), r"\(750, 250\)"),
        (Mix(term=1, start_row=1000, weights=(2, 18), bases=(750, 250)), "should be at"),
        (Mix(term=1, start_row=1000, weights=(1,), bases=(750, 250)), "1 weights for 2 sources"),
    ],
)
def test_a_change_that_breaks_the_rule_is_a_violation(folder: Path, mix: Mix, words: str) -> None:
    rewrite(folder, lambda records: after_the_first_commit(records, mix))
    assert re.search(words, violation(folder))


def test_checking_changes_no_file(folder: Path) -> None:
    (folder / "p0" / JOURNAL).write_bytes((folder / "p0" / JOURNAL).read_bytes() + b"torn")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    verify_folder(folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_the_journal_and_results_are_enough_without_inputs(folder: Path) -> None:
    for inputs in folder.rglob("inputs"):
        shutil.rmtree(inputs)
    findings = verify_folder(folder)
    assert findings.reductions_recomputed == 0
    assert findings.slices_without_inputs == ROUNDS
    assert findings.steps_recomputed == ROUNDS


def test_missing_results_are_reported_and_are_no_violation(folder: Path) -> None:
    for results in folder.rglob("results"):
        shutil.rmtree(results)
    findings = verify_folder(folder)
    assert findings.missing_results == [0]
    assert findings.steps_recomputed == 0


def test_a_folder_without_a_journal_is_a_persons_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no journal\.bin"):
        verify_folder(tmp_path)


# ---- tampered ------------------------------------------------------------------------------


def test_a_changed_result_byte_is_found_in_any_holders_copy(folder: Path) -> None:
    flip(next((folder / "p1" / "results").iterdir()))
    assert "is damaged" in violation(folder)


def test_a_changed_input_byte_is_found(folder: Path) -> None:
    flip(sorted(p for p in folder.rglob("inputs/*/*") if p.is_file())[0])
    sentence = violation(folder)
    assert "not the mean of its contributions" in sentence or "committed to" in sentence


def test_a_changed_journal_byte_is_found(folder: Path) -> None:
    flip(folder / "keeper" / JOURNAL, len(HEADER) + 200)
    assert "is damaged at byte 12" in violation(folder)


def test_a_journal_signed_by_another_key_is_found(folder: Path) -> None:
    path = folder / "coordinator" / JOURNAL
    flip(path, len(HEADER) + 8 + 40)
    assert "damaged" in violation(folder)


def test_two_journals_that_differ_are_a_fork(folder: Path) -> None:
    keep = (folder / "p0" / JOURNAL).read_bytes()

    def again(records: list[AnyRecord]) -> list[AnyRecord]:
        return changed(records, 2, lambda c: msgspec.structs.replace(c, attempt=2))

    rewrite(folder, again)
    (folder / "p0" / JOURNAL).write_bytes(keep)
    assert "forks" in violation(folder)


def credit_again(records: list[AnyRecord]) -> list[AnyRecord]:
    """Round 1 credits what round 0 credited, for the same contributors."""
    first = next(r for r in records if isinstance(r, Commit) and r.round == 0)
    credited: dict[str, Ranges] = {c.node: c.credited for c in first.contributors}

    def change(commit: Commit) -> Commit:
        contributors = tuple(
            msgspec.structs.replace(c, credited=credited.get(c.node, c.credited))
            for c in commit.contributors
        )
        return msgspec.structs.replace(commit, contributors=contributors)

    return changed(records, 1, change)


def test_samples_credited_twice_are_found_although_the_journal_is_signed(folder: Path) -> None:
    rewrite(folder, credit_again)
    assert "samples were credited more than once" in violation(folder)


def test_a_divisor_that_is_not_the_sum_of_the_weights_is_found(folder: Path) -> None:
    rewrite(
        folder,
        lambda rs: changed(rs, 1, lambda c: msgspec.structs.replace(c, divisor=c.divisor + 1)),
    )
    assert "the divisor is not the sum of the weights" in violation(folder)


def test_a_vote_that_its_voter_did_not_sign_is_found(folder: Path) -> None:
    def forge(commit: Commit) -> Commit:
        vote = msgspec.structs.replace(commit.votes[0], signature=bytes(64))
        return msgspec.structs.replace(commit, votes=(vote, *commit.votes[1:]))

    rewrite(folder, lambda rs: changed(rs, 1, forge))
    assert "is not signed" in violation(folder)


def test_a_missing_round_is_found(folder: Path) -> None:
    rewrite(folder, lambda rs: [r for r in rs if not (isinstance(r, Commit) and r.round == 1)])
    assert "round 2 is resolved where 1 is due" in violation(folder)


def test_another_learning_rate_than_the_recorded_is_found(folder: Path) -> None:
    rewrite(
        folder, lambda rs: changed(rs, 1, lambda c: msgspec.structs.replace(c, outer_lr=0x3F000000))
    )
    assert "the recomputed fragment differs" in violation(folder)


def test_a_changed_genesis_chunk_is_found(folder: Path) -> None:
    keeper = folder / "keeper" / BLOBS
    largest = sorted(keeper.iterdir(), key=lambda p: p.stat().st_size)
    for path in largest[-2:]:
        flip(path)
    with pytest.raises((Violation, UserError)):
        verify_folder(folder)


@pytest.mark.parametrize("who", ["p0", "coordinator"])
def test_a_changed_state_root_in_an_event_log_is_found(folder: Path, who: str) -> None:
    path = folder / who / "events.jsonl"
    kind = "RoundCommitted" if who == "coordinator" else "Applied"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    next(x for x in lines if x["kind"] == kind)["state_root"] = "00" * 32
    path.write_text("\n".join(json.dumps(x) for x in lines), encoding="utf-8")
    assert "differs from the journal" in violation(folder)


def test_an_event_about_a_round_that_the_journal_lacks_is_found(folder: Path) -> None:
    path = folder / "coordinator" / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    next(x for x in lines if x["kind"] == "RoundCommitted")["round"] = 99
    path.write_text("\n".join(json.dumps(x) for x in lines), encoding="utf-8")
    assert "is not in the journal" in violation(folder)


def test_inputs_of_two_terms_do_not_share_a_name() -> None:
    """Attempts are counted anew after a coordinator's restart, over other slices."""
    assert attempt_name(7, 1, 1) != attempt_name(7, 2, 1)


def test_a_vote_for_another_fragment_is_found(folder: Path) -> None:
    path = folder / "p0" / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    next(x for x in lines if x["kind"] == "Voted")["fragment_hash"] = "00" * 32
    path.write_text("\n".join(json.dumps(x) for x in lines), encoding="utf-8")
    assert "voted for another fragment" in violation(folder)


def test_a_vote_of_an_attempt_that_a_restart_made_void_is_sound(folder: Path) -> None:
    """The new term counts attempts from 1 again, perhaps with other contributors."""
    path = folder / "p0" / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    first = next(x for x in lines if x["kind"] == "Voted")
    lines.insert(0, {**first, "term": first["term"] - 1, "fragment_hash": "00" * 32})
    path.write_text("\n".join(json.dumps(x) for x in lines), encoding="utf-8")
    verify_folder(folder)
