"""The Hugging Face Trainer in a run.

    trainer = Trainer(model=model, args=args, train_dataset=dataset)
    trainer.add_callback(SwarmTrainerCallback(trainer))
    trainer.train()

An epoch of the Trainer is one lease. `per_device_train_batch_size` times
`gradient_accumulation_steps` must be `inner.batch_rows` of the run; `max_steps` unset means until
the run is over. Works for subclasses of Trainer too. Tested with transformers 4.57.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.data import DataLoader

from farflung.errors import UserError
from farflung.integrations.loader import ROWS, lease_loader
from farflung.integrations.member import CountTokens, RunMember, count_tokens

try:
    from transformers import (
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
    from transformers.trainer_utils import seed_worker
except ImportError as error:
    raise UserError(
        f"farflung.integrations.transformers needs transformers and accelerate ({error}); "
        f"pip install 'farflung[transformers]'"
    ) from None

UNTIL_OVER = 1_000_000_000
"""`max_steps` of a training that ends when the run does."""


class SwarmTrainerCallback(TrainerCallback):
    """Trains a Trainer's model as a peer. Attaches when the training begins."""

    def __init__(
        self,
        trainer: Trainer,
        *,
        schedule: Literal["run", "own"] = "run",
        layout_names: Mapping[str, str] | None = None,
        tokens: CountTokens = count_tokens,
        shuffle: bool = True,
    ) -> None:
        """`schedule`, `layout_names`: as for `farflung.attach`. `tokens`: of a micro-batch.
        `shuffle`: take the dataset in the run's keyed order, else in its own.

        Replaces the trainer's train dataloader and wraps its training_step.
        """
        self.member = RunMember(
            schedule=schedule, layout_names=layout_names, tokens=tokens, shuffle=shuffle
        )
        self._trainer = trainer
        self._inner_step = trainer.training_step
        # On the object, so that every subclass of Trainer will do.
        vars(trainer).update(get_train_dataloader=self._loader, training_step=self._training_step)
        if trainer.args.max_steps <= 0:
            trainer.args.max_steps = UNTIL_OVER

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> TrainerControl:
        del state
        optimizer = kwargs["optimizer"]
        self.member.attach(
            kwargs["model"],
            getattr(optimizer, "optimizer", optimizer),  # accelerate wraps it
            args.train_batch_size,
            args.gradient_accumulation_steps,
        )
        return self._begin_lease(control)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> TrainerControl:
        del args, state, kwargs
        self.member.stepped()
        if self.member.lease_ended:  # and what is prefetched is dropped with the epoch
            control.should_epoch_stop = True
        if self.member.peer.over:
            control.should_training_stop = True
        return control

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> TrainerControl:
        del args, state, kwargs
        return control if control.should_training_stop else self._begin_lease(control)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        del args, state, control, kwargs
        self.member.close()

    def _begin_lease(self, control: TrainerControl) -> TrainerControl:
        if not self.member.next_lease():
            control.should_training_stop = True
        return control

    def _loader(self) -> DataLoader[Any]:
        """In place of Trainer.get_train_dataloader."""
        trainer, args = self._trainer, self._trainer.args
        samples: Any = trainer.train_dataset
        if not hasattr(samples, "__len__"):
            raise UserError(
                f"train_dataset is a {type(samples).__name__} and must have a length, so that "
                f"every peer finds the sample of a row number"
            )
        collate = trainer._get_collator_with_removed_columns(trainer.data_collator, "training")
        return lease_loader(  # not prepared by accelerate: nothing is split, inputs are moved later
            samples,
            self.member,
            collate,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=partial(
                seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index
            ),
        )

    def _training_step(
        self, model: nn.Module, inputs: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """In place of Trainer.training_step; its loss is the micro-batch's share of the step's."""
        without_rows = {key: value for key, value in inputs.items() if key != ROWS}
        loss: Tensor = self._inner_step(model, without_rows, *args, **kwargs)
        self.member.used(inputs, loss)
        return loss
