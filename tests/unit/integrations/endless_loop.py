"""A loop without epochs over a DataLoader whose worker holds batches in hand."""

from __future__ import annotations

import torch
from torch import nn

from farflung.attach import attach
from farflung.integrations.loader import ROWS, LoopSeat, lease_loader

number = torch.arange(1000).unsqueeze(1)  # each sample begins with its own number
ids = torch.cat([number // 64, (number + torch.arange(16)) % 64], dim=1)
samples = [{"input_ids": row} for row in ids]
model = nn.Sequential(nn.Embedding(64, 32), nn.Linear(32, 64), nn.Flatten(0, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
with attach(model, optimizer) as peer:
    seat = LoopSeat(peer, endless=True)
    for batch in lease_loader(samples, seat, num_workers=1, prefetch_factor=1):
        rows = batch["input_ids"]
        loss = nn.functional.cross_entropy(model(rows[:, :-1]), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        peer.step(tokens=4 * 17, metrics={"loss": loss}, rows=batch[ROWS])
