"""A foreign program in a test: the gradient of its loss is 1 everywhere, so a step of SGD with
rate r moves every parameter by -r exactly (powers of two). With TOY_ADAMW the gradient grows with
the position, so that a step depends on the steps before it."""

from __future__ import annotations

import os
import sys
import time

import torch
from torch import nn

from farflung.attach import attach

torch.set_num_threads(1)
torch.manual_seed(int(os.environ.get("TOY_SEED", "0")))
model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
model[1].requires_grad_("TOY_FROZEN" not in os.environ)
adamw = "TOY_ADAMW" in os.environ
trained = [p for p in model.parameters() if p.requires_grad]
optimizer: torch.optim.Optimizer = torch.optim.SGD(trained, lr=0.25)
if adamw:
    optimizer = torch.optim.AdamW(trained, lr=0.25)
print("toy starts", file=sys.stderr)
with attach(model, optimizer) as peer:
    while lease := peer.lease():
        if "TOY_FAILS_AFTER" in os.environ and lease.round > int(os.environ["TOY_FAILS_AFTER"]):
            raise RuntimeError("the toy is broken\nand says more")
        for index, positions in enumerate(lease.batches()):
            if "TOY_ACCUMULATES" in os.environ and index % 2 == 0:
                continue
            time.sleep(float(os.environ.get("TOY_STEP_S", "0")))
            if os.environ.get("TOY_MEMORY_AT") == str(positions[0]):
                raise torch.OutOfMemoryError("toy")
            optimizer.zero_grad()
            loss = torch.stack([p.sum() for p in model.parameters()]).sum()
            if adamw:
                loss = loss * (1 + positions[0])
            if os.environ.get("TOY_POISON_AT") == str(positions[0]):
                loss = loss * float("nan")
            loss.backward()
            optimizer.step()
            if os.environ.get("TOY_NAN_AT") == str(positions[0]):
                loss = loss * float("nan")
            peer.step(tokens=10 * len(positions), metrics={"loss": loss})
print("toy ends", file=sys.stderr)
sys.exit(int(os.environ.get("TOY_EXIT", "0")))
