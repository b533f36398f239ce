"""A made-up run of any size, the same for the same seed: for tests of the window, and to look at.

    python tests/window/synthetic.py --peers 1000 --rounds 200 out/
    python tests/window/synthetic.py --peers 8 --rounds 100000 out/ --frame frame.json
    python tests/window/synthetic.py --peers 24 --rounds 300 --frame frame.json --replay site/

The folder is laid out like a host's (`out/host.json`, `journal.bin` with signed records,
`events.jsonl`). What happens in it: devices of several speeds, stragglers, deaths, joins, returns,
abandoned rounds, a pause, a restart of the coordinator, evaluations with texts, drift of one peer,
hostile names.

Above 64 peers only some of a round's figures are told: all peers contribute, READY and the state
come from all, spans from all in the newest 64 rounds and from 32 before. `--contributors K` lets K
of the peers take turns, which keeps the journal of a thousand peers over 100,000 rounds small.
Above 20,000 rounds one peer in turn tells of itself, and all do in the newest 512 rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from farflung.config.run import (
    DataSpec,
    EvaluationSpec,
    InnerSpec,
    ModelSpec,
    OuterSpec,
    RunSpec,
    SwarmSpec,
    spec_bytes,
)
from farflung.disk import MemoryDisk
from farflung.events import (
    AttemptFailed,
    AttemptStarted,
    ContributionRejected,
    EdgeFailed,
    Event,
    GenerationClosed,
    GenerationOpened,
    LinkMeasured,
    ModelEvaluated,
    Paused,
    PeerDescribed,
    PeerJoined,
    PeerMeasured,
    PeerReady,
    PeerSuspect,
    Resumed,
    RoundAbandoned,
    RoundCommitted,
    RoundOpened,
    RunFinished,
    RunStarted,
    StateReported,
    Warned,
)
from farflung.ids import Role
from farflung.model.hf_names import layout_entries
from farflung.model.presets import config_of_spec, flops_per_token
from farflung.monitor.view import View
from farflung.outer.layout import Layout
from farflung.swarm.identity import RECORD, Identity, verify_record
from farflung.swarm.journal import Journal
from farflung.swarm.records import (
    JOURNAL_VERSION,
    Abandon,
    Admin,
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
    Rejected,
    SliceHash,
    Term,
)
from farflung.swarm.resolve import fp32_bits
from farflung.window.export import Report, write_report

Told = AnyRecord | tuple[float, Event]
"""A journal record, or an event with its wall time."""

START = 1_790_000_000.0
TELLING_ALL = 64
"""Peers up to which everything is told of everybody."""
LONG = 20_000
"""Rounds from which on most peers are silent in the event log."""
NEWEST_WHOLE = 512
LINKS_A_ROUND = 96
TRAIN_S = 34.0
"""Of a round's inner steps."""
MAX_OWNERS = 16

REGIONS = (
    *("SFO", "SEA", "LAX", "DEN", "ORD", "DFW", "ATL", "JFK", "BOS", "YYZ", "YUL", "MEX", "BOG"),
    *("GRU", "EZE", "SCL", "LHR", "DUB", "CDG", "AMS", "FRA", "MUC", "ZRH", "VIE", "PRG", "WAW"),
    *("CPH", "ARN", "HEL", "OSL", "MAD", "LIS", "FCO", "ATH", "IST", "TLV", "DXB", "DEL", "BOM"),
    *("BLR", "SIN", "KUL", "BKK", "HKG", "TPE", "ICN", "NRT", "KIX", "SYD", "MEL", "AKL", "JNB"),
    *("CPT", "NBO", "LOS", "CAI", "ACC", "KEF"),
)
DEVICES = (  # name, tokens/s with a model of 150 M parameters, share of the peak, memory
    ("NVIDIA H200", 480_000.0, 0.47, 118 << 30),
    ("NVIDIA H100 80GB HBM3", 430_000.0, 0.44, 71 << 30),
    ("NVIDIA A100-SXM4-80GB", 190_000.0, 0.52, 66 << 30),
    ("NVIDIA L40S", 120_000.0, 0.38, 41 << 30),
    ("NVIDIA GeForce RTX 4090", 95_000.0, 0.45, 21 << 30),
    ("NVIDIA GeForce RTX 3090", 48_000.0, 0.51, 20 << 30),
    ("AMD EPYC 9654, 32 threads", 3_200.0, 0.0, 0),
)
CHANCES = (6, 18, 16, 8, 30, 18, 4)
FIRST = (
    *("amber", "brisk", "calm", "dusky", "early", "fern", "golden", "hazel", "icy", "jade"),
    *("keen", "lunar", "mellow", "north", "opal", "polar", "quiet", "rapid", "solar", "tidal"),
)
SECOND = (
    *("otter", "heron", "lynx", "raven", "ibex", "finch", "marten", "osprey", "badger", "crane"),
    *("falcon", "gecko", "hare", "jackal", "kestrel", "lemur", "magpie", "newt", "oriole", "puma"),
)
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "\u202eevil\u202c right to left",
    "bell\x07 and \x1b[31mred\x1b[0m",
    "line\nbreak\ttab\u2028separator",
    "x" * 10_000,
    "</script><script>farflung=0//",
    "\u202e\u200f\u2066zero\u200bwidth",
    "名前 🦦 émile",
    "' OR 1=1; --",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    peers: int = 8
    rounds: int = 100
    seed: int = 0
    contributors: int = 0
    """Peers of a round that take turns; 0: all."""
    finished: bool = False
    hostile: bool = True
    """Hostile names and texts, and a peer that drifts."""
    start: float = START
    measures: bool = True
    """False: an event log from before peers told their measures."""


@dataclass
class Peer:
    """One node and what is to come of it."""

    node: str
    name: str
    region: str
    device: str
    speed: float
    mfu: float
    memory: int
    key: bytes
    born: int
    """First round that it takes part in."""
    dies: int = -1
    returns: int = -1
    generation: int = 0
    here: bool = False
    announced: bool = False


class Story:
    """Tells a run from its first record to the newest event."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._rng = random.Random(options.seed)
        self.key = Identity.from_seed(blake3(f"synthetic {options.seed}".encode()).digest())
        self.run = blake3(self.key.public_key).hexdigest()[:16]
        self.spec = self._make_spec()
        self._config = config_of_spec(self.spec.model, vocab=32_768, seq_len=1024)
        self.layout = Layout.from_entries(layout_entries(self._config))
        self.peers = self._make_peers()
        self.keeper = self._node("keeper", 10**6)
        self.wall = options.start
        self._position = 0
        self._tokens = 0
        self._committed = 0
        self._term = 1
        self._evaluations = 0
        self._last_base = [-1] * self.spec.outer.fragments

    # ---- who and what --------------------------------------------------------------------------

    def _make_spec(self) -> RunSpec:
        rounds = self.options.rounds if self.options.finished else self.options.rounds * 5 // 4 + 1
        return RunSpec(
            name="meridian-150m",
            seed=self.options.seed,
            model=ModelSpec(preset="150m"),
            data=DataSpec(source="synthetic", rows=400_000_000, seq_len=1024),
            inner=InnerSpec(batch_rows=256),
            outer=OuterSpec(inner_steps=200, fragments=4, rounds=rounds, codec="int8"),
            swarm=SwarmSpec(min_peers=2),
            evaluation=EvaluationSpec(prompts=("The sea", "In the year 2100")),
        )

    def _node(self, what: str, number: int) -> tuple[str, bytes]:
        key = blake3(f"{self.options.seed} {what} {number}".encode()).digest()
        return blake3(key).digest()[:20].hex(), key

    def _make_peers(self) -> list[Peer]:
        return [self._make_peer(number) for number in range(self.options.peers)]

    def _make_peer(self, number: int) -> Peer:
        rng, rounds = self._rng, self.options.rounds
        node, key = self._node("peer", number)
        name = f"{rng.choice(FIRST)}-{rng.choice(SECOND)}-{number}"
        if self.options.hostile and number >= 2 and (number - 2) % 37 < len(HOSTILE) // 2:
            name = HOSTILE[(number - 2) % len(HOSTILE)]
        device, speed, mfu, memory = rng.choices(DEVICES, CHANCES)[0]
        founder = number < 2 or rng.random() < 0.4
        born = 0 if founder else rng.randrange(0, max(1, rounds * 9 // 10))
        peer = Peer(
            node=node,
            name=name,
            region="" if rng.random() < 0.1 else rng.choice(REGIONS),
            device=device,
            speed=speed * rng.uniform(0.85, 1.1),
            mfu=mfu * rng.uniform(0.9, 1.05),
            memory=memory,
            key=key,
            born=born,
        )
        if number > 1 and rng.random() < 0.35 and born + 2 < rounds:
            peer.dies = rng.randrange(born + 1, rounds)
            if rng.random() < 0.5 and peer.dies + 3 < rounds:
                peer.returns = rng.randrange(peer.dies + 2, rounds)
        return peer

    # ---- the story -----------------------------------------------------------------------------

    def tell(self) -> Iterator[Told]:
        yield from self._beginning()
        for number in range(self.options.rounds):
            yield from self._comings(number)
            yield from self._incidents(number)
            yield from self._round(number)
            if (number + 1) % self._every() == 0:
                yield from self._evaluation(number + 1)
        yield from self._ending()

    def _every(self) -> int:
        return max(10, self.options.rounds // 200)

    def _beginning(self) -> Iterator[Told]:
        yield self._genesis()
        yield Term(term=1, incarnation="a")
        node, key = self.keeper
        yield Join(
            node=node, name="keeper", region="", role=Role.KEEPER, public_key=key, invite=b""
        )
        yield Gen(node=node, generation=1)
        yield self._now(self._started())
        yield self._now(PeerJoined(node=node, name="keeper", role="keeper"))
        yield self._now(GenerationOpened(node=node, name="keeper", generation=1, next_round=0))
        yield self._now(Paused(reason="waiting: 0 of at least 2 peers"))
        self.wall += 30.0

    def _started(self) -> Event:
        return RunStarted(
            run=self.run,
            name=self.spec.name,
            parameters=self.layout.size,
            term=self._term,
            rounds=self.spec.outer.rounds,
        )

    def _genesis(self) -> Genesis:
        return Genesis(
            version=JOURNAL_VERSION,
            run=self.run,
            run_key=self.key.public_key,
            protocol=3,
            arithmetic=1,
            spec=spec_bytes(self.spec),
            layout=self.layout.to_json(),
            layout_hash=self.layout.hash,
            fragment_hashes=tuple(bytes([f]) * 32 for f in range(self.spec.outer.fragments)),
            snapshot=bytes(32),
            snapshot_bytes=1,
            data=(DataPart(name="data", rows=400_000_000, manifest=b"", manifest_bytes=0),),
            tokenizer=b"",
            tokenizer_bytes=0,
        )

    def _now(self, event: Event) -> tuple[float, Event]:
        return round(self.wall, 3), event

    def _comings(self, number: int) -> Iterator[Told]:
        for peer in self.peers:
            if number in (peer.born, peer.returns) and not peer.here:
                yield from self._arrive(peer, number)
            elif number == peer.dies and peer.here:
                yield from self._leave(peer)

    def _arrive(self, peer: Peer, number: int) -> Iterator[Told]:
        if not peer.announced:
            peer.announced = True
            yield Join(
                node=peer.node,
                name=peer.name,
                region=peer.region,
                role=Role.TRAINER,
                public_key=peer.key,
                invite=peer.key[:16],
            )
            yield self._now(PeerJoined(node=peer.node, name=peer.name, role="trainer"))
        if self.options.measures:
            yield self._now(
                PeerDescribed(
                    node=peer.node,
                    name=peer.name,
                    region=peer.region,
                    device=peer.device,
                    software="farflung 0.1.0",
                )
            )
        self.wall += 0.01
        peer.generation += 1
        peer.here = True
        yield Gen(node=peer.node, generation=peer.generation)
        yield self._now(
            GenerationOpened(
                node=peer.node, name=peer.name, generation=peer.generation, next_round=number
            )
        )

    def _leave(self, peer: Peer) -> Iterator[Told]:
        polite = self._rng.random() < 0.3
        reason = "left: stopped by its user" if polite else "no connection for 6 s"
        if not polite:
            yield self._now(PeerSuspect(node=peer.node, name=peer.name, reason="silent for 3 s"))
            self.wall += 3.0
        peer.here = False
        yield Close(node=peer.node, generation=peer.generation, reason=reason, freed=())
        yield self._now(
            GenerationClosed(
                node=peer.node,
                name=peer.name,
                generation=peer.generation,
                reason=reason,
                returned=0 if polite else 160,
            )
        )

    def _incidents(self, number: int) -> Iterator[Told]:
        rounds = self.options.rounds
        if number == 0:
            yield self._now(Resumed(reason=f"{len(self._active())} trainers"))
        if number == rounds // 2 and rounds >= 20:
            yield self._now(Paused(reason="paused: 1 of min 2 peers"))
            self.wall += 300.0
            yield self._now(Resumed(reason=f"{len(self._active())} trainers"))
        if number == rounds * 2 // 3 and rounds >= 20:
            self.wall += 90.0
            self._term = 2
            yield Term(term=2, incarnation="b")
            yield self._now(self._started())
        if number % 97 == 96:
            yield self._now(Warned(sentence="the keeper's disk is 80 % full"))

    def _active(self) -> list[Peer]:
        return [p for p in self.peers if p.here]

    # ---- one round -----------------------------------------------------------------------------

    def _round(self, number: int) -> Iterator[Told]:
        rng = self._rng
        active = self._active()
        if self.options.contributors and len(active) > self.options.contributors:
            at = number * self.options.contributors % len(active)
            active = (active + active)[at : at + self.options.contributors]
        fragment = number % self.spec.outer.fragments
        opened = self.wall
        grants = []
        rows_of: dict[str, tuple[int, int]] = {}
        for peer in active:
            rows = self._steps(peer) * self.spec.inner.batch_rows
            rows_of[peer.node] = (self._position, self._position + rows)
            grants.append(
                Grant(node=peer.node, generation=peer.generation, ranges=(rows_of[peer.node],))
            )
            self._position += rows
        yield Lease(round=number, term=self._term, fragment=fragment, grants=tuple(grants))
        rows = sum(b - a for a, b in rows_of.values())
        yield self._now(RoundOpened(round=number, fragment=fragment, peers=len(active), rows=rows))
        late = {p.node for p in active if rng.random() < 0.02} if len(active) > 3 else set()
        train = {p.node: TRAIN_S * rng.uniform(0.96, 1.04) for p in active}
        for node in late:
            train[node] *= rng.uniform(1.3, 1.7)
        ready = sorted(active, key=lambda p: train[p.node])
        for peer in ready:
            self.wall = opened + train[peer.node]
            if self._tells(peer, number, ready):
                yield self._now(self._ready(number, peer, train[peer.node]))
        abandoned = number > 3 and rng.random() < 0.006
        if abandoned:
            reason = "deadline of the round: 1 of 2 holders voted"
            self.wall += 60.0
            yield Abandon(term=self._term, round=number, fragment=fragment, reason=reason)
            yield self._now(RoundAbandoned(round=number, fragment=fragment, reason=reason))
            return
        yield from self._averaged(number, fragment, opened, ready, train, rows_of)

    def _steps(self, peer: Peer) -> int:
        """So that all finish together."""
        return max(1, round(TRAIN_S * peer.speed / (256 * 1024) * self._rng.uniform(0.97, 1.03)))

    def _loss(self, noise: float = 0.012) -> float:
        base = 1.86 + 6.1 * (1 + self._tokens / 4e8) ** -0.42
        return base * self._rng.gauss(1.0, noise)

    def _lr(self, number: int) -> float:
        whole = self.spec.outer.rounds
        warm, decay = max(1, whole // 50), whole * 7 // 10
        if number < warm:
            return (number + 1) / warm
        return 1.0 if number < decay else max(0.0, (whole - number) / (whole - decay))

    def _tells(self, peer: Peer, number: int, ready: list[Peer]) -> bool:
        if self._is_told_wholly(number):
            return True
        return peer is ready[number % len(ready)]

    def _is_told_wholly(self, number: int) -> bool:
        rounds = self.options.rounds
        return rounds <= LONG or number >= rounds - NEWEST_WHOLE

    def _measured(self, number: int, index: int, count: int) -> bool:
        if not self.options.measures:
            return False
        newest = number >= self.options.rounds - 64
        return count <= TELLING_ALL or newest or (index + number) % count < 32

    def _ready(self, number: int, peer: Peer, took_s: float) -> Event:
        steps = self._steps(peer)
        wait = self._rng.uniform(0.4, 2.5)
        return PeerReady(
            round=number,
            node=peer.node,
            name=peer.name,
            steps=steps,
            tokens=steps * 256 * 1024,
            loss_sum=steps * self._loss(0.03),
            compute_s=round(took_s - wait, 3),
            wait_s=round(wait, 3),
            note="",
        )

    def _averaged(
        self,
        number: int,
        fragment: int,
        opened: float,
        ready: list[Peer],
        train: dict[str, float],
        rows_of: dict[str, tuple[int, int]],
    ) -> Iterator[Told]:
        rng = self._rng
        cut = sorted(train.values())[max(0, int(len(train) * 0.98) - 1)] + 3.0
        given = [p for p in ready if train[p.node] <= cut] or ready
        rejected = [given[-1]] if len(given) > 4 and rng.random() < 0.01 else []
        given = [p for p in given if p not in rejected]
        started = opened + min(cut, max(train.values()))
        self.wall = started
        owners = sorted(given, key=lambda p: -p.speed)[:MAX_OWNERS]
        weights = [math.sqrt(p.speed) for p in owners]
        shares = tuple(
            (p.node, round(w / sum(weights), 4)) for p, w in zip(owners, weights, strict=True)
        )
        attempt = 1
        if len(given) > 3 and rng.random() < 0.02:
            yield from self._failed_attempt(number, given)
            attempt, started = 2, self.wall
        yield self._now(
            AttemptStarted(
                round=number,
                attempt=attempt,
                candidates=len(given),
                owners=len(owners),
                reason="all ready" if attempt == 1 else "a link failed",
                shares=shares if self.options.measures else (),
            )
        )
        for peer in rejected:
            reason = "norm 14.2 times the median of the last round"
            yield self._now(
                ContributionRejected(round=number, node=peer.node, name=peer.name, reason=reason)
            )
        exchange = rng.uniform(4.0, 7.5)
        self.wall = started + exchange
        yield from self._commit(number, fragment, attempt, opened, given, rejected, owners, rows_of)
        yield from self._reports(number, ready, given, owners, opened, train, started, exchange)

    def _failed_attempt(self, number: int, given: list[Peer]) -> Iterator[Told]:
        source, target = self._rng.sample(given, 2)
        yield self._now(
            EdgeFailed(
                round=number,
                attempt=1,
                source=source.name,
                target=target.name,
                fault="silent",
                source_node=source.node,
                target_node=target.node,
            )
        )
        self.wall += 5.0
        reason = f"nothing came from {source.name} for 5 s"
        yield self._now(AttemptFailed(round=number, attempt=1, reason=reason))

    def _commit(
        self,
        number: int,
        fragment: int,
        attempt: int,
        opened: float,
        given: list[Peer],
        rejected: list[Peer],
        owners: list[Peer],
        rows_of: dict[str, tuple[int, int]],
    ) -> Iterator[Told]:
        root = blake3(f"{self.options.seed} state {number}".encode()).digest()
        tokens = sum(rows_of[p.node][1] - rows_of[p.node][0] for p in given) * 1024
        contributors = tuple(
            Contributor(
                node=p.node,
                generation=p.generation,
                credited=(rows_of[p.node],),
                tokens=(rows_of[p.node][1] - rows_of[p.node][0]) * 1024,
                commitment=root,
                clip=fp32_bits(1.0),
                base_round=self._last_base[fragment],
            )
            for p in given
        )
        length = self.layout.size // self.spec.outer.fragments
        piece = length // len(owners)
        yield Commit(
            term=self._term,
            round=number,
            attempt=attempt,
            fragment=fragment,
            base_hash=bytes(32),
            base_round=self._last_base[fragment],
            codec="int8",
            contributors=contributors,
            rejected=tuple(
                Rejected(node=p.node, generation=p.generation, reason="norm 14.2 times the median")
                for p in rejected
            ),
            divisor=len(given),
            slices=tuple(
                SliceHash(first=i * piece, stop=(i + 1) * piece, owner=p.node, hash=root)
                for i, p in enumerate(owners)
            ),
            bytes_root=root,
            outer_lr=fp32_bits(1.0),
            outer_momentum=fp32_bits(0.3),
            fragment_hash=root,
            state_root=root,
            holders=tuple(p.node for p in owners[:3]),
            votes=(),
        )
        self._last_base[fragment] = number
        self._tokens += tokens
        self._committed += 1
        yield self._now(
            RoundCommitted(
                round=number,
                fragment=fragment,
                attempt=attempt,
                contributors=len(given),
                tokens=tokens,
                total_tokens=self._tokens,
                loss=self._loss(),
                took_s=round(self.wall - opened, 3),
                holders=3,
                replicated=True,
                state_root=root.hex(),
            )
        )

    def _reports(
        self,
        number: int,
        ready: list[Peer],
        given: list[Peer],
        owners: list[Peer],
        opened: float,
        train: dict[str, float],
        started: float,
        exchange: float,
    ) -> Iterator[Told]:
        rng = self._rng
        sent = self.layout.size // self.spec.outer.fragments
        root = blake3(f"{self.options.seed} state {number}".encode()).hexdigest()
        told = self.options.hostile and self.options.rounds >= 20
        drifts = told and number == self.options.rounds * 4 // 5
        for index, peer in enumerate(ready):
            if not self._tells(peer, number, ready):
                continue
            owner = peer in owners
            wrong = drifts and index == len(ready) - 1
            yield self._now(
                StateReported(
                    round=number,
                    node=peer.node,
                    name=peer.name,
                    state_root=bytes(32).hex() if wrong else root,
                    agrees=not wrong,
                    bytes_up=round(sent * rng.uniform(0.98, 1.05) * (1.8 if owner else 1.0)),
                    bytes_down=round(sent * rng.uniform(0.98, 1.05) * (1.9 if owner else 1.0)),
                )
            )
            if self._measured(number, index, len(ready)):
                spans = self._spans(opened, train[peer.node], started, exchange, owner)
                yield self._now(self._measures(number, peer, spans))
        if self.options.measures and (number % 50 == 0 or self._is_told_wholly(number)):
            yield from self._links(number, given, owners)
        self.wall += 0.4

    def _spans(
        self, opened: float, trained: float, started: float, exchange: float, owner: bool
    ) -> tuple[float, ...]:
        rng = self._rng
        waited = rng.uniform(0.1, 0.6)
        at = opened + trained
        encode = rng.uniform(0.2, 0.5)
        spans = [(1, opened, opened + waited), (0, opened + waited, at), (2, at, at + encode)]
        begin = max(started, at + encode)
        if begin > at + encode:
            spans.append((1, at + encode, begin))
        left = max(0.5, started + exchange - begin)
        sent = begin + left * rng.uniform(0.35, 0.5)
        spans.append((3, begin, sent))
        received = begin + left * rng.uniform(0.7, 0.8)
        if owner:
            spans += [(5, begin + 0.1, sent), (4, sent, sent + 0.3), (3, sent + 0.3, received)]
        spans += [(5, sent, received), (6, received, begin + left)]
        spans.append((7, begin + left, begin + left + rng.uniform(0.05, 0.2)))
        return tuple(float(round(v, 3)) if i else float(v) for s in spans for i, v in enumerate(s))

    def _measures(self, number: int, peer: Peer, spans: tuple[float, ...]) -> Event:
        rng = self._rng
        return PeerMeasured(
            round=number,
            node=peer.node,
            name=peer.name,
            spans=spans,
            lr=round(self._lr(number), 6),
            grad_norm=round(0.35 + 1.2 * (1 + number / 20) ** -0.6 * rng.lognormvariate(0, 0.2), 4),
            tokens_per_s=round(peer.speed * rng.uniform(0.96, 1.02), 1),
            mfu=round(peer.mfu * rng.uniform(0.97, 1.02), 4),
            data_wait_s=0.02,
            copy_s=0.05,
            memory_bytes=peer.memory,
            device=peer.device,
            flops=flops_per_token(self._config),
        )

    def _links(self, number: int, given: list[Peer], owners: list[Peer]) -> Iterator[Told]:
        rng = self._rng
        pairs = [(a, b) for a in given for b in owners if a is not b]
        if len(pairs) > LINKS_A_ROUND:
            pairs = rng.sample(pairs, LINKS_A_ROUND)
        for source, target in pairs:
            near = source.region[:1] == target.region[:1]
            lossy = rng.random() < 0.05
            yield self._now(
                LinkMeasured(
                    round=number,
                    source=source.node,
                    target=target.node,
                    bytes=rng.randrange(1_000_000, 4_000_000),
                    bytes_per_s=round(rng.lognormvariate(16.5 if near else 15.2, 0.6)),
                    rtt_s=round(rng.uniform(0.008, 0.04) if near else rng.uniform(0.06, 0.29), 4),
                    loss=round(rng.uniform(0.01, 0.08) if lossy else rng.uniform(0, 0.002), 5),
                )
            )

    # ---- between rounds ------------------------------------------------------------------------

    def _evaluation(self, next_round: int) -> Iterator[Told]:
        active = self._active()
        if not active:
            return
        peer = active[next_round % len(active)]
        nats = self._loss(0.004)
        texts = tuple(self._text(prompt) for prompt in self.spec.evaluation.prompts)
        prompts = self.spec.evaluation.prompts
        serial, self._evaluations = self._evaluations, self._evaluations + 1
        yield Evaluation(
            serial=serial,
            node=peer.node,
            committed=self._committed,
            next_round=next_round,
            nats_per_token=fp32_bits(nats),
            bits_per_byte=fp32_bits(nats * 0.34),
            tokens=65_536,
            samples=tuple(Drawn(prompt=p, text=t) for p, t in zip(prompts, texts, strict=True)),
        )
        yield self._now(
            ModelEvaluated(
                serial=serial,
                node=peer.node,
                name=peer.name,
                next_round=next_round,
                nats_per_token=nats,
                bits_per_byte=nats * 0.34,
                tokens=65_536,
                prompts=prompts,
                texts=texts,
                took_s=6.5,
            )
        )

    def _text(self, prompt: str) -> str:
        words = " ".join(self._rng.choice((*FIRST, *SECOND)) for _ in range(24))
        hostile = " </script><b>bold</b> \u202e" if self.options.hostile else ""
        return f"{words}, said {prompt}.\n{hostile}"

    def _ending(self) -> Iterator[Told]:
        number, rounds = self.options.rounds, self._committed
        if self.options.finished:
            yield Admin(action="finish", who="", reason="complete", from_round=number)
            root = blake3(f"{self.options.seed} state {number - 1}".encode()).hexdigest()
            yield self._now(RunFinished(rounds=rounds, tokens=self._tokens, state_root=root))
            return
        active = self._active()
        fragment, opened = number % self.spec.outer.fragments, self.wall
        grants = tuple(Grant(node=p.node, generation=p.generation, ranges=()) for p in active)
        yield Lease(round=number, term=self._term, fragment=fragment, grants=grants)
        yield self._now(RoundOpened(round=number, fragment=fragment, peers=len(active), rows=0))
        for peer in active[: len(active) // 2]:
            self.wall = opened + 33.0 + self._rng.uniform(0, 1.5)
            yield self._now(self._ready(number, peer, self.wall - opened))


def view_of(options: Options, *, map_shown: bool = True) -> View:
    """The run folded without any file."""
    view = View(map_shown=map_shown)
    for told in Story(options).tell():
        if isinstance(told, tuple):
            view.event(*told)
        else:
            view.record(told)
    return view


def write_replay(options: Options, out: Path) -> Report:
    """The static report of the run, without a folder for it."""
    told = list(Story(options).tell())
    return write_report(
        (one for one in told if not isinstance(one, tuple)),
        (one for one in told if isinstance(one, tuple)),
        out,
        resolved=sum(isinstance(one, Commit | Abandon) for one in told),
        served=not options.finished,
    )


# ---- folders -----------------------------------------------------------------------------------


class _Growing(MemoryDisk):
    """Never synced: a copy of the whole file for each batch would take hours."""

    def sync(self, path: str) -> None:
        del path


BATCH = 2000
LOG_BYTES = 256 << 20


def write_folder(options: Options, out: Path) -> Story:
    """A host's folder: `host.json`, `journal.bin`, `events.jsonl` (and its older part)."""
    out.mkdir(parents=True, exist_ok=True)
    story = Story(options)
    disk = _Growing()
    journal = Journal.open(
        disk,
        "journal.bin",
        verifier=verify_record,
        sign=lambda message: story.key.sign(RECORD, message),
    )
    waiting: list[AnyRecord] = []
    log = _Log(out / "events.jsonl")
    for told in story.tell():
        if isinstance(told, tuple):
            log.write(*told)
            continue
        waiting.append(told)
        if len(waiting) >= BATCH:
            journal.append_all(waiting)
            waiting.clear()
    journal.append_all(waiting)
    log.close()
    (out / "journal.bin").write_bytes(disk.read("journal.bin") or b"")
    settings = {"run": story.run, "name": story.spec.name, "bind": "127.0.0.1:1"}
    (out / "host.json").write_text(json.dumps(settings))
    return story


class _Log:
    """As `EventLog` writes it, with wall times of the story."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w", encoding="utf-8")
        self._size = 0

    def write(self, wall: float, event: Event) -> None:
        stamp = {"t": round(wall - START, 6), "wall": wall, "kind": type(event).__name__}
        line = json.dumps(stamp | _fields(event)) + "\n"
        self._file.write(line)
        self._size += len(line)
        if self._size > LOG_BYTES:
            self._file.close()
            self._path.replace(self._path.with_name("events.1.jsonl"))
            self._file, self._size = self._path.open("w", encoding="utf-8"), 0

    def close(self) -> None:
        self._file.close()


def _fields(event: Event) -> dict[str, object]:
    return {f.name: getattr(event, f.name) for f in dataclasses.fields(event)}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("out", nargs="?", type=Path, help="Folder for journal and event log.")
    parser.add_argument("--peers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--contributors", type=int, default=0, help="A round's peers; 0: all.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--finished", action="store_true", help="The run is complete.")
    parser.add_argument("--plain", action="store_true", help="No hostile names and texts.")
    parser.add_argument("--old", action="store_true", help="An event log without measures.")
    parser.add_argument("--start", type=float, default=START, help="Unix seconds of the start.")
    parser.add_argument("--frame", type=Path, help="Write View.frame() as JSON.")
    parser.add_argument("--replay", type=Path, help="Write the static report.")
    given = parser.parse_args(arguments)
    options = Options(
        peers=given.peers,
        rounds=given.rounds,
        contributors=given.contributors,
        seed=given.seed,
        finished=given.finished,
        hostile=not given.plain,
        measures=not given.old,
        start=given.start,
    )
    if given.out:
        write_folder(options, given.out)
    if given.frame:
        view = view_of(options)
        frame = view.frame(view.newest or options.start)
        given.frame.write_text(json.dumps(frame, allow_nan=False))
    if given.replay:
        write_replay(options, given.replay)


if __name__ == "__main__":
    main(sys.argv[1:])
