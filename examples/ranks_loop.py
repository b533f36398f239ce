"""A PyTorch loop over several devices in a farflung run: FSDP2 under torchrun, one peer.

    farflung join INVITE --trainer 'torchrun --nproc-per-node 2 examples/ranks_loop.py'

Each rank attaches and takes its own rows of every batch; farflung copies its shards from and to
the run. Without torchrun the same file is a peer of one process, and makes the first weights.
"""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from farflung.attach import attach

WINDOW = 32
TEXT = torch.tensor(list(Path(__file__).read_bytes()))
RANKS = int(os.environ.get("WORLD_SIZE", "1"))


def build(width: int = 64) -> nn.Module:
    torch.manual_seed(0)  # every rank, and genesis, begin with the same weights
    hidden = [nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(2)]
    model = nn.Sequential(nn.Embedding(256, width), *hidden, nn.Linear(width, 256))
    if RANKS > 1:
        dist.init_process_group()
        for block in model[1:-1]:
            fully_shard(block)
        fully_shard(model)
    return model


def windows(positions: list[int]) -> Tensor:
    """One row of WINDOW + 1 bytes per position."""
    starts = [position * 7919 % (len(TEXT) - WINDOW) for position in positions]
    return torch.stack([TEXT[start : start + WINDOW + 1] for start in starts])


def main() -> None:
    torch.set_num_threads(1)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with attach(model, optimizer) as peer:
        while lease := peer.lease():
            for positions in lease.batches():  # of several ranks: this one's part of the batch
                rows = windows(positions)
                logits = model(rows[:, :-1])
                loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
                optimizer.zero_grad()
                loss.backward()  # FSDP averages the gradients of all ranks
                optimizer.step()
                peer.step(tokens=rows[:, 1:].numel(), metrics={"loss": loss})
    if RANKS > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
