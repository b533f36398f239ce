"""Small multiple-choice questions that ship with the package, answered by likelihood.

For models that a few peers train: whether words, agreement, plain facts and copying have been
learned. It is no benchmark to publish; `--lm-eval` runs those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import msgspec

from farflung.data.tokenizer import Tokenizer
from farflung.errors import CorruptState
from farflung.evaluate.likelihood import Likelihood, Progress, encode_pair, likelihoods
from farflung.model.llama import Llama

SUITE_FILE = "suite.jsonl"


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the suite."""

    family: str
    context: str
    choices: tuple[str, ...]
    """Continuations, each with its leading space if it has one."""
    answer: int


@dataclass(frozen=True, kw_only=True)
class FamilyScore:
    family: str
    questions: int
    by_sum: float
    """Share whose right answer has the highest likelihood."""
    by_byte: float
    """The same per byte of the choice: long choices lose nothing."""
    chance: float
    """Share that blind guessing gets on average."""


def questions() -> list[Question]:
    """The shipped suite."""
    lines = (files("farflung.evaluate") / SUITE_FILE).read_bytes().splitlines()
    return parse_questions(lines)


def parse_questions(lines: Sequence[bytes]) -> list[Question]:
    """Raises CorruptState with the first line that is no question."""
    found = []
    for number, line in enumerate(lines, 1):
        try:
            question = msgspec.json.decode(line, type=Question)
        except msgspec.DecodeError as error:
            raise CorruptState(f"line {number} of the questions is malformed: {error}") from None
        if not 0 <= question.answer < len(question.choices) or len(question.choices) < 2:
            raise CorruptState(f"line {number} of the questions names no choice as its answer")
        found.append(question)
    return found


def suite_scores(
    model: Llama,
    tokenizer: Tokenizer,
    asked: Sequence[Question],
    progress: Progress | None = None,
) -> list[FamilyScore]:
    """One for each family in the order of its first question, then `all`."""
    pairs = [encode_pair(tokenizer, q.context, choice) for q in asked for choice in q.choices]
    flat = iter(likelihoods(model, pairs, progress))
    right = [_right(q, [next(flat) for _ in q.choices]) for q in asked]
    groups: dict[str, list[int]] = {}
    for index, question in enumerate(asked):
        groups.setdefault(question.family, []).append(index)
    groups["all"] = list(range(len(asked)))
    return [
        FamilyScore(
            family=family,
            questions=len(members),
            by_sum=sum(right[i][0] for i in members) / len(members),
            by_byte=sum(right[i][1] for i in members) / len(members),
            chance=sum(1 / len(asked[i].choices) for i in members) / len(members),
        )
        for family, members in groups.items()
    ]


def _right(question: Question, found: Sequence[Likelihood]) -> tuple[bool, bool]:
    """Whether the answer wins (by sum, per byte). A tie counts for the one named first."""
    lengths = [len(choice.encode("utf-8")) for choice in question.choices]
    by_sum = max(range(len(found)), key=lambda i: found[i].nats)
    by_byte = max(range(len(found)), key=lambda i: found[i].nats / lengths[i])
    return by_sum == question.answer, by_byte == question.answer
