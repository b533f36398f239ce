"""A Lightning Trainer in a run.

    swarm = SwarmCallback(micro_rows=4)
    trainer = Trainer(callbacks=[swarm], accumulate_grad_batches=2)
    trainer.fit(module, swarm.loader(dataset, num_workers=2))

An epoch of the Trainer is one lease. `micro_rows` times `accumulate_grad_batches` must be
`inner.batch_rows` of the run; the training ends when the run does. One optimizer. Tested with
lightning 2.6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch.utils.data import DataLoader

from farflung.errors import UserError
from farflung.integrations.loader import Samples, lease_loader
from farflung.integrations.member import CountTokens, RunMember, count_tokens

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise UserError(
        f"farflung.integrations.lightning needs lightning ({error}); "
        f"pip install 'farflung[lightning]'"
    ) from None

SKIP_REST = -1
"""What a module's on_train_batch_start returns to end the epoch before this batch."""


class SwarmCallback(Callback):
    """Trains a LightningModule as a peer. Attaches when the training begins."""

    def __init__(
        self,
        micro_rows: int,
        *,
        schedule: Literal["run", "own"] = "run",
        layout_names: Mapping[str, str] | None = None,
        tokens: CountTokens = count_tokens,
        shuffle: bool = True,
    ) -> None:
        """`micro_rows`: rows of one batch of the loader. `schedule`, `layout_names`: as for
        `farflung.attach`. `tokens`: of a batch. `shuffle`: take the dataset in the run's keyed
        order, else in its own."""
        self.member = RunMember(
            schedule=schedule, layout_names=layout_names, tokens=tokens, shuffle=shuffle
        )
        self._micro_rows = micro_rows
        self._optimizer_steps = 0

    def loader(
        self,
        samples: Samples,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        **options: Any,
    ) -> DataLoader[Any]:
        """For `Trainer.fit`; `options` are DataLoader's, without those that choose samples."""
        return lease_loader(samples, self.member, collate_fn, **options)

    # ---- hooks -----------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        trainer.fit_loop.max_epochs = -1  # an epoch is a lease: the run says when it is over
        before = pl_module.on_train_batch_start

        def ends_epoch(batch: Any, batch_idx: int) -> Any:
            return SKIP_REST if self.member.lease_ended else before(batch, batch_idx)

        object.__setattr__(pl_module, "on_train_batch_start", ends_epoch)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimizers are there, the loader is not read yet (it is before on_train_start)."""
        if len(trainer.optimizers) != 1:
            raise UserError(f"a run trains one optimizer; the module has {len(trainer.optimizers)}")
        self.member.attach(
            pl_module, trainer.optimizers[0], self._micro_rows, trainer.accumulate_grad_batches
        )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        del pl_module, batch_idx
        loss = outputs["loss"] if isinstance(outputs, Mapping) and "loss" in outputs else 0.0
        self.member.used(batch, loss)
        if trainer.global_step > self._optimizer_steps:
            self._optimizer_steps = trainer.global_step
            self.member.stepped()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        if not self.member.next_lease():
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer, pl_module
        self.member.close()
