"""A run of the built-in model with real journals, snapshots and round logs, in virtual time.

The nodes are those of the simulator; their weights are a real Llama's, their data folder is one
that `prepare` made. What moves the weights is the NumPy trainer: enough for what is tested here.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.data.prepare import prepare
from farflung.data.shards import open_rows
from farflung.data.split import Document
from farflung.data.tokenizer import Tokenizer, load_tokenizer
from farflung.disk import Disk, MemoryDisk
from farflung.events import Event
from farflung.hashing import digest
from farflung.model.hf_names import layout_entries
from farflung.model.llama import Llama, init_weights
from farflung.model.presets import preset
from farflung.outer.layout import Layout
from farflung.run.genesis import Material, Weights, genesis_record
from farflung.sim.loop import run_virtual
from farflung.sim.world import RUN, SimSwarm
from farflung.swarm.records import DataPart
from farflung.trained.model import TrainedModel

TEXT = "The quick brown fox jumps over the lazy dog; naïve ☃ said: to be, or not to be?\n" * 150
SEQ_LEN = 64


def llama_spec(tokenizer: str = "bytes", **sections: dict[str, Any]) -> RunSpec:
    table: dict[str, Any] = {
        "name": "llama",
        "model": {"preset": "demo"},
        "data": {"source": "text", "tokenizer": tokenizer, "seq_len": SEQ_LEN},
        "inner": {"batch_rows": 2, "optimizer": "adamw", "lr": 0.01},
        "outer": {"inner_steps": 2, "rounds": 4},
        "swarm": {"start_peers": 2, "snapshot_every": 100},
    }
    for name, values in sections.items():
        table[name] = {**table.get(name, {}), **values}
    return from_table(table)


def initial_weights(spec: RunSpec, vocab: int) -> Weights:
    config = preset(spec.model.preset, vocab=vocab, seq_len=spec.data.seq_len)
    model = Llama(config)
    init_weights(model, spec.seed)
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    return Weights(Layout.from_entries(layout_entries(config)), flat.numpy())


class LlamaSwarm(SimSwarm):
    """A simulated swarm whose GENESIS is that of a built-in model on real text."""

    data: Path

    def _make_genesis(self, disk: Disk) -> None:
        rows = open_rows(self.data)
        manifest = (self.data / "manifest.json").read_bytes()
        record = genesis_record(
            run=RUN,
            run_key=self.run_key.public_key,
            spec=self.spec,
            weights=initial_weights(self.spec, rows.manifest.vocab),
            material=Material(
                data=(
                    DataPart(
                        name="data",
                        rows=len(rows.train),
                        manifest=digest(manifest),
                        manifest_bytes=len(manifest),
                    ),
                ),
                tokenizer=digest(rows.tokenizer) if rows.tokenizer else b"",
                tokenizer_bytes=len(rows.tokenizer),
            ),
            disk=disk,
        )
        self._open_journal().append(record)


@dataclasses.dataclass(frozen=True)
class Played:
    """A run on the disk: HOME/llama/{host,keeper}; PEER/llama/peer as if on another machine."""

    home: Path
    peer: Path
    data: Path
    round: int
    root: str
    anchor: np.ndarray[Any, Any]
    """What a live node held after that round."""
    tokenizer: Tokenizer


def play(root: Path, spec: RunSpec, rounds: int) -> Played:
    """The first `rounds` rounds, then everything is killed. Peers began with the genesis snapshot,
    so that what came after stands in their round logs only."""
    data = root / "data"
    tokenizer = load_tokenizer(spec.data.tokenizer)
    documents = [Document("text", TEXT)]
    prepare(
        documents, tokenizer, spec.data.seq_len, data, held_out_fraction=0.1, provenance="a fox"
    )

    class Here(LlamaSwarm):
        pass

    Here.data = data

    async def main() -> Played:
        swarm = await Here.start(spec, peers=2)
        node = swarm.nodes["p0"]
        await swarm.until(lambda: _round(node.agent) >= rounds - 1)
        assert node.agent is not None
        state = node.agent.node.follower.state
        played = Played(
            home=root / "home",
            peer=root / "elsewhere",
            data=data,
            round=state.next_round - 1,
            root=state.root.hex(),
            anchor=state.anchor.copy(),
            tokenizer=tokenizer,
        )
        dump(swarm.disk, played.home / "llama" / "host", swarm.events)
        dump(swarm.nodes["keeper"].disk, played.home / "llama" / "keeper", [])
        dump(node.disk, played.peer / "llama" / "peer", node.events)
        await swarm.stop()
        return played

    played = run_virtual(main())
    for owner in (played.home / "llama" / "host", played.peer / "llama" / "peer"):
        (owner / "data").symlink_to(data)
    return played


def _round(agent: Any) -> int:
    follower = agent.node.follower
    return follower.state.next_round - 1 if follower.ready else -1


def dump(disk: MemoryDisk, folder: Path, events: list[Event]) -> None:
    for name, content in disk._durable.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    lines = [json.dumps({"kind": type(e).__name__, **dataclasses.asdict(e)}) for e in events]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def made(
    tokenizer: str = "bytes", *, preset_name: str = "demo", scale: float = 1.0, **config: Any
) -> TrainedModel:
    """A model with weights other than those of a run: norms differ from 1, logits are distinct."""
    speaks = load_tokenizer(tokenizer)
    shape = dataclasses.replace(
        preset(preset_name, vocab=speaks.vocab_size, seq_len=SEQ_LEN), **config
    )
    layout = Layout.from_entries(layout_entries(shape))
    model = Llama(shape)
    init_weights(model, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(2))
            else:
                parameter.mul_(scale)
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy()
    return TrainedModel(
        name="made",
        source="a test",
        layout=layout,
        weights=flat,
        config=shape,
        tokenizer=speaks,
        spec=llama_spec(tokenizer),
        run=RUN,
        round=7,
        state_root="ab" * 32,
    )
