"""A foreign program in a test: the gradient of its loss is 1 everywhere, so a step of SGD with
rate r moves every parameter by -r exactly (powers of two)."""

from __future__ import annotations

import os
import sys
import time

import torch
from torch import nn

from farflung.attach import attach

torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
print("toy starts", file=sys.stderr)
with attach(model, optimizer) as peer:
    while lease := peer.lease():
        for positions in lease.batches():
            time.sleep(float(os.environ.get("TOY_STEP_S", "0")))
            optimizer.zero_grad()
            loss = torch.stack([p.sum() for p in model.parameters()]).sum()
            loss.backward()
            optimizer.step()
            if os.environ.get("TOY_NAN_AT") == str(positions[0]):
                loss = loss * float("nan")
            peer.step(tokens=10 * len(positions), metrics={"loss": loss})
print("toy ends", file=sys.stderr)
