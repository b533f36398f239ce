"""A foreign PyTorch loop in a farflung run: any module, any optimizer, your own data.

The run names it as its program (`model.preset = "custom"`, `data.source = "synthetic"`):

    farflung host own.toml --set 'model.program=["python", "examples/own_loop.py"]'

Here: a GRU that learns to predict the bytes of this very file. A position of the run's order is
one window of it; farflung sees to it that every position is trained once.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from farflung.attach import attach

WINDOW = 32
TEXT = torch.tensor(list(Path(__file__).read_bytes()))


class ByteModel(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.gru(self.embed(tokens))
        return self.head(hidden)


def windows(positions: list[int]) -> Tensor:
    """One row of WINDOW + 1 bytes per position."""
    starts = [position * 7919 % (len(TEXT) - WINDOW) for position in positions]
    return torch.stack([TEXT[start : start + WINDOW + 1] for start in starts])


def main() -> None:
    torch.manual_seed(0)  # genesis mode runs this file too: these weights start the run
    torch.set_num_threads(1)
    model = ByteModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with attach(model, optimizer) as peer:
        while lease := peer.lease():  # one per round; None: the run is over
            for positions in lease.batches():
                rows = windows(positions)
                logits = model(rows[:, :-1])
                loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                peer.step(tokens=rows[:, 1:].numel(), metrics={"loss": loss})


if __name__ == "__main__":
    main()
