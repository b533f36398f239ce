"""One record of every kind, and a run key, for the tests of the swarm room."""

from __future__ import annotations

import hashlib

from farflung.config.load import from_table
from farflung.config.run import RunSpec, spec_bytes
from farflung.disk import MemoryDisk
from farflung.swarm.identity import Identity, verify
from farflung.swarm.journal import Journal
from farflung.swarm.records import (
    Abandon,
    Admin,
    Amend,
    AnyRecord,
    Close,
    Commit,
    Contributor,
    DataPart,
    Drawn,
    Evaluation,
    Gen,
    Genesis,
    Grant,
    Join,
    Lease,
    Mix,
    Rejected,
    Return,
    SignedVote,
    SliceHash,
    Term,
)

PATH = "journal.bin"
RUN_KEY = Identity.from_seed(hashlib.sha256(b"run").digest())


def mark(label: str) -> bytes:
    """32 bytes that stand for a hash."""
    return hashlib.sha256(label.encode()).digest()


def run_spec(**outer: object) -> RunSpec:
    return from_table(
        {
            "model": {"preset": "quadratic", "parameters": 1024},
            "data": {"source": "synthetic", "rows": 100_000, "seq_len": 16},
            "inner": {"batch_rows": 4},
            "outer": {"inner_steps": 4, "rounds": 8, "chunk_elements": 256, **outer},
        }
    )


def genesis(spec: RunSpec | None = None, fragments: int = 2) -> Genesis:
    return Genesis(
        version=1,
        run="0123456789abcdef",
        run_key=RUN_KEY.public_key,
        protocol=1,
        arithmetic=1,
        spec=spec_bytes(spec or run_spec(fragments=fragments)),
        layout=b'[["w",[1024]]]',
        layout_hash=mark("layout"),
        fragment_hashes=tuple(mark(f"fragment {i}") for i in range(fragments)),
        snapshot=mark("snapshot"),
        snapshot_bytes=300,
        data=(DataPart(name="data", rows=100_000, manifest=b"", manifest_bytes=0),),
        tokenizer=b"",
        tokenizer_bytes=0,
    )


def commit() -> Commit:
    node = "a" * 40
    return Commit(
        term=1,
        round=0,
        attempt=1,
        fragment=0,
        base_hash=mark("fragment 0"),
        base_round=-1,
        codec="int8",
        contributors=(
            Contributor(
                node=node,
                generation=1,
                credited=((0, 8),),
                tokens=128,
                commitment=mark("commitment"),
                clip=0x3F800000,
                base_round=-1,
            ),
        ),
        rejected=(Rejected(node="b" * 40, generation=2, reason="non-finite values"),),
        divisor=128,
        slices=(SliceHash(first=0, stop=4, owner=node, hash=mark("slice")),),
        bytes_root=mark("bytes"),
        outer_lr=0x3F800000,
        outer_momentum=0x3E99999A,
        fragment_hash=mark("new fragment"),
        state_root=mark("root"),
        holders=(node,),
        votes=(
            SignedVote(
                node=node,
                bytes_root=mark("bytes"),
                fragment_hash=mark("new fragment"),
                signature=bytes(range(64)),
            ),
        ),
    )


def one_of_each() -> list[AnyRecord]:
    node = "a" * 40
    return [
        genesis(),
        Term(term=1),
        Join(
            node=node, name="amber", region="eu", role="trainer", public_key=mark("k"), invite=b"n"
        ),
        Gen(node=node, generation=1),
        Lease(
            round=0,
            term=1,
            fragment=0,
            grants=(Grant(node=node, generation=1, ranges=((0, 8), (12, 16))),),
        ),
        commit(),
        Abandon(term=1, round=1, fragment=1, reason="nobody could contribute"),
        Close(node=node, generation=1, reason="left: done", freed=((12, 16),)),
        Return(node=node, generation=1, ranges=((8, 12),)),
        Admin(action="finish", who="", reason="complete", from_round=2),
        Evaluation(
            serial=3,
            node="ab" * 16,
            committed=40,
            next_round=41,
            nats_per_token=0x40000000,
            bits_per_byte=0x3FC00000,
            tokens=8192,
            samples=(Drawn(prompt="To be", text=", or not to be"),),
        ),
        Mix(term=1, start_row=1000, weights=(7, 3), bases=(550, 450)),
        Amend(
            term=1,
            request="5eed",
            from_round=2,
            committed=1,
            tokens=128,
            changes=b'{"inner.rewarm":[0.0625,0.125],"outer.rounds":16,"swarm.grace_s":5.0}',
        ),
    ]


def check(public_key: bytes, message: bytes, signature: bytes) -> bool:
    return verify(public_key, b"journal", message, signature)


def sign(message: bytes) -> bytes:
    return RUN_KEY.sign(b"journal", message)


def open_journal(disk: MemoryDisk, *, writer: bool = True) -> Journal:
    return Journal.open(disk, PATH, verifier=check, sign=sign if writer else None)


def written(records: list[AnyRecord] | None = None) -> MemoryDisk:
    disk = MemoryDisk()
    open_journal(disk).append_all(one_of_each() if records is None else records)
    return disk
