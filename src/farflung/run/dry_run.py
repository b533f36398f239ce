"""`farflung join --dry-run`: a run's spec without taking part, and what it would need here.

The spec comes from the node's journal, or from the coordinator as its status. An invite itself
holds no spec, and only members are answered: a new invite is redeemed, which counts as one of its
uses. The membership is kept, so that `farflung join` goes on with it and uses no second one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from farflung.config.run import RunSpec, spec_from_bytes
from farflung.errors import MismatchError, UserError
from farflung.ids import Role
from farflung.outer.layout import Layout
from farflung.peer.disk_budget import DAY_S, show_size
from farflung.run.assemble import open_node, read_journal
from farflung.run.home import JOURNAL, locked, nothing_left
from farflung.run.join import UNBORN, obtain_membership
from farflung.run.machine import Machine
from farflung.run.membership import JoinOptions, Membership
from farflung.run.status import ask_as_peer
from farflung.sizing.memory import disk_bytes, fixed_gpu_bytes, host_bytes
from farflung.sizing.model import ModelSizes
from farflung.sizing.speed import PeerSpeed, speed_of
from farflung.swarm.records import Genesis
from farflung.swarm.replay import current_spec


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """What a dry run knows of a run."""

    spec: RunSpec
    parameters: int
    redeemed: bool
    """The invite was redeemed to learn it."""


async def learn(
    folder: Path, invite: str, known: Membership | None, options: JoinOptions
) -> KnownRun:
    """Raises UserError, LinkDown and Refused."""
    if (known.role if known else options.role) == Role.EVALUATOR:
        raise UserError("--dry-run estimates training; an evaluator trains nothing")
    if options.trainer:
        raise UserError("--dry-run knows the built-in trainer only; leave --trainer out")
    if found := _from_journal(folder):
        return found
    if known is None:
        with locked(folder), nothing_left(folder, UNBORN, lambda: False):
            await obtain_membership(open_node(folder), invite, options)
    told = await ask_as_peer(folder)
    if "spec" not in told:
        raise MismatchError(
            "the host's farflung is older and tells no spec; update it, or join without --dry-run"
        )
    spec = spec_from_bytes(told["spec"].encode(), "the host's run spec")
    return KnownRun(spec=spec, parameters=int(told["head"]["parameters"]), redeemed=known is None)


def _from_journal(folder: Path) -> KnownRun | None:
    path = folder / JOURNAL
    if not path.exists():
        return None
    records = read_journal(path, check=False).records()
    genesis = next(iter(records), None)
    if not isinstance(genesis, Genesis):
        return None
    spec = current_spec(records)
    size = Layout.from_json(genesis.layout).size
    return KnownRun(spec=spec, parameters=size, redeemed=False)


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a machine would do in a run; estimates."""

    machine: Machine
    speed: PeerSpeed
    host_bytes: int
    disk_bytes: int
    round_s: float
    """Of training alone."""
    up_bytes: float
    """Of a round."""
    down_bytes: float
    refusals: tuple[str, ...]
    """Why it cannot work; each with a remedy."""

    @property
    def most_bytes_a_day(self) -> float:
        """If no round waited for anything."""
        return (self.up_bytes + self.down_bytes) * DAY_S / self.round_s


def outlook(
    spec: RunSpec, sizes: ModelSizes, machine: Machine, *, dialable: bool, max_disk_bytes: int = 0
) -> Outlook:
    """Pure. `dialable`: others can connect to this node, which then reduces a share."""
    speed = speed_of(spec, sizes, machine.device)
    host = host_bytes(spec, sizes, gpu=machine.device.is_gpu)
    disk = disk_bytes(spec, sizes)
    times = 2 if dialable else 1  # as an owner: D (1 - w) + D w M, nearly 2 D
    return Outlook(
        machine=machine,
        speed=speed,
        host_bytes=host,
        disk_bytes=disk,
        round_s=spec.steps_per_round * spec.inner_batch_tokens / speed.tokens_per_s,
        up_bytes=times * sizes.fragment_bytes,
        down_bytes=times * sizes.fragment_bytes,
        refusals=tuple(_refusals(sizes, machine, speed, host, disk, max_disk_bytes)),
    )


def _refusals(
    sizes: ModelSizes, machine: Machine, speed: PeerSpeed, host: int, disk: int, max_disk: int
) -> list[str]:
    found = []
    if not speed.fit.fits:
        least = fixed_gpu_bytes(sizes, machine.device.memory_bytes)
        found.append(
            f"needs {show_size(least)} of GPU memory, this GPU has "
            f"{show_size(machine.device.memory_bytes)}: free some of it, or join with a larger GPU"
        )
    if machine.host_bytes and host > machine.host_bytes:
        found.append(
            f"needs {show_size(host)} of memory, this machine has "
            f"{show_size(machine.host_bytes)} free: end other programs, or join elsewhere"
        )
    room = min(machine.free_disk_bytes, max_disk or machine.free_disk_bytes)
    if disk > room:
        found.append(
            f"needs {show_size(disk)} of disk besides data, there are {show_size(room)}: set "
            f"FARFLUNG_HOME to a larger disk, or give a larger --max-disk"
        )
    return found
