"""The run spec: what all peers share. It is hashed into GENESIS and never changes silently.

Plain msgspec structs (no pydantic, no torch): the agent must start in 0.6 s and 70 MB.
Units are in the names; every cross-field rule is checked once, in `check`.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from blake3 import blake3

from farflung.errors import ConfigError
from farflung.ids import Hash

PROTOCOL_VERSION = 1
"""Version of the messages between nodes."""

ARITHMETIC_VERSION = 1
"""Version of codecs + outer step: the same inputs give the same bits."""


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    preset: str = "demo"
    """A name of model/presets.py, or `custom` with `program`, or `quadratic` (NumPy, for tests)."""
    program: tuple[str, ...] = ()
    """With `custom`: the trainer's command line; it calls `farflung.attach`."""
    parameters: int = 4096
    """With `quadratic`: length of the flat vector."""
    step_s: float = 0.0
    """With `quadratic`: seconds that one inner step takes at least."""


class DataSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    source: str = "shakespeare"
    """`shakespeare` (shipped), `synthetic` (row numbers only, for tests) or a folder that
    `farflung data prepare` wrote."""
    tokenizer: str = "bpe-1024"
    """`bytes`, `bpe-1024` (shipped), or the path of a `tokenizer.json`."""
    seq_len: int = 128
    """Tokens of a row that the model sees (a stored row holds one more)."""
    rows: int = 100_000
    """With `synthetic`: rows of an epoch."""
    seed: int = 0
    """Key of the permutation of rows."""


class InnerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    optimizer: Literal["muon", "adamw"] = "muon"
    lr: float = 4e-3
    """AdamW's peak learning rate (with Muon: for embeddings, head and norms)."""
    muon_lr: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.95
    muon_momentum: float = 0.95
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    """Global gradient norm limit of one peer's step; 0 switches it off."""
    z_loss: float = 0.0
    batch_rows: int = 8
    """Rows of one inner batch; batch_rows * seq_len tokens is a constant of the run."""
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    warmup_steps: int = 30
    """In inner steps of one peer at full speed."""
    decay_fraction: float = 0.3
    """Part of the run in which WSD decays linearly to `final_lr_fraction`."""
    final_lr_fraction: float = 0.0
    join_warmup_steps: int = 20
    """Private learning-rate ramp of a peer with fresh inner state."""
    autocast: Literal["auto", "off"] = "auto"


class OuterSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    lr: float = 1.0
    momentum: float = 0.3
    inner_steps: int = 20
    """H: inner steps between two synchronisations of the same fragment, at full speed."""
    fragments: int = 1
    """P. A round has H/P inner steps."""
    window: int = 1
    """Unresolved rounds at a time; 1 is blocking DiLoCo. At most `fragments`."""
    rounds: int = 50
    """The run finishes after this many committed rounds."""
    tokens: int = 0
    """With a value above 0: the run finishes, and schedules progress, by committed swarm tokens
    instead of committed rounds."""
    codec: Literal["fp32", "bf16", "int8", "int8-sigma"] = "int8"
    merge: Literal["overwrite", "blend", "carry"] = "overwrite"
    blend_alpha: float = 0.5
    """With `blend`: the share of the local parameters that is kept."""
    chunk_elements: int = 65_536
    """Codec chunk; slices align with it. A multiple of 256."""


class SwarmSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    min_peers: int = 1
    """Below this many live trainers the run pauses."""
    start_peers: int = 1
    """The first round waits for this many trainers (the genesis cohort)."""
    quorum_fraction: float = 0.5
    """Share of the active trainers that must be READY before the grace window starts."""
    grace_s: float = 3.0
    """How long a round waits for the others after the quorum."""
    beat_s: float = 1.0
    suspect_s: float = 3.0
    dead_s: float = 6.0
    progress_s: float = 10.0
    """Floor of the time without a step after which a live peer counts as hung."""
    attempt_s: float = 10.0
    """Floor of the deadline of one attempt; grows with bytes over measured bandwidth."""
    round_s: float = 60.0
    """Floor of the deadline of a round, from its PLAN."""
    restart_grace_s: float = 15.0
    """After a coordinator's restart members keep their leases this long."""
    norm_band: float = 10.0
    """A contribution above this many times the last round's median norm/sqrt(token) is rejected."""
    snapshot_every: int = 10
    """Rounds between snapshots of the keeper and of peers."""
    keep_rounds: int = 64
    """Rounds of the round log that every peer keeps."""


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str = "run"
    seed: int = 0
    """Seeds the initial weights and, with data.seed, the order of samples."""
    record: Literal["none", "results", "all"] = "results"
    """What keepers keep of the whole run for `verify`: nothing beyond what joiners need, averaged
    results, or contributions too. `--max-disk` of the host bounds it."""
    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    inner: InnerSpec = InnerSpec()
    outer: OuterSpec = OuterSpec()
    swarm: SwarmSpec = SwarmSpec()

    @property
    def inner_batch_tokens(self) -> int:
        return self.inner.batch_rows * self.data.seq_len

    @property
    def steps_per_round(self) -> float:
        """H/P, possibly fractional."""
        return self.outer.inner_steps / self.outer.fragments


def spec_bytes(spec: RunSpec) -> bytes:
    """Canonical JSON: sorted keys, so that equal specs have equal bytes."""
    return msgspec.json.encode(spec, order="sorted")


def spec_hash(spec: RunSpec) -> Hash:
    return Hash(blake3(spec_bytes(spec)).digest())


def check(spec: RunSpec) -> RunSpec:
    """The spec itself, or ConfigError with value, rule and remedy."""
    o, i, d, s = spec.outer, spec.inner, spec.data, spec.swarm
    rules: list[tuple[bool, str]] = [
        (_name_ok(spec.name), f"name={spec.name!r} may hold letters, digits, - and _ (1 to 64)"),
        (spec.model.step_s >= 0, f"model.step_s={spec.model.step_s} must be 0 or above"),
        (o.inner_steps >= 1, f"outer.inner_steps={o.inner_steps} must be at least 1"),
        (o.fragments >= 1, f"outer.fragments={o.fragments} must be at least 1"),
        (
            1 <= o.window <= o.fragments,
            f"outer.window={o.window} must be in 1..outer.fragments={o.fragments}: a fragment "
            f"may have one unresolved round",
        ),
        (o.rounds >= 1, f"outer.rounds={o.rounds} must be at least 1"),
        (o.tokens >= 0, f"outer.tokens={o.tokens} must be 0 (count rounds) or above"),
        (o.lr > 0, f"outer.lr={o.lr} must be above 0; try 0.7"),
        (0 <= o.momentum < 1, f"outer.momentum={o.momentum} must be in [0, 1); try 0.9"),
        (0 <= o.blend_alpha < 1, f"outer.blend_alpha={o.blend_alpha} must be in [0, 1)"),
        (
            o.chunk_elements >= 256 and o.chunk_elements % 256 == 0,
            f"outer.chunk_elements={o.chunk_elements} must be a multiple of 256; "
            f"try {max(1, round(o.chunk_elements / 256)) * 256}",
        ),
        (i.batch_rows >= 1, f"inner.batch_rows={i.batch_rows} must be at least 1"),
        (i.lr > 0, f"inner.lr={i.lr} must be above 0"),
        (i.muon_lr > 0, f"inner.muon_lr={i.muon_lr} must be above 0"),
        (i.clip_norm >= 0, f"inner.clip_norm={i.clip_norm} must be 0 (off) or above"),
        (
            0 <= i.decay_fraction <= 1,
            f"inner.decay_fraction={i.decay_fraction} must be in [0, 1]",
        ),
        (d.seq_len >= 2, f"data.seq_len={d.seq_len} must be at least 2"),
        (d.rows >= 1, f"data.rows={d.rows} must be at least 1"),
        (s.min_peers >= 1, f"swarm.min_peers={s.min_peers} must be at least 1"),
        (s.start_peers >= 1, f"swarm.start_peers={s.start_peers} must be at least 1"),
        (
            0 < s.quorum_fraction <= 1,
            f"swarm.quorum_fraction={s.quorum_fraction} must be in (0, 1]",
        ),
        (
            s.beat_s < s.suspect_s < s.dead_s,
            f"swarm.beat_s={s.beat_s} < suspect_s={s.suspect_s} < dead_s={s.dead_s} must hold",
        ),
        (
            (spec.model.preset == "custom") == bool(spec.model.program),
            "model.program belongs to model.preset='custom', and that needs it; "
            "give the trainer's command line",
        ),
    ]
    for holds, sentence in rules:
        if not holds:
            raise ConfigError(sentence)
    return spec


def _name_ok(name: str) -> bool:
    return 1 <= len(name) <= 64 and all(c.isalnum() or c in "-_" for c in name) and name.isascii()
