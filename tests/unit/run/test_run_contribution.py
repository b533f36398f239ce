"""What a node has given, from a journal; and the picture that a journal gives."""

from __future__ import annotations

import msgspec

from farflung.run.contribution import Given, given_by, tell, tell_evaluator
from farflung.swarm.records import AnyRecord, Commit, Contributor, Evaluation, Term
from farflung.trained.history import history_of

SOME = bytes(32)


def commit(round_: int, **rows: int) -> Commit:
    """One commit that credits so many rows to each node."""
    at, contributors = round_ * 1000, []
    for node, count in rows.items():
        contributors.append(
            Contributor(
                node=node, generation=1, credited=((at, at + count),), tokens=count * 16,
                commitment=SOME, clip=0, base_round=-1,
            )
        )  # fmt: skip
        at += count
    return Commit(
        term=1, round=round_, attempt=0, fragment=0, base_hash=SOME, base_round=-1, codec="int8",
        contributors=tuple(contributors), rejected=(), divisor=1, slices=(), bytes_root=SOME,
        outer_lr=0, outer_momentum=0, fragment_hash=SOME, state_root=SOME, holders=(), votes=(),
    )  # fmt: skip


RECORDS: list[AnyRecord] = [Term(term=1), commit(0, a=30, b=10), commit(1, b=40), commit(2, a=20)]


def test_rounds_samples_tokens_and_share_are_the_journals() -> None:
    assert given_by("a", RECORDS, 16) == Given(rounds=2, samples=50, tokens=800, share=0.5)
    assert given_by("a", RECORDS[2:], 16) == Given(rounds=1, samples=20, tokens=320, share=1 / 3)
    assert given_by("stranger", RECORDS, 16) == Given()
    assert given_by("a", [], 16) == Given()


def test_what_a_program_counted_is_told_everywhere_alike() -> None:
    """The peer's line, the run's sum and the model card: one number."""
    whole = commit(0, a=30, b=10)
    a, b = whole.contributors
    record = msgspec.structs.replace(
        whole, contributors=(msgspec.structs.replace(a, reported=333), b)
    )
    assert given_by("a", [record], 16).tokens == 333
    assert given_by("b", [record], 16).tokens == 160
    told = history_of([record], 1, 16)
    assert told.tokens == 493 and {c.tokens for c in told.contributors} == {333, 160}


def test_the_line_says_what_this_process_and_the_node_gave() -> None:
    now, ever = given_by("a", RECORDS[2:], 16), given_by("a", RECORDS, 16)
    line = tell(now, ever, 1.5, 2_500_000, 1_000_000)
    assert line == (
        "contributed to 1 round: 320 tokens, 20 samples, 33.3 % of the run's in 90 min; "
        "2.5 MB up, 1.0 MB down (in all 2 rounds, 800 tokens)"
    )
    assert "in all" not in tell(ever, ever, 40.0, 0, 0) and "40.0 h" in tell(ever, ever, 40.0, 0, 0)


def test_an_evaluators_line_counts_what_it_measured() -> None:
    def measured(serial: int, node: str) -> Evaluation:
        return Evaluation(
            serial=serial, node=node, committed=1, next_round=1, nats_per_token=0, bits_per_byte=0,
            tokens=1, samples=(),
        )  # fmt: skip

    records = [*RECORDS, measured(0, "e"), measured(1, "a"), measured(2, "e")]
    ever, now = given_by("e", records, 16), given_by("e", records[-1:], 16)
    assert ever == Given(evaluations=2)
    assert tell_evaluator(ever, ever, 1.5, 2_500_000, 1_000_000) == (
        "measured the model 2 times in 90 min; 2.5 MB up, 1.0 MB down"
    )
    assert tell_evaluator(now, ever, 1.5, 0, 0).startswith("measured the model 1 time in")
    assert tell_evaluator(now, ever, 1.5, 0, 0).endswith("(in all 2 times)")
