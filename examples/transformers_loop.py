"""The Hugging Face Trainer in a farflung run: accumulation, worker processes, exactly-once rows.

farflung host own.toml --set 'model.program=["python", "examples/transformers_loop.py"]' \\
    --set inner.batch_rows=4                       # own.toml is in docs/quickstart.md
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from farflung.integrations.transformers import SwarmTrainerCallback

LENGTH, VOCAB = 16, 64
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
torch.manual_seed(0)  # these weights start the run
model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, num_attention_heads=2, **SIZES))
number = torch.arange(1000).unsqueeze(1)  # each sample begins with its own number
ids = torch.cat([number // VOCAB, (number + torch.arange(LENGTH - 1)) % VOCAB], dim=1)
dataset = [{"input_ids": row, "labels": row} for row in ids]
args = TrainingArguments(
    output_dir="/tmp/unused",
    per_device_train_batch_size=2,  # times 2 is inner.batch_rows of the run
    gradient_accumulation_steps=2,
    dataloader_num_workers=1,
    learning_rate=1e-2,  # the peak of the run's schedule
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
)
trainer = Trainer(model=model, args=args, train_dataset=dataset)
trainer.add_callback(SwarmTrainerCallback(trainer))
trainer.train()
