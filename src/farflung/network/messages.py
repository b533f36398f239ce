"""Every message between nodes: strict, typed, versioned, without tensors.

Control messages are msgpack maps of these structs, tagged by `type`; unknown fields are refused.
Tensor bytes travel as bulk frames: one of the `Bulk` headers, then the raw payload.
docs/wire.md gives the bytes; PROTOCOL names (PLAN, READY, ...) are the class names.
"""

from __future__ import annotations

import msgspec

from farflung.ids import AccusationKind, NodePhase, Role


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Base of all control messages."""


# ---- joining the control plane -------------------------------------------------------------


class Redeem(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Stranger -> coordinator, on a connection without a client certificate."""

    invite: str
    public_key: bytes
    name: str
    region: str = ""
    role: Role | None = None
    """None: what the invite says. An invite for trainers admits an evaluator too."""


class Redeemed(Message, frozen=True, kw_only=True):
    certificate_pem: str
    ca_pem: str
    run_key: bytes
    run_name: str


class Hello(Message, frozen=True, kw_only=True):
    """Node -> coordinator, first message of an authenticated connection."""

    protocol: int
    arithmetic: int
    run: str
    name: str
    region: str
    role: Role
    endpoints: tuple[str, ...]
    """Where others can dial this node's data plane; empty: outbound only."""
    term: int
    journal_length: int
    journal_head: bytes
    session: str
    """Random per process: two processes with one key are told apart."""
    generation: int
    """The generation whose progress this process still holds; 0: none."""
    device: str = ""
    """What its trainer computes on, for people; empty: not known yet."""
    software: str = ""
    """`farflung 0.1.0`"""


class Welcome(Message, frozen=True, kw_only=True):
    protocol: int
    term: int
    journal_length: int


class Donors(Message, frozen=True, kw_only=True):
    """Coordinator -> node, whenever it changes: who has state and blobs, keepers first."""

    members: tuple[Member, ...]


class Refuse(Message, frozen=True, kw_only=True):
    """The sentence for the person; the connection closes after it."""

    sentence: str


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach a node's data plane."""

    node: str
    endpoints: tuple[str, ...]


class JournalFrames(Message, frozen=True, kw_only=True):
    """Coordinator -> node: journal records, in order, as they stand in the file."""

    first: int
    frames: tuple[bytes, ...]


class Synced(Message, frozen=True, kw_only=True):
    """Node -> coordinator: I hold the rounds below `next_round`, and ask to take part."""

    next_round: int
    state_root: bytes
    steps_per_s: float = 0.0
    evaluates: bool = False
    """I can measure how good the model is, when asked with an Evaluate."""


class Beat(Message, frozen=True, kw_only=True):
    """Node -> coordinator, once a second. `steps` proves progress, not just life."""

    steps: int
    steps_per_s: float
    phase: NodePhase
    kept: bool = False
    """The run is finished, and its last round is on my disk."""
    up_bytes_per_s: float = 0.0
    """Measured during exchanges (averaging/rates.py); 0: unknown, fast enough not to matter."""
    down_bytes_per_s: float = 0.0


class Leave(Message, frozen=True, kw_only=True):
    """Node -> coordinator: I go; untrained leases are yours again."""

    reason: str


class StatusRequest(Message, frozen=True, kw_only=True):
    pass


class Status(Message, frozen=True, kw_only=True):
    """The run as JSON: a Frame (docs/api.md) with few entries (monitor/answers.py)."""

    json: str


# ---- a round -------------------------------------------------------------------------------


class Plan(Message, frozen=True, kw_only=True):
    """PLAN(r) for one peer."""

    term: int
    round: int
    fragment: int
    generation: int
    steps: int
    """Inner-step budget h_m(r); 0 is legal."""
    ranges: tuple[tuple[int, int], ...]
    """Positions to train; what was trained since the last READY is among them and is skipped."""
    progress_start: float
    progress_end: float
    """Share of the run's committed tokens, for the learning-rate schedule."""


class Ready(Message, frozen=True, kw_only=True):
    """READY(r): what was trained, and the commitment to the encoded contribution."""

    term: int
    round: int
    fragment: int
    generation: int
    trained: tuple[tuple[int, int], ...]
    """All positions that I trained and that are not credited yet: a prefix of my leases.
    Cumulative, so that saying it again after a coordinator's restart changes nothing."""
    base_round: int
    """The round in which this fragment last landed or was rebased here; -1 at genesis."""
    tokens: int
    """Tokens trained since that base."""
    commitment: bytes
    """Root over the hashes of the encoded chunks; empty: I abstain (see `note`)."""
    steps: int
    loss_sum: float
    """Mean loss of the finite steps, times `steps`; NaN: no step was finite."""
    compute_s: float
    wait_s: float
    note: str = ""
    reported: int = 0
    """Tokens of this stay as the trainer's program counted them: shown, never decided by."""


class Slice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Codec chunks [first, stop) of a fragment and the node that reduces them."""

    first: int
    stop: int
    owner: str


class Candidate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    node: str
    generation: int
    commitment: bytes


class Attempt(Message, frozen=True, kw_only=True):
    """ATTEMPT(r, k): who averages, who owns what, who gets the results."""

    term: int
    round: int
    attempt: int
    fragment: int
    candidates: tuple[Candidate, ...]
    slices: tuple[Slice, ...]
    members: tuple[Member, ...]
    """Everybody who needs the results, candidates and owners included."""
    deadline_s: float


class Partial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One contributor's share of one slice: sums over the decoded values."""

    node: str
    square: float
    """Sum of squares; not finite: the slice held non-finite values or scales."""
    dot: float
    """Dot product with the plain sum of all candidates' slices."""


class Statistics(Message, frozen=True, kw_only=True):
    """Owner -> coordinator: partial norms and dot products of one slice."""

    term: int
    round: int
    attempt: int
    slice: int
    partials: tuple[Partial, ...]


class Included(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    node: str
    weight: int
    """Tokens."""
    clip: int
    """fp32 bits of the clip factor."""


class Verdict(Message, frozen=True, kw_only=True):
    """VERDICT(r, k): contributors in accumulation order, weights, clip factors, divisor."""

    term: int
    round: int
    attempt: int
    included: tuple[Included, ...]
    divisor: int


class Result(Message, frozen=True, kw_only=True):
    """Owner -> coordinator: hash of one encoded slice result."""

    term: int
    round: int
    attempt: int
    slice: int
    hash: bytes


class Vote(Message, frozen=True, kw_only=True):
    """VOTE(r): sent after the result bytes are synced to the voter's round log."""

    term: int
    round: int
    attempt: int
    bytes_root: bytes
    fragment_hash: bytes
    signature: bytes


class Accuse(Message, frozen=True, kw_only=True):
    """Node -> coordinator: in this attempt these nodes did not deliver or cannot be reached."""

    term: int
    round: int
    attempt: int
    nodes: tuple[str, ...]
    kind: AccusationKind


class Moved(Message, frozen=True, kw_only=True):
    """Node -> coordinator, once per resolved round: bytes this node moved, and its state."""

    round: int
    bytes_up: int
    bytes_down: int
    state_root: bytes


class LinkFigures(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What the sender sent to one node in a round."""

    node: str
    bytes: int
    bytes_per_s: float = 0.0
    """While bytes were on their way; 0: not known."""
    rtt_s: float = 0.0
    """0: not known."""
    loss: float = -1.0
    """Retransmitted share of segments, in 0..1; -1: not known."""


class RoundMeasures(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Node -> coordinator, once per resolved round, beside `Moved`: for people, and dropped when
    the link is busy or down. 0: not measured."""

    round: int
    spans: tuple[tuple[int, float, float], ...] = ()
    """(index into events.PHASES, start, stop), in seconds before this was sent."""
    links: tuple[LinkFigures, ...] = ()
    """At most 16; of more, others in the next round."""
    lr: float = 0.0
    grad_norm: float = 0.0
    tokens_per_s: float = 0.0
    mfu: float = 0.0
    flops: float = 0.0
    data_wait_s: float = 0.0
    copy_s: float = 0.0
    memory_bytes: int = 0
    device: str = ""


class Evaluate(Message, frozen=True, kw_only=True):
    """Coordinator -> node: measure your newest snapshot, as the spec's `evaluation` says."""

    term: int
    serial: int
    """Repeated by the answer."""
    next_round: int
    """All rounds below were resolved when this was asked: the snapshot must hold them."""


class DrawnText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the model writes after a prompt."""

    prompt: str
    text: str


class Measured(Message, frozen=True, kw_only=True):
    """Node -> coordinator: the answer to an Evaluate."""

    term: int
    serial: int
    next_round: int
    """Of the snapshot: it holds all commits below."""
    nats_per_token: float
    bits_per_byte: float
    tokens: int
    """Held-out tokens behind the two figures."""
    samples: tuple[DrawnText, ...]
    took_s: float
    note: str = ""
    """Why there are no figures; empty: there are."""


class Extend(Message, frozen=True, kw_only=True):
    """The operator, with the run's own key -> coordinator: change these settings of the run.
    Answered by `Extended` or `Refuse`."""

    request: str
    """Random; repeated when no answer came."""
    wishes: tuple[str, ...]
    """`rounds=+100`, ... (swarm/amendments.py)"""


class Extended(Message, frozen=True, kw_only=True):
    """It is in the journal; or nothing had to be changed."""

    sentence: str


# ---- the data plane ------------------------------------------------------------------------


class DataHello(Message, frozen=True, kw_only=True):
    """First message on a data connection, both ways."""

    protocol: int
    run: str


class Fetch(Message, frozen=True, kw_only=True):
    """Give me `length` bytes from `offset` of the blob with this hash (length <= 4 MiB)."""

    hash: bytes
    offset: int
    length: int


class Catalogue(Message, frozen=True, kw_only=True):
    """What snapshot do you have? Answered by `CatalogueReply`."""


class CatalogueReply(Message, frozen=True, kw_only=True):
    """Newest snapshot manifest (empty hash: none), and the round from which the log goes on."""

    manifest: bytes
    manifest_bytes: int
    next_round: int


class Dispute(Message, frozen=True, kw_only=True):
    """Coordinator -> node, for Welcome: your journal's head is not in mine; show me its last
    record (a `Journal`)."""

    journal_length: int
    hash: bytes
    """My journal's head after as many records as both of us have."""


class FetchJournal(Message, frozen=True, kw_only=True):
    """Asks a node for its journal from record `first` on; answered by one `Journal`."""

    first: int


class InnerWanted(Message, frozen=True, kw_only=True):
    """What inner optimizer state do you have? Answered by `InnerOffer`."""


class InnerOffer(Message, frozen=True, kw_only=True):
    """Hash and length of the newest one's manifest; empty: none here. `coming`: ask again."""

    manifest: bytes
    manifest_bytes: int
    coming: bool = False


class Bulk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=True):
    """Base of the headers that precede raw bytes."""


class Contribution(Bulk, frozen=True, kw_only=True):
    """Contributor -> owner: encoded chunks [first, stop) of slice `slice`."""

    term: int
    round: int
    attempt: int
    slice: int
    first: int
    stop: int
    hashes: tuple[bytes, ...] = ()
    """In the frame with the slice's first chunk: the hashes of *all* chunks of the fragment."""


class SliceResult(Bulk, frozen=True, kw_only=True):
    """Owner -> everybody: encoded averaged chunks [first, stop) of slice `slice`."""

    term: int
    round: int
    attempt: int
    slice: int
    first: int
    stop: int


class Blob(Bulk, frozen=True, kw_only=True):
    """Answer to Fetch; an empty payload with `missing` says that it is not here."""

    hash: bytes
    offset: int
    missing: bool = False


Control = (
    Redeem
    | Redeemed
    | Hello
    | Welcome
    | Donors
    | Refuse
    | JournalFrames
    | Synced
    | Beat
    | Leave
    | StatusRequest
    | Status
    | Plan
    | Ready
    | Attempt
    | Statistics
    | Verdict
    | Result
    | Vote
    | Accuse
    | Moved
    | RoundMeasures
    | Evaluate
    | Measured
    | DataHello
    | Fetch
    | Catalogue
    | CatalogueReply
    | Dispute
    | FetchJournal
    | InnerWanted
    | InnerOffer
    | Extend
    | Extended
)
BulkHeader = Contribution | SliceResult | Blob
