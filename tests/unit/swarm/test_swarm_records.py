"""Records: golden bytes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from swarm_samples import genesis, mark, one_of_each

from farflung.swarm.records import Ancestor, AnyRecord, Term, decode_record, encode_record

GOLDEN = Path(__file__).parents[2] / "golden" / "swarm_records.json"


def test_every_kind_of_record_has_the_golden_bytes() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert {type(r).__name__: encode_record(r).hex() for r in one_of_each()} == golden


def test_every_kind_of_record_is_among_the_samples() -> None:
    assert {type(r) for r in one_of_each()} == set(get_args(AnyRecord))


@pytest.mark.parametrize("record", one_of_each(), ids=lambda r: type(r).__name__)
def test_a_record_decodes_to_itself(record: object) -> None:
    assert decode_record(encode_record(record)) == record  # type: ignore[arg-type]


def test_a_genesis_with_a_lineage_comes_back_and_one_without_says_nothing_of_it() -> None:
    parent = Ancestor(name="a", run="0123456789abcdef", round=49, state=mark("root"))
    checkpoint = Ancestor(name="small", files=mark("files"), licence="mit")
    founded = msgspec.structs.replace(genesis(), lineage=(parent, checkpoint))
    assert decode_record(encode_record(founded)) == founded
    assert founded.ancestors == (parent, checkpoint) and genesis().ancestors == ()
    assert b"lineage" not in encode_record(genesis())


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "Unheard", "term": 1},
        {"type": "Term"},
        {"type": "Term", "term": "one"},
        {"type": "Term", "term": 1.5},
        {"type": "Term", "term": 1, "extra": 2},
        {"term": 1},
    ],
    ids=["unknown kind", "field missing", "wrong type", "float", "unknown field", "no kind"],
)
def test_an_unknown_or_malformed_record_refuses_to_load(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_record(msgspec.msgpack.encode(fields))


def test_trailing_bytes_refuse_to_load() -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_record(encode_record(Term(term=1)) + b"\0")
