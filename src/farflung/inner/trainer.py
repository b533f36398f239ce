"""The built-in trainer: `python -m farflung.inner.trainer`, started by an agent or in genesis mode.

It reads spec and data folder from the environment (docs/trainer.md) and is otherwise a loop like
any other over the public `farflung.attach`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

import torch

from farflung import failpoints
from farflung.attach import Peer, attach
from farflung.config.run import RunSpec
from farflung.errors import ConfigError, FarflungError
from farflung.inner.built_in import BuiltIn, build, read_spec, use_threads
from farflung.inner.channel import ENV_DATA, ENV_GENESIS, ENV_SPEC
from farflung.inner.feed import Feed
from farflung.inner.meter import Meter
from farflung.inner.options import StepOptions, options_from
from farflung.inner.ranks import die_with_parent
from farflung.inner.shards import RankPlace, place_from_environment
from farflung.inner.trace import Trace
from farflung.stopping import stop_signals

EXIT_MISTAKE = 2
EXIT_MEMORY = 3


def train(built: BuiltIn, peer: Peer, options: StepOptions) -> None:
    """Train leases until the run ends. Raises UserError, torch.OutOfMemoryError."""
    stepper = built.stepper(options)
    feed = Feed(built.source.block, built.device)
    meter = Meter.of_config(built.model.config, built.device, devices=built.place.world)
    trace = Trace.of_options(options, built.place)
    while lease := peer.lease():
        lease.meter = meter
        rows = lease.rows()
        built.source.expect(rows, lease.mixture)
        taken = 0
        for positions in lease.batches():
            taken += len(positions)
            tokens_BT, targets_BT = feed.take(positions)
            failpoints.hit("step.begun")
            outcome = stepper(tokens_BT, targets_BT)
            feed.prepare(_whole(rows[taken : taken + len(positions)], len(positions)))
            meter.note(outcome.grad_norm)
            meter.data_wait_s, feed.wait_s = meter.data_wait_s + feed.wait_s, 0.0
            loss = outcome.loss * float("nan") if failpoints.fails("step.loss") else outcome.loss
            peer.step(tokens=targets_BT.numel(), metrics={"loss": loss})
            trace.step()


def _whole(batch: list[int], size: int) -> list[int]:
    """The rest of a lease below a batch is never trained."""
    return batch if len(batch) == size else []


def run() -> None:
    """Build from the environment, attach, train. Raises UserError, LinkDown, CorruptState."""
    spec_path = os.environ.get(ENV_SPEC)
    if not spec_path:
        raise ConfigError("the built-in trainer is started by `farflung join`, not by hand")
    options = options_from()
    use_threads()
    spec = read_spec(spec_path)
    data_dir = Path(os.environ.get(ENV_DATA, ""))
    place = place_from_environment()
    if place.rank == place.world - 1:  # one rank is enough, and it is none that leads
        failpoints.arm_process()
    if place.world > 1:
        run_ranks(spec, data_dir, place, options)
        return
    built = build(spec, data_dir, fresh=ENV_GENESIS in os.environ)
    with attach(built.model, built.optimizer) as peer:
        train(built, peer, options)


def run_ranks(spec: RunSpec, data_dir: Path, place: RankPlace, options: StepOptions) -> None:
    """`run` in one of several ranks: the same loop over shards of the model."""
    from farflung.inner.parallel import start_ranks, stop_ranks  # torch.distributed

    die_with_parent()
    start_ranks(place)
    built = build(spec, data_dir, fresh=False, place=place)
    with attach(built.model, built.optimizer) as peer:
        train(built, peer, options)
    stop_ranks()


def main() -> int:
    """Exit code; a failure's last line on stderr is one sentence for the operator."""
    for number in stop_signals():
        if number is not signal.SIGINT:  # that one raises KeyboardInterrupt by itself
            signal.signal(number, _terminate)
    try:
        run()
    except FarflungError as error:
        print(f"farflung: {error}", file=sys.stderr)
        return EXIT_MISTAKE
    except (torch.OutOfMemoryError, MemoryError):
        print(
            "farflung: out of memory: the step does not fit this machine; a smaller micro-batch is "
            "tried at the next start where there is one, else use a smaller model.preset or "
            "data.seq_len, or a larger machine",
            file=sys.stderr,
        )
        return EXIT_MEMORY
    return 0


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
