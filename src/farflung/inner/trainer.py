"""The built-in trainer: `python -m farflung.inner.trainer`, started by an agent or in genesis mode.

It reads spec and data folder from the environment (docs/trainer.md) and is otherwise a loop like
any other over the public `farflung.attach`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch

from farflung.attach import Peer, attach
from farflung.config.run import RunSpec
from farflung.errors import ConfigError, FarflungError
from farflung.inner.built_in import BuiltIn, build, read_spec, use_threads
from farflung.inner.channel import ENV_DATA, ENV_GENESIS, ENV_SPEC
from farflung.inner.ranks import die_with_parent
from farflung.inner.shards import RankPlace, place_from_environment
from farflung.inner.step import inner_step, pick_micro_rows
from farflung.stopping import stop_signals

EXIT_MISTAKE = 2
EXIT_MEMORY = 3


def train(
    built: BuiltIn, peer: Peer, micro_rows: int, begin_step: Callable[[int], None] = lambda _: None
) -> None:
    """Train leases until the run ends. `begin_step` hears the number of micro-batches to come."""
    while lease := peer.lease():
        built.source.expect(lease.rows(), lease.mixture)
        for positions in lease.batches():
            tokens_BT, targets_BT = built.batch(positions)
            begin_step(-(-len(positions) // micro_rows))
            loss = inner_step(
                built.model,
                built.optimizer,
                tokens_BT,
                targets_BT,
                built.spec.inner,
                micro_rows,
            )
            peer.step(tokens=targets_BT.numel(), metrics={"loss": loss})


def run() -> None:
    """Build from the environment, attach, train. Raises UserError, LinkDown, CorruptState."""
    spec_path = os.environ.get(ENV_SPEC)
    if not spec_path:
        raise ConfigError("the built-in trainer is started by `farflung join`, not by hand")
    use_threads()
    spec = read_spec(spec_path)
    data_dir = Path(os.environ.get(ENV_DATA, ""))
    place = place_from_environment()
    if place.world > 1:
        run_ranks(spec, data_dir, place)
        return
    built = build(spec, data_dir, fresh=ENV_GENESIS in os.environ)
    with attach(built.model, built.optimizer) as peer:
        config = built.model.config
        micro_rows = pick_micro_rows(built.model, spec.inner, config.seq_len, config.vocab)
        train(built, peer, micro_rows)


def run_ranks(spec: RunSpec, data_dir: Path, place: RankPlace) -> None:
    """`run` in one of several ranks: the same loop over shards of the model."""
    from farflung.inner.parallel import LastReduces, smallest, start_ranks, stop_ranks

    die_with_parent()
    device = start_ranks(place)
    built = build(spec, data_dir, fresh=False, place=place)
    with attach(built.model, built.optimizer) as peer:
        rows = smallest(spec.inner.batch_rows // place.world, device)
        reduces = LastReduces(built.model)
        train(built, peer, rows, reduces.begin)
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
            "farflung: the model does not fit this machine's memory; use a smaller "
            "model.preset or data.seq_len, or a larger machine",
            file=sys.stderr,
        )
        return EXIT_MEMORY
    return 0


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
