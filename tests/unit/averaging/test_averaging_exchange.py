"""One attempt among fake ports, in virtual time."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from averaging_samples import attempt, decoded, encoded, grid, hashed, included, values, verdict

from farflung.averaging.exchange import Exchange, ExchangePorts
from farflung.averaging.reduce import Bytes, reduce_slice
from farflung.clock import InlineWorkers
from farflung.errors import LinkDown, ProtocolError
from farflung.hashing import digest
from farflung.network.messages import (
    Accuse,
    Attempt,
    BulkHeader,
    Contribution,
    Control,
    Result,
    SliceResult,
    Statistics,
)
from farflung.sim.loop import run_virtual

WEIGHTS = {"a": 640, "b": 1920, "c": 128}
CHUNKS = {n: encoded(values(i)) for i, n in enumerate(WEIGHTS)}
MEMBERS = ("a", "b", "c", "k")


class Mesh:
    """Delivers bulk frames between exchanges; what the coordinator is told is kept."""

    def __init__(self, plan: Attempt) -> None:
        self.plan = plan
        self.told: list[tuple[str, Control]] = []
        self.cut: set[tuple[str, str]] = set()
        self.kept: dict[int, Any] = {}
        self.refused: list[tuple[str, str, str]] = []
        self.exchanges = {m.node: self._exchange(m.node) for m in plan.members}

    def _exchange(self, node: str) -> Exchange:
        async def send(to: str, head: BulkHeader, data: Bytes) -> None:
            await asyncio.sleep(0.01)
            if (node, to) in self.cut:
                raise LinkDown("cut")
            self.deliver(node, to, head, data)

        async def tell(message: Control) -> None:
            await asyncio.sleep(0.01)
            self.told.append((node, message))
            wanted = len(self.plan.slices)
            if len([1 for _, m in self.told if isinstance(m, Statistics)]) == wanted:
                for exchange in self.exchanges.values():
                    exchange.deliver_verdict(verdict(WEIGHTS))

        return Exchange(
            node=node,
            attempt=self.plan,
            grid=grid(),
            mine=hashed(CHUNKS[node]) if node in CHUNKS else None,
            ports=ExchangePorts(
                send_bulk=send,
                tell=tell,
                keep_inputs=self._keep,
                refused=lambda sender, error: self.refused.append((node, sender, str(error))),
            ),
            workers=InlineWorkers(),
        )

    async def _keep(self, _: Attempt, index: int, inputs: Any) -> None:
        self.kept[index] = inputs

    def deliver(self, sender: str, to: str, head: BulkHeader, data: Bytes) -> None:
        if isinstance(head, Contribution):
            self.exchanges[to].deliver_contribution(sender, head, memoryview(data))
        elif isinstance(head, SliceResult):
            self.exchanges[to].deliver_result(sender, head, memoryview(data))

    def accusations(self) -> dict[str, list[tuple[tuple[str, ...], str]]]:
        out: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for node, message in self.told:
            if isinstance(message, Accuse):
                out.setdefault(node, []).append((message.nodes, message.kind))
        return out


def play(story: Callable[[Mesh], Awaitable[None]], plan: Attempt | None = None) -> Mesh:
    async def main() -> Mesh:
        mesh = Mesh(plan or attempt(CHUNKS, "abc", MEMBERS))
        await story(mesh)
        return mesh

    return run_virtual(main())


async def run_all(mesh: Mesh, *without: str) -> list[BaseException | None]:
    runs: list[Coroutine[Any, Any, None]] = [
        e.run() for n, e in mesh.exchanges.items() if n not in without
    ]
    return await asyncio.gather(*runs, return_exceptions=True)


def the_mean() -> list[bytes]:
    return reduce_slice(grid(), 0, CHUNKS, included(WEIGHTS), sum(WEIGHTS.values()))


@pytest.mark.parametrize("owners", ["a", "ab", "abc", "k"])
def test_every_member_gets_the_same_mean_whoever_owns_the_slices(owners: str) -> None:
    results: dict[str, list[bytes]] = {}

    async def story(mesh: Mesh) -> None:
        assert await run_all(mesh) == [None] * 4
        results.update({n: e.results.result() for n, e in mesh.exchanges.items()})

    play(story, attempt(CHUNKS, owners, MEMBERS))
    assert {b"".join(r) for r in results.values()} == {b"".join(the_mean())}


def test_what_everybody_decodes_was_quantised_exactly_twice() -> None:
    """Once by each contributor, once by the owner: encode(mean(decode(encode(x))))."""
    mean = np.zeros_like(values(0))
    divisor = np.float64(sum(WEIGHTS.values()))
    for i, (_, weight) in enumerate(WEIGHTS.items()):
        mean += decoded(encoded(values(i))) * np.float32(weight / divisor)
    assert the_mean() == encoded(mean)


def test_owners_publish_the_hash_of_their_bytes_and_keep_their_inputs() -> None:
    async def story(mesh: Mesh) -> None:
        await run_all(mesh)

    mesh = play(story)
    hashes = {m.slice: m.hash for _, m in mesh.told if isinstance(m, Result)}
    for i, place in enumerate(mesh.plan.slices):
        assert hashes[i] == digest(b"".join(the_mean()[place.first : place.stop]))
        assert mesh.kept[i] == {n: c[place.first : place.stop] for n, c in CHUNKS.items()}
    assert not mesh.accusations()


def frame(plan: Attempt, index: int, sender: str, **changes: object) -> tuple[Contribution, bytes]:
    place = plan.slices[index]
    fields: dict[str, Any] = {
        "term": 1,
        "round": 3,
        "attempt": 1,
        "slice": index,
        "first": place.first,
        "stop": place.stop,
        "hashes": tuple(digest(c) for c in CHUNKS[sender]),
    }
    fields |= changes
    return Contribution(**fields), b"".join(CHUNKS[sender][fields["first"] : fields["stop"]])


def refuse(change: Callable[[Mesh], tuple[str, Contribution, bytes]], sentence: str) -> None:
    async def story(mesh: Mesh) -> None:
        sender, head, data = change(mesh)
        with pytest.raises(ProtocolError, match=sentence):
            mesh.deliver(sender, "a", head, data)

    play(story)


def refused_later(*frames: tuple[str, Contribution, bytes]) -> list[str]:
    """a is sent frames that only their hashes betray: what it says of whom it accuses."""

    async def story(mesh: Mesh) -> None:
        for sender, head, data in frames:
            mesh.deliver(sender, "a", head, data)
        running = asyncio.create_task(mesh.exchanges["a"].run())
        await asyncio.sleep(0.1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    mesh = play(story, PLAN)
    senders = {s for _, s, _ in mesh.refused}
    assert mesh.accusations().get("a", []) == [((s,), "unreachable") for s in sorted(senders)]
    return [sentence for _, _, sentence in mesh.refused]


PLAN = attempt(CHUNKS, "abc", MEMBERS)


def bad(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_a_chunk_that_is_not_the_committed_one_loses_its_sender() -> None:
    head, data = frame(PLAN, 0, "b")
    assert refused_later(("b", head, data)) == []
    wrong = f"chunk {PLAN.slices[0].stop - 1} does not match its commitment"
    assert refused_later(("b", head, bad(data))) == [wrong]


def test_nothing_of_a_sender_counts_after_its_first_bad_chunk() -> None:
    plan = attempt(CHUNKS, "a", MEMBERS)

    async def story(mesh: Mesh) -> None:
        exchange = mesh.exchanges["a"]
        for first in range(5):
            head, data = frame(plan, 0, "b", first=first, stop=first + 1)
            mesh.deliver("b", "a", head, bad(data) if first == 1 else data)
        head, data = frame(plan, 0, "c")
        mesh.deliver("c", "a", head, data)
        running = asyncio.create_task(exchange.run())
        await asyncio.sleep(0.1)
        head, data = frame(plan, 0, "b", first=1, stop=2)
        mesh.deliver("b", "a", head, data)  # the right one, too late
        await asyncio.sleep(0.1)
        assert [exchange._inbox.count(0, n) for n in "abc"] == [5, 1, 5]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    mesh = play(story, plan)
    assert mesh.refused == [("a", "b", "chunk 1 does not match its commitment")]
    assert mesh.accusations() == {"a": [(("b",), "unreachable")]}


def test_frames_that_come_again_are_dropped_and_pile_up_nowhere() -> None:
    async def story(mesh: Mesh) -> None:
        head, data = frame(PLAN, 0, "b")
        for _ in range(9):
            mesh.deliver("b", "a", head, data)
        mesh.deliver("b", "a", head, bad(data))  # nor do they replace what waits
        assert mesh.exchanges["a"]._inbox.unchecked == 1
        assert await run_all(mesh) == [None] * 4
        place = PLAN.slices[1]
        again = SliceResult(term=1, round=3, attempt=1, slice=1, first=place.first, stop=place.stop)
        result = mesh.exchanges["a"].results.result()
        mesh.deliver("b", "a", again, bad(result[1]))
        assert b"".join(mesh.exchanges["a"].results.result()) == b"".join(the_mean())

    mesh = play(story, PLAN)
    assert not mesh.refused
    assert not mesh.accusations()


def test_slices_are_handed_over_as_each_is_whole_with_the_digests_of_their_bytes() -> None:
    async def story(mesh: Mesh) -> None:
        assert await run_all(mesh) == [None] * 4
        for exchange in mesh.exchanges.values():
            results = exchange.results.result()
            assert exchange.hashes == [digest(r) for r in results]
            arrived = [exchange.arrived.get_nowait() for _ in results]
            assert sorted(arrived) == list(enumerate(results))
            assert exchange.arrived.empty()

    play(story)


def test_a_short_payload_is_refused() -> None:
    def change(mesh: Mesh) -> tuple[str, Contribution, bytes]:
        head, data = frame(mesh.plan, 0, "b")
        return "b", head, data[:-1]

    refuse(change, "bytes, .* expected")


def test_other_chunk_hashes_than_the_committed_are_refused() -> None:
    hashes = tuple(digest(c) for c in CHUNKS["c"])
    other = ("b", *frame(PLAN, 0, "b", hashes=hashes))
    assert refused_later(other) == ["chunk hashes do not match the commitment"]
    refuse(lambda m: ("b", *frame(m.plan, 0, "b", hashes=hashes[:2])), "2 chunk hashes, 5 expected")
    refuse(lambda m: ("b", *frame(m.plan, 0, "b", hashes=())), "0 chunk hashes, 5 expected")


def test_a_contribution_to_another_owner_or_from_a_stranger_is_refused() -> None:
    refuse(lambda m: ("b", *frame(m.plan, 1, "b")), "is not for me")
    refuse(lambda m: ("k", *frame(m.plan, 0, "b")), "is not for me")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"slice": -1}, "has no slice"),
        ({"slice": 9}, "has no slice"),
        ({"first": 1, "stop": 1}, "outside slice"),
        ({"stop": 99}, "outside slice"),
        ({"first": -1}, "outside slice"),
    ],
)
def test_a_frame_outside_the_plan_is_refused(changes: dict[str, int], sentence: str) -> None:
    refuse(lambda m: ("b", *frame(m.plan, 0, "b", **changes)), sentence)


def test_a_result_from_a_node_that_does_not_own_the_slice_is_refused() -> None:
    async def story(mesh: Mesh) -> None:
        place = mesh.plan.slices[1]
        head = SliceResult(term=1, round=3, attempt=1, slice=1, first=place.first, stop=place.stop)
        with pytest.raises(ProtocolError, match="not owned by its sender"):
            mesh.deliver("c", "a", head, b"")

    play(story)


def test_an_owner_that_cannot_be_reached_is_accused() -> None:
    async def story(mesh: Mesh) -> None:
        mesh.cut |= {("a", "b"), ("b", "a")}
        outcome = await run_all(mesh)
        assert all(isinstance(o, LinkDown) for o in outcome)

    accusations = play(story).accusations()
    assert (("b",), "unreachable") in accusations["a"]


def test_a_lost_link_is_accused_only_while_something_is_missing() -> None:
    async def story(mesh: Mesh) -> None:
        mesh.exchanges["a"].lost("k")  # owns nothing, contributes nothing
        for exchange in mesh.exchanges.values():
            exchange.lost("k")
        assert await run_all(mesh) == [None] * 4

    assert not play(story).accusations()


def test_two_links_lost_one_after_the_other_are_both_accused_at_once() -> None:
    """The second is lost while the first accusation is on its way."""

    async def story(mesh: Mesh) -> None:
        running = asyncio.create_task(mesh.exchanges["a"].run())
        await asyncio.sleep(0.001)
        mesh.exchanges["a"].lost("b")
        await asyncio.sleep(0.005)
        mesh.exchanges["a"].lost("c")
        await asyncio.sleep(0.1)
        assert mesh.accusations() == {"a": [(("b",), "unreachable"), (("c",), "unreachable")]}
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    play(story)


def test_whoever_is_silent_at_the_deadline_is_accused() -> None:
    results: list[bool] = []

    async def story(mesh: Mesh) -> None:
        outcome = await run_all(mesh, "c")
        assert all(isinstance(o, LinkDown) for o in outcome)
        assert asyncio.get_running_loop().time() == pytest.approx(10.0, abs=0.1)
        results.extend(e.results.cancelled() for n, e in mesh.exchanges.items() if n != "c")

    accusations = play(story).accusations()
    assert accusations["a"] == [(("c",), "silent")]  # b could not finish without c
    assert all(results)


def test_an_attempt_without_verdict_ends_at_its_deadline() -> None:
    async def story(mesh: Mesh) -> None:
        mesh.plan = attempt(CHUNKS, "abcdefgh"[:3], MEMBERS)
        exchange = mesh.exchanges["k"]
        with pytest.raises(LinkDown, match="3 did not deliver"):
            await exchange.run()

    assert not play(story).accusations()  # nobody can send results before the verdict


def slow_link(plan_s: float, quiet_s: float) -> Mesh:
    """b's link to a brings 1000 bytes each `quiet_s`; its frame is complete after a minute."""

    async def story(mesh: Mesh) -> None:
        start_s = asyncio.get_running_loop().time()

        def heard(node: str) -> int:
            elapsed_s = asyncio.get_running_loop().time() - start_s
            return 1000 * int(elapsed_s / quiet_s) if node == "b" else 0

        exchange = mesh.exchanges["a"]
        exchange._ports = dataclasses.replace(exchange._ports, heard=heard)
        for sender in "ac":
            head, data = frame(mesh.plan, 0, sender)
            mesh.deliver(sender, "a", head, data)
        running = asyncio.create_task(exchange.run())
        await asyncio.sleep(60)
        head, data = frame(mesh.plan, 0, "b")
        mesh.deliver("b", "a", head, data)
        await asyncio.sleep(1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    return play(story, attempt(CHUNKS, "a", MEMBERS, plan_s))


def test_a_slow_sender_is_waited_for_as_long_as_bytes_arrive() -> None:
    mesh = slow_link(1000.0, quiet_s=9.0)
    assert not mesh.accusations()
    assert [n for n, m in mesh.told if isinstance(m, Statistics)] == ["a"]


def test_a_sender_whose_bytes_stop_is_accused_after_the_stall_time() -> None:
    mesh = slow_link(1000.0, quiet_s=11.0)
    assert mesh.accusations() == {"a": [(("b",), "silent")]}
