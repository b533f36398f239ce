"""What the journal tells of a run so far, as the picture that events go on with.

The event log and a host's memory begin with its last start; the journal begins with the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from farflung.config.run import RunSpec
from farflung.ids import Role
from farflung.monitor.picture import PeerPicture, Picture, scored
from farflung.outer.layout import Layout
from farflung.run.source_figures import SourceCounts
from farflung.swarm import ranges
from farflung.swarm.amendments import amended_by
from farflung.swarm.lineage import descent
from farflung.swarm.records import (
    Abandon,
    Admin,
    Amend,
    AnyRecord,
    Close,
    Commit,
    Evaluation,
    Gen,
    Genesis,
    Join,
    Term,
)
from farflung.swarm.replay import genesis_spec
from farflung.swarm.resolve import fp32_value, shown_tokens


def picture_of(records: Iterable[AnyRecord], counts: SourceCounts | None = None) -> Picture:
    """The picture after these records; `counts` reads them too, to go on with `credited`.

    Losses, bytes and speeds are in no journal.
    """
    picture, spec = Picture(), RunSpec()
    counts = counts or SourceCounts()
    peers: dict[str, PeerPicture] = {}
    for record in records:
        counts.read(record)
        match record:
            case Genesis():
                spec = genesis_spec(record)
                picture = replace(
                    picture,
                    run=record.run,
                    name=spec.name,
                    parameters=Layout.from_json(record.layout).size,
                    rounds_wanted=spec.outer.rounds,
                    descent=descent(record.ancestors),
                )
            case Amend():
                spec = amended_by(spec, record)
                picture = replace(picture, rounds_wanted=spec.outer.rounds, finished=False)
            case Term():
                picture = replace(picture, term=record.term)
            case Join():
                peers[record.node] = PeerPicture(name=record.name, role=record.role)
            case Gen():
                peers[record.node] = replace(
                    peers[record.node], state="active", generation=record.generation
                )
            case Close():
                peers[record.node] = replace(peers[record.node], state="gone")
            case Commit():
                _credit(peers, record, spec.inner.batch_rows)
                picture = replace(
                    picture,
                    round=max(picture.round, record.round),
                    committed=picture.committed + 1,
                    rejected=picture.rejected + len(record.rejected),
                    tokens=picture.tokens
                    + sum(shown_tokens(c, spec.data.seq_len) for c in record.contributors),
                    state_root=record.state_root.hex(),
                    replicated=len(record.holders) >= 2,
                )
            case Abandon():
                picture = replace(
                    picture,
                    round=max(picture.round, record.round),
                    abandoned=picture.abandoned + 1,
                )
            case Admin(action="finish"):
                picture = replace(picture, finished=True)
            case Evaluation():
                picture = scored(
                    picture,
                    record.next_round,
                    fp32_value(record.bits_per_byte),
                    tuple((d.prompt, d.text) for d in record.samples),
                )
            case _:
                pass
    return replace(picture, peers=peers, sources=counts.seen)


def _credit(peers: dict[str, PeerPicture], commit: Commit, batch_rows: int) -> None:
    """Rows that are newly credited go to whom they are credited to."""
    for contributor in commit.contributors:
        rows = ranges.count(contributor.credited)
        peer = peers[contributor.node]
        peers[contributor.node] = replace(
            peer,
            rounds=peer.rounds + 1,
            steps=peer.steps + rows // batch_rows,
            samples=peer.samples + rows,
        )


def credited(picture: Picture, records: Iterable[AnyRecord], counts: SourceCounts) -> Picture:
    """The picture with the samples of new commits, and new weights of the sources; everything else
    of them is told by events."""
    for record in records:
        counts.read(record)
        if isinstance(record, Commit):
            peers = dict(picture.peers)
            for contributor in record.contributors:
                peer = peers.get(contributor.node)
                if peer is not None:
                    rows = ranges.count(contributor.credited)
                    peers[contributor.node] = replace(peer, samples=peer.samples + rows)
            picture = replace(picture, peers=peers)
    return replace(picture, sources=counts.seen)


def away(picture: Picture, connected: Iterable[str]) -> Picture:
    """Who is not connected is `gone`, or `away` when it never took part."""
    here = set(connected)
    peers = {
        node: peer if node in here else replace(peer, state=_absent(peer))
        for node, peer in picture.peers.items()
    }
    return replace(picture, peers=peers)


def _absent(peer: PeerPicture) -> str:
    return "gone" if peer.generation or peer.role == Role.KEEPER else "away"
