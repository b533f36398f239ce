"""The run spec: what all peers share. It is hashed into GENESIS and never changes silently.

Plain msgspec structs (no pydantic, no torch): the agent must start in 0.6 s and 70 MB. Units are in
the names. A spec that breaks a rule cannot be built: every section checks itself, whether it is
written in Python, read from TOML or decoded from a journal, and raises ConfigError with one
sentence of value, rule and remedy.

A long file for a reason: it is the list of all settings, each with default, sentence and rules.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal
from urllib.parse import urlsplit

import msgspec
from blake3 import blake3

from farflung.errors import ConfigError
from farflung.ids import Hash

MAX_PROMPTS = 8
MAX_PROMPT_LENGTH = 1024
MAX_SAMPLE_TOKENS = 512

Rule = tuple[bool, str]
"""Whether it holds, and what to tell a person if it does not."""

PROTOCOL_VERSION = 3
"""Version of the messages between nodes, and of the order of samples that they lease."""

ARITHMETIC_VERSION = 1
"""Version of codecs + outer step: the same inputs give the same bits."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the spec. msgspec calls `__post_init__` for every way of building one."""

    _TITLE: ClassVar[str] = ""
    """How the section is called in TOML; empty for the spec itself."""

    def __post_init__(self) -> None:
        title = f"{self._TITLE}." if self._TITLE else ""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{title}{name}={value} must be a finite number")
        for holds, sentence in self._rules():
            if not holds:
                raise ConfigError(title + sentence)

    def _rules(self) -> list[Rule]:
        """What must hold, each with the sentence for a person without the section's name."""
        return []


class ShapeSpec(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[model.shape]`: a Llama or Qwen3 of any size; `farflung host --from` writes it."""

    _TITLE: ClassVar[str] = "model.shape"

    vocab: int
    """Rows of the embedding; at least the tokenizer's size."""
    dim: int
    """Width of the residual stream."""
    layers: int
    """Number of blocks."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads; they divide `heads`."""
    ff: int
    """Inner width of the SwiGLU."""
    max_len: int
    """Longest row that the model knows positions for; data.seq_len may be shorter."""
    head_size: int = 0
    """Width of a head; 0: dim / heads."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope: tuple[float, float, float, int] | msgspec.UnsetType = msgspec.UNSET
    """Llama 3.1's stretched frequencies: factor, low and high frequency factor, first row length.
    """
    norm_eps: float = 1e-5
    """Added to the mean square in every norm."""
    tied: bool = True
    """The output head is the embedding matrix."""
    qk_norm: bool = False
    """Queries and keys are normalised per head, as in Qwen3."""

    def _rules(self) -> list[Rule]:
        sizes = ("vocab", "dim", "layers", "heads", "kv_heads", "ff", "max_len")
        return [
            *(
                (getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
                for name in sizes
            ),
            (self.rope_theta > 0, f"rope_theta={self.rope_theta} must be above 0"),
            (self.norm_eps > 0, f"norm_eps={self.norm_eps} must be above 0"),
        ]


class ModelSpec(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[model]`: what is trained."""

    _TITLE: ClassVar[str] = "model"

    preset: str = "demo"
    """A name of model/presets.py, or `shape` with `[model.shape]`, or `custom` with `program`, or
    `quadratic` (NumPy, for tests)."""
    shape: ShapeSpec | msgspec.UnsetType = msgspec.UNSET
    """With `shape`: the sizes of the built-in model."""
    program: tuple[str, ...] = ()
    """With `custom`: the trainer's command line; it calls `farflung.attach`."""
    parameters: int = 4096
    """With `quadratic`: length of the flat vector."""
    step_s: float = 0.0
    """With `quadratic`: seconds that one inner step takes at least."""

    def _rules(self) -> list[Rule]:
        return [
            (self.step_s >= 0, f"step_s={self.step_s} must be 0 or above"),
            (self.parameters >= 1, f"parameters={self.parameters} must be at least 1"),
            (
                (self.preset == "custom") == bool(self.program),
                "program belongs to model.preset='custom', and that needs it; "
                "give the trainer's command line",
            ),
            (
                (self.preset == "shape") == (self.shape is not msgspec.UNSET),
                "shape belongs to model.preset='shape', and that needs it; give [model.shape]",
            ),
        ]


class SourceSpec(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[data.sources]]`: one part of a mixture."""

    _TITLE: ClassVar[str] = "data.sources"

    name: str
    """How the source is called in folders and reports: letters, digits, - and _."""
    source: str
    """As `data.source`: a folder, `https://` or `s3://` address, `shakespeare` or `synthetic`."""
    weight: float = 1.0
    """Its share of the samples, in proportion to the other weights."""
    rows: int = 100_000
    """With `synthetic`: rows of an epoch."""

    def _rules(self) -> list[Rule]:
        return [
            (_name_ok(self.name), f"name={self.name!r} may hold letters, digits, - and _"),
            (_encrypted(self.source), _plain_http(self.source)),
            (self.weight > 0, f"weight={self.weight} of {self.name!r} must be above 0"),
            (self.rows >= 1, f"rows={self.rows} of {self.name!r} must be at least 1"),
        ]


class DataSpec(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[data]`: what it is trained on, and in which order."""

    _TITLE: ClassVar[str] = "data"

    source: str = "shakespeare"
    """`shakespeare` (shipped), `synthetic` (row numbers only, for tests) or what `farflung data
    prepare` wrote: a folder of the host, or an `https://` or `s3://` address that peers read."""
    sources: tuple[SourceSpec, ...] = ()
    """Instead of `source`: a mixture of several, `[[data.sources]]` with name, source, weight."""
    tokenizer: str = "bpe-1024"
    """`bytes`, `bpe-1024` (shipped), or the path of a `tokenizer.json`."""
    seq_len: int = 128
    """Tokens of a row that the model sees (a stored row holds one more)."""
    rows: int = 100_000
    """With `synthetic`: rows of an epoch."""
    seed: int = 0
    """Key of the permutation of rows."""
    block_rows: int = 0
    """Rows that lie and are read together; 0: as many as hold 65,536 tokens."""
    window_blocks: int = 64
    """Blocks whose rows are shuffled among each other: more mix better, and a round's share of
    the samples then touches more blocks."""

    def _rules(self) -> list[Rule]:
        names = [s.name for s in self.sources]
        twice = next((n for n in names if names.count(n) > 1), "")
        synthetic = [s for s in self.sources if s.source == "synthetic"]
        return [
            (self.seq_len >= 2, f"seq_len={self.seq_len} must be at least 2"),
            (self.rows >= 1, f"rows={self.rows} must be at least 1"),
            (_encrypted(self.source), _plain_http(self.source)),
            (
                self.block_rows >= 0,
                f"block_rows={self.block_rows} must be 0 (by seq_len) or above",
            ),
            (
                self.window_blocks >= 1,
                f"window_blocks={self.window_blocks} must be at least 1; try 64",
            ),
            (
                not self.sources or self.source == "shakespeare",
                f"source={self.source!r} and [[data.sources]] exclude each other; make it one of "
                "the sources",
            ),
            (not twice, f"sources holds the name {twice!r} twice; give each source its own"),
            (
                len(synthetic) in (0, len(self.sources)),
                "sources mixes synthetic rows with real ones; use one kind",
            ),
        ]

    @property
    def parts(self) -> tuple[SourceSpec, ...]:
        """The sources; a spec without `sources` has one."""
        return self.sources or (SourceSpec(name="data", source=self.source, rows=self.rows),)

    @property
    def synthetic(self) -> bool:
        """Rows follow from their numbers: there are no shards."""
        return self.parts[0].source == "synthetic"

    @property
    def rows_per_block(self) -> int:
        return self.block_rows or rows_of_block(self.seq_len)


REMOTE = ("https://", "s3://", "http://")


def is_remote(source: str) -> bool:
    """Whether a source lies in a store that every peer reads by itself."""
    return source.startswith(REMOTE)


def _encrypted(source: str) -> bool:
    """Plain http serves tests on one machine only: whoever listens would see the text."""
    host = urlsplit(source).hostname if source.startswith("http://") else "localhost"
    return host in ("localhost", "127.0.0.1", "::1")


def _plain_http(source: str) -> str:
    return f"source={source!r} is not encrypted; use https://"


BLOCK_TOKENS = 65_536
"""128 or 256 KiB of token ids: a read of this length costs little more than a short one."""


def rows_of_block(seq_len: int) -> int:
    """Rows of a block, and of what a data folder hashes as one piece, unless told otherwise."""
    return max(1, BLOCK_TOKENS // seq_len)


class InnerSpec(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[inner]`: what each peer does by itself between two synchronisations."""

    _TITLE: ClassVar[str] = "inner"

    optimizer: Literal["muon", "adamw"] = "muon"
    """Muon for matrices with AdamW for the rest, or AdamW for everything. Not for custom programs:
    they bring their own."""
    lr: float = 4e-3
    """AdamW's peak learning rate (with Muon: for embeddings, head and norms)."""
    muon_lr: float = 0.02
    """Muon's peak learning rate, for the matrices of the blocks."""
    beta1: float = 0.9
    """AdamW's decay of the mean gradient per step."""
    beta2: float = 0.95
    """AdamW's decay of the mean squared gradient per step; higher for small batches."""
    muon_momentum: float = 0.95
    """Muon's decay of the mean gradient per step."""
    weight_decay: float = 0.1
    """Decoupled decay of the matrices, per step times the learning rate; 0 switches it off."""
    clip_norm: float = 1.0
    """Global gradient norm limit of one peer's step; 0 switches it off."""
    z_loss: float = 0.0
    """Weight of the mean squared log-sum-exp of the logits in the loss; try 1e-4 when logits grow
    without bound."""
    batch_rows: int = 8
    """Rows of one inner batch; batch_rows * seq_len tokens is a constant of the run."""
    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    """Of the learning rate over the run: warm-up, stable, linear decay; or warm-up and cosine; or
    warm-up and constant, for runs whose end is open."""
    warmup_steps: int = 30
    """In inner steps of one peer at full speed."""
    decay_fraction: float = 0.3
    """Part of the run in which WSD decays linearly to `final_lr_fraction`."""
    final_lr_fraction: float = 0.0
    """Learning rate at the run's end over its peak; above 0 when training will be continued."""
    join_warmup_steps: int = 20
    """Private learning-rate ramp of a peer with fresh inner state."""
    autocast: Literal["auto", "off"] = "auto"
    """bf16 products on a GPU (`auto`), or fp32 everywhere (`off`), for comparisons."""
    rewarm: tuple[float, float] | msgspec.UnsetType = msgspec.UNSET
    """Written by `farflung host --extend`: the share of the run that was done then, in the new
    length and in the old one. From there the rate rises again over `warmup_steps`."""

    def _rules(self) -> list[Rule]:
        return [
            (self.batch_rows >= 1, f"batch_rows={self.batch_rows} must be at least 1"),
            (self.lr > 0, f"lr={self.lr} must be above 0"),
            (self.muon_lr > 0, f"muon_lr={self.muon_lr} must be above 0"),
            (0 <= self.beta1 < 1, f"beta1={self.beta1} must be in [0, 1); try 0.9"),
            (0 <= self.beta2 < 1, f"beta2={self.beta2} must be in [0, 1); try 0.95"),
            (
                0 <= self.muon_momentum < 1,
                f"muon_momentum={self.muon_momentum} must be in [0, 1); try 0.95",
            ),
            (self.weight_decay >= 0, f"weight_decay={self.weight_decay} must be 0 (off) or above"),
            (self.clip_norm >= 0, f"clip_norm={self.clip_norm} must be 0 (off) or above"),
            (self.z_loss >= 0, f"z_loss={self.z_loss} must be 0 (off) or above"),
            (self.warmup_steps >= 0, f"warmup_steps={self.warmup_steps} must be 0 or above"),
            (
                0 <= self.decay_fraction <= 1,
                f"decay_fraction={self.decay_fraction} must be in [0, 1]",
            ),
            (
                0 <= self.final_lr_fraction <= 1,
                f"final_lr_fraction={self.final_lr_fraction} must be in [0, 1]",
            ),
            (
                self.join_warmup_steps >= 0,
                f"join_warmup_steps={self.join_warmup_steps} must be 0 (off) or above",
            ),
            (
                self.rewarm is msgspec.UNSET or all(0 <= share <= 1 for share in self.rewarm),
                f"rewarm={self.rewarm} must be two shares in [0, 1]; leave it to --extend",
            ),
        ]


class OuterSpec(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[outer]`: what peers do together (DiLoCo)."""

    _TITLE: ClassVar[str] = "outer"

    lr: float = 1.0
    """Factor on the averaged pseudo-gradient; below 1 damps, and suits larger momentum."""
    momentum: float = 0.3
    """Nesterov momentum of the outer step, per round; larger for more peers."""
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
    """How pseudo-gradients and averages travel: 4, 2, or about 1 byte per parameter."""
    merge: Literal["overwrite", "blend", "carry"] = "overwrite"
    """What a peer does with what it trained while its fragment was averaged (`window` above 1):
    drop it, mix it with the result, or add it to the result."""
    blend_alpha: float = 0.5
    """With `blend`: the share of the local parameters that is kept."""
    chunk_elements: int = 65_536
    """Codec chunk; slices align with it. A multiple of 256."""

    def _rules(self) -> list[Rule]:
        return [
            (self.inner_steps >= 1, f"inner_steps={self.inner_steps} must be at least 1"),
            (self.fragments >= 1, f"fragments={self.fragments} must be at least 1"),
            (
                1 <= self.window <= self.fragments,
                f"window={self.window} must be in 1..outer.fragments={self.fragments}: a fragment "
                f"may have one unresolved round",
            ),
            (self.rounds >= 1, f"rounds={self.rounds} must be at least 1"),
            (self.tokens >= 0, f"tokens={self.tokens} must be 0 (count rounds) or above"),
            (self.lr > 0, f"lr={self.lr} must be above 0; try 0.7"),
            (0 <= self.momentum < 1, f"momentum={self.momentum} must be in [0, 1); try 0.9"),
            (0 <= self.blend_alpha < 1, f"blend_alpha={self.blend_alpha} must be in [0, 1)"),
            (
                self.chunk_elements >= 256 and self.chunk_elements % 256 == 0,
                f"chunk_elements={self.chunk_elements} must be a multiple of 256; "
                f"try {max(1, round(self.chunk_elements / 256)) * 256}",
            ),
        ]


class SwarmSpec(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[swarm]`: who takes part, how long everybody waits, what is kept."""

    _TITLE: ClassVar[str] = "swarm"

    min_peers: int = 1
    """Below this many live trainers the run pauses."""
    start_peers: int = 1
    """The first round waits for this many trainers (the genesis cohort)."""
    quorum_fraction: float = 0.5
    """Share of the active trainers that must be READY before the grace window starts."""
    grace_s: float = 3.0
    """How long a round waits for the others after the quorum."""
    beat_s: float = 1.0
    """Seconds between two signs of life of a node; longer for hundreds of peers."""
    suspect_s: float = 3.0
    """Seconds of silence after which `status` calls a peer suspect. Between `beat_s` and `dead_s`.
    """
    dead_s: float = 6.0
    """Seconds without link or beat after which a stay ends; longer where links break often."""
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

    def _rules(self) -> list[Rule]:
        durations = ("grace_s", "beat_s", "progress_s", "attempt_s", "round_s", "restart_grace_s")
        return [
            (self.min_peers >= 1, f"min_peers={self.min_peers} must be at least 1"),
            (self.start_peers >= 1, f"start_peers={self.start_peers} must be at least 1"),
            (
                0 < self.quorum_fraction <= 1,
                f"quorum_fraction={self.quorum_fraction} must be in (0, 1]",
            ),
            (
                self.beat_s < self.suspect_s < self.dead_s,
                f"beat_s={self.beat_s} < suspect_s={self.suspect_s} < dead_s={self.dead_s} "
                "must hold",
            ),
            *(
                (getattr(self, name) >= 0, f"{name}={getattr(self, name)} must be 0 or above")
                for name in durations
            ),
            (self.norm_band > 0, f"norm_band={self.norm_band} must be above 0; try 10.0"),
            (self.snapshot_every >= 1, f"snapshot_every={self.snapshot_every} must be at least 1"),
            (self.keep_rounds >= 1, f"keep_rounds={self.keep_rounds} must be at least 1"),
        ]


class EvaluationSpec(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[evaluation]`: how good the model is, measured by one peer while the run goes on."""

    _TITLE: ClassVar[str] = "evaluation"

    every: int = 10
    """Committed rounds between two evaluations; 0 switches them off. A `custom` program's model is
    not evaluated."""
    rows: int = 64
    """Held-out rows of an evaluation, the same ones every time; 0: all of them."""
    prompts: tuple[str, ...] = ("",)
    """A text is drawn after each; the empty one begins a document."""
    sample_tokens: int = 64
    """Tokens of each drawn text; 0 draws none."""

    def _rules(self) -> list[Rule]:
        return [
            (self.every >= 0, f"every={self.every} must be 0 (off) or above"),
            (self.rows >= 0, f"rows={self.rows} must be 0 (all) or above"),
            (
                len(self.prompts) <= MAX_PROMPTS,
                f"prompts holds {len(self.prompts)} texts; give {MAX_PROMPTS} at most",
            ),
            (
                all(len(p) <= MAX_PROMPT_LENGTH for p in self.prompts),
                f"prompts holds a text above {MAX_PROMPT_LENGTH} characters; shorten it",
            ),
            (
                0 <= self.sample_tokens <= MAX_SAMPLE_TOKENS,
                f"sample_tokens={self.sample_tokens} must be in 0..{MAX_SAMPLE_TOKENS}",
            ),
        ]


class RunSpec(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it; the sections hold their own rules, rules between sections stand here."""

    name: str = "run"
    """How the run is called in commands and folders: 1 to 64 letters, digits, - and _."""
    seed: int = 0
    """Seeds the initial weights and, with data.seed, the order of samples."""
    record: Literal["none", "results", "all"] = "results"
    """What keepers keep of the whole run for `verify`: nothing beyond what joiners need, averaged
    results, or contributions too. `--max-disk` of the host bounds it."""
    model: ModelSpec = ModelSpec()
    """What is trained."""
    data: DataSpec = DataSpec()
    """What it is trained on."""
    inner: InnerSpec = InnerSpec()
    """What each peer does by itself."""
    outer: OuterSpec = OuterSpec()
    """What peers do together."""
    swarm: SwarmSpec = SwarmSpec()
    """Who takes part, and how long everybody waits."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """How good the model is, measured while the run goes on."""

    def _rules(self) -> list[Rule]:
        return [
            (
                _name_ok(self.name),
                f"name={self.name!r} may hold letters, digits, - and _ (1 to 64)",
            ),
        ]

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


def spec_from_bytes(data: bytes, where: str = "the run spec") -> RunSpec:
    """What `spec_bytes` wrote. Raises ConfigError, also for settings of another version.

    `where` begins the sentence.
    """
    try:
        return msgspec.json.decode(data, type=RunSpec)
    except ConfigError as error:
        raise ConfigError(f"{where} is not valid: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where} is of another version: {error}") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{where} is damaged: {error}") from None


def _name_ok(name: str) -> bool:
    return 1 <= len(name) <= 64 and all(c.isalnum() or c in "-_" for c in name) and name.isascii()
