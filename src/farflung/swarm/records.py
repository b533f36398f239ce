"""The kinds of journal records (docs/protocol.md, "Journal").

msgpack maps tagged by `type`, unknown kinds and fields refused, floats that matter as fp32 bits.
"""

from __future__ import annotations

import msgspec

from farflung.ids import Role

JOURNAL_VERSION = 2

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges of positions in the global order of samples, sorted, disjoint."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Base of all journal records."""


class DataPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One source of the samples."""

    name: str
    rows: int
    """Of one epoch."""
    manifest: bytes
    """Hash of the data manifest (empty for synthetic data)."""
    manifest_bytes: int


class Ancestor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where initial weights are from: a moment of another run, or a checkpoint's files."""

    name: str
    run: str = ""
    """Id of the run; empty: not known."""
    round: int = -1
    """Last round that the weights held; -1: none, or not known."""
    state: bytes = b""
    """Root of anchor and momentum after it, as that run's journal has it."""
    files: bytes = b""
    """Hash over the checkpoint's files (empty for the folder of a run)."""
    licence: str = ""
    """What the checkpoint says of itself."""


class Genesis(Record, frozen=True, kw_only=True):
    version: int
    run: str
    run_key: bytes
    """Ed25519 public key that signs every record."""
    protocol: int
    arithmetic: int
    spec: bytes
    """Canonical JSON of the RunSpec."""
    layout: bytes
    """Canonical JSON of the layout: [[name, [shape]], ...]."""
    layout_hash: bytes
    fragment_hashes: tuple[bytes, ...]
    """Of anchor 0 with zero momentum; the bytes are in `snapshot`."""
    snapshot: bytes
    """Hash of the manifest of the genesis snapshot."""
    snapshot_bytes: int
    """Length of that manifest."""
    data: tuple[DataPart, ...]
    """At least one; the order in which mixtures count them."""
    tokenizer: bytes
    """Hash of tokenizer.json (empty for bytes or synthetic)."""
    tokenizer_bytes: int
    lineage: tuple[Ancestor, ...] | msgspec.UnsetType = msgspec.UNSET
    """Of runs that did not begin with fresh weights: what they began with, and what that did."""

    @property
    def ancestors(self) -> tuple[Ancestor, ...]:
        """The lineage, newest first; empty for fresh weights."""
        return () if self.lineage is msgspec.UNSET else self.lineage


class Term(Record, frozen=True, kw_only=True, omit_defaults=True):
    """A coordinator incarnation; strictly rising."""

    term: int
    incarnation: str = ""
    """Random per process: two coordinators that begin the same term on copies of one journal
    write different records, so that whoever meets both can tell them apart."""


class Join(Record, frozen=True, kw_only=True):
    """Admission of an identity."""

    node: str
    name: str
    region: str
    role: Role
    public_key: bytes
    """Ed25519, 32 bytes; its hash is `node`. Votes are checked with it."""
    invite: bytes
    """Nonce of the invite that was redeemed (empty for the host's own keeper)."""


class Gen(Record, frozen=True, kw_only=True):
    """Opening of a generation: one uninterrupted stay."""

    node: str
    generation: int


class Close(Record, frozen=True, kw_only=True):
    """Closing of a generation; what it left uncredited becomes free (`freed`)."""

    node: str
    generation: int
    reason: str
    freed: Ranges
    """Free at once. Ranges frozen in an open attempt follow as a Return when it is resolved."""


class Return(Record, frozen=True, kw_only=True):
    """Ranges of a closed generation, frozen until now, made free."""

    node: str
    generation: int
    ranges: Ranges


class Grant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    node: str
    generation: int
    ranges: Ranges


class Lease(Record, frozen=True, kw_only=True):
    """Ranges granted for one round, written before the PLANs are sent."""

    round: int
    term: int
    fragment: int
    grants: tuple[Grant, ...]


class Contributor(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    node: str
    generation: int
    credited: Ranges
    tokens: int
    """Integer tokens since this contributor's base of the fragment: its weight."""
    commitment: bytes
    clip: int
    """fp32 bits of the clip factor."""
    base_round: int
    reported: int = 0
    """Tokens of the credited rows as the contributor's program counted them: shown, never decided
    by. 0: rows times data.seq_len."""


class Rejected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    node: str
    generation: int
    reason: str


class SliceHash(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    first: int
    stop: int
    owner: str
    hash: bytes


class SignedVote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    node: str
    bytes_root: bytes
    fragment_hash: bytes
    signature: bytes


class Commit(Record, frozen=True, kw_only=True):
    """COMMIT(r)."""

    term: int
    round: int
    attempt: int
    fragment: int
    base_hash: bytes
    """Fragment hash before this round."""
    base_round: int
    """Round that wrote it; -1 is genesis."""
    codec: str
    contributors: tuple[Contributor, ...]
    """In accumulation order."""
    rejected: tuple[Rejected, ...]
    divisor: int
    slices: tuple[SliceHash, ...]
    bytes_root: bytes
    outer_lr: int
    """fp32 bits."""
    outer_momentum: int
    fragment_hash: bytes
    """After this round."""
    state_root: bytes
    holders: tuple[str, ...]
    votes: tuple[SignedVote, ...]


class Abandon(Record, frozen=True, kw_only=True):
    """A round resolved without effect."""

    term: int
    round: int
    fragment: int
    reason: str


class Amend(Record, frozen=True, kw_only=True):
    """The operator changed settings of the run (swarm/amendments.py); a finished run is open again.

    Whoever reads the journal takes the changed settings from this record on.
    """

    term: int
    request: str
    """Random, chosen by who asked: asked twice, it is journalled once."""
    from_round: int
    """The first round that opens under the new settings."""
    committed: int
    """Rounds that were committed before."""
    tokens: int
    """Tokens that were committed before."""
    changes: bytes
    """Canonical JSON: {"outer.rounds": 150, ...}, the new values."""


class Admin(Record, frozen=True, kw_only=True):
    """pause, resume, drain, kick, ban, finish, end, rollback."""

    action: str
    who: str
    reason: str
    from_round: int
    node: str = ""


class Drawn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the model wrote after a prompt."""

    prompt: str
    text: str


class Evaluation(Record, frozen=True, kw_only=True):
    """How good the model was, as one node said: nobody agreed on it, nothing follows from it."""

    serial: int
    """Counts up from 0."""
    node: str
    committed: int
    """Rounds that were committed when it was asked for."""
    next_round: int
    """Of the snapshot that was measured: it holds all commits below."""
    nats_per_token: int
    """fp32 bits."""
    bits_per_byte: int
    """fp32 bits."""
    tokens: int
    samples: tuple[Drawn, ...]


class Mix(Record, frozen=True, kw_only=True):
    """Other weights of the sources, from a position on that was not leased yet."""

    term: int
    start_row: int
    """Position in the global order of samples; a part of the mixture before it ends there."""
    weights: tuple[int, ...]
    """Coprime integers, one for each source of GENESIS."""
    bases: tuple[int, ...]
    """Position of each source in its own order at `start_row`."""


AnyRecord = (
    Genesis
    | Term
    | Join
    | Gen
    | Close
    | Return
    | Lease
    | Commit
    | Abandon
    | Admin
    | Mix
    | Amend
    | Evaluation
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyRecord] = msgspec.msgpack.Decoder(AnyRecord)


def encode_record(record: AnyRecord) -> bytes:
    return _encoder.encode(record)


def decode_record(body: bytes) -> AnyRecord:
    """Raises msgspec.DecodeError / ValidationError for anything unknown or malformed."""
    return _decoder.decode(body)
