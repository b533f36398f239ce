"""A plain loop over a DataLoader with a worker process, that accumulates two micro-batches."""

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
    seat = LoopSeat(peer, micro_rows=2)
    loader = lease_loader(samples, seat, num_workers=2, prefetch_factor=2, persistent_workers=True)
    while seat.stream().wait():
        used, loss = [], 0.0
        for batch in loader:
            rows = batch["input_ids"]
            part = nn.functional.cross_entropy(model(rows[:, :-1]), rows[:, 1:].flatten()) / 2
            part.backward()
            used.append(batch[ROWS])
            loss += part.item()
            if len(used) == 2:
                optimizer.step()
                optimizer.zero_grad()
                peer.step(tokens=4 * 17, metrics={"loss": loss}, rows=used)
                used, loss = [], 0.0
                if seat.stream().ended:
                    break  # what the workers hold comes again with the next lease
