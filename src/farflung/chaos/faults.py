"""Does what the schedule says, undoes it, and notes what really happened."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import dataclass, field

from farflung.chaos.effects import Effect
from farflung.chaos.schedule import HOST, Fault, Kind
from farflung.chaos.swarm import ChaosSwarm

LEAVE_S = 20.0
"""How long a polite leave may take before the peer is killed (a violation)."""


@dataclass(kw_only=True)
class Executed:
    """A fault as it happened. Times are monotonic seconds of this machine."""

    fault: Fault
    started_s: float
    ended_s: float | None = None
    """When it was undone; a killed process: started again."""
    outcome: str = ""
    """Empty: as planned."""
    told: str = ""
    """What a second process of one key said when it was refused."""
    skipped: str = ""
    """Why it did not happen."""

    @property
    def kind(self) -> Kind:
        return self.fault.kind


@dataclass
class Striker:
    """Applies faults to a swarm; several at a time."""

    swarm: ChaosSwarm
    executed: list[Executed] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    """Peers that are not to come back."""
    healing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when all faults are to end."""

    async def strike(self, fault: Fault) -> None:
        """One fault from start to end. Cancelled or healed early, it is undone all the same."""
        done = Executed(fault=fault, started_s=time.monotonic())
        self.executed.append(done)
        if fault.links:
            await self._links(fault, done)
        elif fault.kind in (Kind.KILL, Kind.KILL_HOST):
            await self._kill(fault, done)
        elif fault.kind is Kind.STOP:
            await self._stop(fault, done)
        elif fault.kind is Kind.JOIN:
            await self.swarm.add_peer(fault.nodes[0])
        elif fault.kind is Kind.LEAVE:
            await self._leave(fault, done)
        elif fault.kind is Kind.DOUBLE:
            await self._double(fault, done)
        else:
            await self._disk(fault, done)
        done.ended_s = time.monotonic()

    async def _last(self, seconds: float) -> None:
        """The fault lasts: until its time is over, or everything is to be healed."""
        try:
            async with asyncio.timeout(seconds):
                await self.healing.wait()
        except TimeoutError:
            pass

    async def _links(self, fault: Fault, done: Executed) -> None:
        if fault.kind is Kind.RESET:
            a, b = fault.links[0]
            if not self.swarm.net.reset(a, b):
                done.skipped = "no connection between the two"
            return
        cutting = fault.kind in (Kind.PARTITION, Kind.ONE_WAY)
        effect = Effect(
            pairs=frozenset(fault.links),
            blocked=cutting,
            bytes_per_s=fault.amount if fault.kind is Kind.SLOW else 0.0,
            delay_s=fault.amount if fault.kind is Kind.DELAY else 0.0,
        )
        done.skipped = self.swarm.net.cannot(effect)
        if done.skipped:
            return
        token = self.swarm.net.apply(effect)
        try:
            await self._last(fault.lasts_s)
        finally:
            self.swarm.net.lift(token)

    async def _kill(self, fault: Fault, done: Executed) -> None:
        name = fault.nodes[0]
        program = self.swarm.programs[name]
        if not program.running:
            done.skipped = "it did not run"
        if not fault.returns:
            self.gone.add(name)
        await program.kill()
        if fault.returns:
            await self._last(fault.lasts_s)
            await self.swarm.bring_back(name)

    async def _stop(self, fault: Fault, done: Executed) -> None:
        program = self.swarm.programs[fault.nodes[0]]
        if not program.running:
            done.skipped = "it did not run"
            return
        program.send(signal.SIGSTOP)
        try:
            await self._last(fault.lasts_s)
        finally:
            program.send(signal.SIGCONT)

    async def _leave(self, fault: Fault, done: Executed) -> None:
        name = fault.nodes[0]
        program = self.swarm.programs[name]
        self.gone.add(name)
        if not program.running:
            done.skipped = "it did not run"
        elif not await program.leave(LEAVE_S):
            done.outcome = f"had to be killed after {LEAVE_S:g} s"

    async def _double(self, fault: Fault, done: Executed) -> None:
        name = fault.nodes[0]
        original = self.swarm.programs[name]
        if not original.running or not self.swarm.is_member(name):
            done.skipped = "it was no running member"
            return
        double = await self.swarm.start_double(name)
        try:
            async with asyncio.timeout(fault.lasts_s):
                await double.gone()
        except TimeoutError:
            pass
        done.outcome = "ran until it was killed" if double.running else "ended by itself"
        done.told = "; ".join(text for life in double.lives for _, text in life.warnings)
        await double.kill("killed: it was a second process of one key")

    async def _disk(self, fault: Fault, done: Executed) -> None:
        program = self.swarm.programs[HOST if fault.kind is Kind.HOST_DISK else fault.nodes[0]]
        if not program.fill_disk():
            done.skipped = "it did not run"
            return
        try:
            await self._last(fault.lasts_s)
        finally:
            program.free_disk()
