"""Lightning in a farflung run: accumulation, worker processes, exactly-once rows.

farflung host own.toml --set 'model.program=["python", "examples/lightning_loop.py"]' \\
    --set inner.batch_rows=4                       # own.toml is in docs/quickstart.md
"""

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from farflung.integrations.lightning import SwarmCallback

number = torch.arange(1000).unsqueeze(1)  # each sample begins with its own number
ids = torch.cat([number // 64, (number + torch.arange(16)) % 64], dim=1)


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(64, 32), nn.Linear(32, 64), nn.Flatten(0, 1))

    def training_step(self, batch, _):
        ids = batch["input_ids"]
        return nn.functional.cross_entropy(self.net(ids[:, :-1]), ids[:, 1:].flatten())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)  # the peak of the run's schedule


torch.manual_seed(0)  # these weights start the run
swarm = SwarmCallback(micro_rows=2)  # times 2 is inner.batch_rows of the run
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
trainer = Trainer(accelerator="cpu", accumulate_grad_batches=2, callbacks=[swarm], **quiet)
trainer.fit(Model(), swarm.loader([{"input_ids": row} for row in ids], num_workers=1))
