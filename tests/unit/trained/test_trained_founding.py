"""A run that is founded from existing weights: of another run, or of a checkpoint."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from farflung.checkpoint.blob_store import BlobStore
from farflung.checkpoint.snapshot import decode_manifest, newest
from farflung.config.load import from_table
from farflung.config.run import RunSpec
from farflung.data.corpus import shipped_bpe
from farflung.data.prepare import prepare
from farflung.data.split import Document
from farflung.data.tokenizer import load_tokenizer, tokenizer_from_bytes
from farflung.disk import RealDisk
from farflung.errors import ConfigError, MismatchError, UserError
from farflung.hashing import digest
from farflung.model.hf_names import layout_entries
from farflung.model.llama import Llama
from farflung.model.presets import config_of_spec
from farflung.outer.layout import Layout
from farflung.outer.state_hash import fragment_hash
from farflung.peer.bootstrap import install
from farflung.peer.outer_state import OuterState
from farflung.run.genesis import Founding, Weights, founded
from farflung.run.host import Host, HostOptions, open_host
from farflung.swarm.lineage import descent
from farflung.trained.founding import files_hash, found_from, licence_of
from farflung.trained.hf_folder import read_hf

SEQ_LEN = 32
TEXT = "The quick brown fox jumps over the lazy dog.\n" * 400


def quad(name: str, **sections: Any) -> RunSpec:
    table: dict[str, Any] = {
        "name": name,
        "model": {"preset": "quadratic", "parameters": 2048},
        "data": {"source": "synthetic", "rows": 1000, "seq_len": 16},
        "outer": {"chunk_elements": 256, "fragments": 2},
    }
    return from_table({**table, **sections})


def text_spec(name: str, data: Path, **sections: Any) -> RunSpec:
    return from_table({"name": name, "data": {"source": str(data), "seq_len": SEQ_LEN}, **sections})


def born(home: Path, spec: RunSpec, founding: Founding | None = None) -> Host:
    folder = home / spec.name / "host"
    if founding is not None:
        spec = founded(spec, founding)
    host = open_host(folder, spec, HostOptions(founding=founding), say=lambda _: None)
    host.log.close()
    if host.index is not None:
        host.index.close()
    return host


def initial(home: Path, host: Host) -> OuterState:
    """What the keeper of a run that has just been born holds."""
    disk = RealDisk(home / host.spec.name / "keeper")
    pointer = newest(disk)
    assert pointer is not None
    store = BlobStore(disk)
    manifest = store.get(bytes.fromhex(pointer.manifest))
    assert manifest is not None
    state = OuterState(Layout.from_json(host.genesis.layout), host.spec.outer)
    install(state, decode_manifest(manifest, host.genesis.run), store)
    return state


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- from a run ----------------------------------------------------------------------------


def test_a_run_begins_with_the_weights_of_another_and_says_so(tmp_path: Path) -> None:
    parent = born(tmp_path, quad("parent"))
    first = initial(tmp_path, parent)
    founding = found_from(str(tmp_path / "parent"))
    child = born(tmp_path, quad("child", seed=9, model={}), founding)
    second = initial(tmp_path, child)
    assert np.array_equal(first.anchor, second.anchor)
    assert child.genesis.run != parent.genesis.run and child.spec.model == parent.spec.model
    hashes = [
        fragment_hash(second.anchor_of(f), np.zeros_like(second.anchor_of(f))) for f in (0, 1)
    ]
    assert tuple(hashes) == child.genesis.fragment_hashes, "momentum is zero"
    (ancestor,) = child.genesis.ancestors
    assert (ancestor.name, ancestor.run) == ("parent", parent.genesis.run)
    assert ancestor.state == first.root
    grandchild = born(
        tmp_path, quad("grand", model={}), found_from(str(tmp_path / "child" / "host"))
    )
    assert [a.name for a in grandchild.genesis.ancestors] == ["child", "parent"]
    words = descent(grandchild.genesis.ancestors)
    assert words.startswith(f"child ({child.genesis.run}), before its first round, state ")
    assert f"; before that parent ({parent.genesis.run})" in words


def test_a_name_in_the_home_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARFLUNG_HOME", str(tmp_path))
    parent = born(tmp_path, quad("parent"))
    assert found_from("parent").lineage[0].run == parent.genesis.run
    with pytest.raises(UserError, match="'nobody' is neither a folder nor a run"):
        found_from("nobody")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds neither a run"):
        found_from(str(tmp_path / "empty"))


def test_a_founded_run_goes_on_with_the_file_that_it_was_founded_with(tmp_path: Path) -> None:
    born(tmp_path, quad("parent"))
    founding = found_from(str(tmp_path / "parent"))
    child = born(tmp_path, quad("child", model={}), founding)
    assert born(tmp_path, quad("child", model={})).genesis == child.genesis
    with pytest.raises(UserError, match="holds a run already, and --from founds a new one"):
        born(tmp_path, quad("child", model={}), founding)
    with pytest.raises(MismatchError):
        born(tmp_path, quad("child", model={}, seed=5))


def test_another_model_or_weights_that_are_not_finite_found_nothing(tmp_path: Path) -> None:
    born(tmp_path, quad("parent"))
    founding = found_from(str(tmp_path / "parent"))
    with pytest.raises(ConfigError, match="is not the model of run parent; with --from leave it"):
        founded(quad("child", model={"preset": "tiny"}), founding)
    anchor = founding.weights.anchor.copy()
    anchor[7] = np.nan
    broken = Founding(**{**vars(founding), "weights": Weights(founding.weights.layout, anchor)})
    with pytest.raises(UserError, match="weights of run parent are not finite"):
        born(tmp_path, quad("child", model={}), broken)
    assert born(tmp_path, quad("child", model={}), founding).genesis.ancestors


# ---- from a checkpoint ---------------------------------------------------------------------


def hugging_face(kind: str, **change: Any) -> Any:
    """A tiny random model of transformers, norms other than 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        shape = {
            "vocab_size": 1030,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
        }
        torch.manual_seed(4)
        config = transformers.AutoConfig.for_model(kind, **{**shape, **change})
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
    return model.eval()


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, grouped, tied": ("llama", {}),
    "llama, untied, wide heads": ("llama", {"tie_word_embeddings": False, "head_dim": 16}),
    "llama 3.2": ("llama", {"rope_scaling": LLAMA3, "rope_theta": 100.0}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3, untied": ("qwen3", {"head_dim": 12, "tie_word_embeddings": False}),
}


def saved(model: Any, folder: Path, tokenizer: bytes = b"", **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, **options)
    if tokenizer:
        (folder / "tokenizer.json").write_bytes(tokenizer)
    return folder


def twin_of(founding: Founding, seq_len: int) -> Llama:
    """The model that a trainer of the founded run builds, with the run's initial weights."""
    config = config_of_spec(founding.model, vocab=None, seq_len=seq_len)
    model = Llama(config, attention="eager")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for entry in founding.weights.layout.entries:
            part = founding.weights.anchor[entry.offset : entry.offset + entry.size]
            parameters[entry.name].copy_(torch.from_numpy(part).reshape(entry.shape))
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sharded", [False, True])
def test_logits_of_a_founded_run_are_those_of_transformers(
    kind: str, sharded: bool, tmp_path: Path
) -> None:
    theirs = hugging_face(KINDS[kind][0], **KINDS[kind][1])
    saved(theirs, tmp_path, max_shard_size="100KB" if sharded else "1GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == sharded
    ours = twin_of(found_from(str(tmp_path)), SEQ_LEN)
    tokens = torch.randint(0, 1030, (3, SEQ_LEN), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert float((ours(tokens) - theirs(tokens).logits).abs().max()) == 0.0


def test_weights_of_two_bytes_are_widened_exactly(tmp_path: Path) -> None:
    saved(hugging_face("llama").to(torch.bfloat16), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, dtype=torch.float32, attn_implementation="eager"
        )
    ours = twin_of(found_from(str(tmp_path)), SEQ_LEN)
    tokens = torch.arange(SEQ_LEN)[None]
    with torch.no_grad():
        assert torch.equal(ours(tokens), theirs(tokens).logits)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "small-llama"
    model = hugging_face("llama")
    saved(model, folder, shipped_bpe())
    (folder / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# Small\n")
    return folder


@pytest.fixture(scope="module")
def data(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "fox"
    tokenizer = tokenizer_from_bytes((checkpoint / "tokenizer.json").read_bytes())
    documents = [Document("text", TEXT)]
    prepare(documents, tokenizer, SEQ_LEN, folder, held_out_fraction=0.1, provenance="a fox")
    return folder


def test_a_run_founded_from_a_checkpoint_names_files_and_licence(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    founding = found_from(str(checkpoint))
    host = born(tmp_path, text_spec("tuned", data), founding)
    assert host.spec.data.tokenizer == str(checkpoint / "tokenizer.json")
    assert host.genesis.tokenizer == digest(shipped_bpe())
    assert np.array_equal(initial(tmp_path, host).anchor, read_hf(checkpoint).weights)
    words = descent(host.genesis.ancestors)
    assert words == (f"small-llama, files {files_hash(checkpoint).hex()[:16]}, licence apache-2.0")
    config = config_of_spec(host.spec.model, vocab=1024, seq_len=SEQ_LEN)
    assert host.genesis.layout_hash == Layout.from_entries(layout_entries(config)).hash
    again = msgspec.json.decode(msgspec.json.encode(host.spec), type=RunSpec)
    assert again == host.spec
    grandchild = born(tmp_path, text_spec("again", data), found_from(str(tmp_path / "tuned")))
    assert [a.licence for a in grandchild.genesis.ancestors] == ["apache-2.0"] * 2


def test_the_hash_of_a_checkpoint_is_that_of_its_files(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "another name"
    copy.mkdir()
    for path in checkpoint.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert files_hash(copy) == files_hash(checkpoint)
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert files_hash(copy) != files_hash(checkpoint)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\ntags: [x]\nlicense: 'llama3.2'\n---\ntext", "llama3.2"),
        ("# No head\nlicense: mit\n", ""),
        ("---\nlanguage: en\n---\n", ""),
    ],
)
def test_the_licence_is_read_from_the_head_of_the_card(
    card: str, licence: str, tmp_path: Path
) -> None:
    assert licence_of(tmp_path) == ""
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == licence


def test_data_of_another_tokenizer_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "bytes"
    documents = [Document("text", TEXT)]
    tokenizer = load_tokenizer("bytes")
    prepare(documents, tokenizer, SEQ_LEN, other, held_out_fraction=0.1, provenance="a fox")
    founding = found_from(str(checkpoint))
    with pytest.raises(UserError) as caught:
        born(tmp_path, text_spec("tuned", other), founding)
    sentence = str(caught.value)
    assert "prepared with another tokenizer (bytes) than" in sentence
    assert f"farflung data prepare --tokenizer {checkpoint / 'tokenizer.json'}" in sentence
    assert not (tmp_path / "tuned" / "host" / "host.json").exists()


def test_rows_longer_than_the_checkpoint_knows_are_refused(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    table = json.loads((checkpoint / "config.json").read_text())
    short = tmp_path / "short"
    short.mkdir()
    for path in checkpoint.iterdir():
        (short / path.name).write_bytes(path.read_bytes())
    (short / "config.json").write_text(json.dumps({**table, "max_position_embeddings": 16}))
    with pytest.raises(
        ConfigError, match=r"data\.seq_len=32 is longer than the model's rows of 16"
    ):
        born(tmp_path, text_spec("tuned", data), found_from(str(short)))


def test_a_tensor_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    saved(hugging_face("llama"), tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({**load_file(path), "model.layers.0.self_attn.q_proj.bias": torch.ones(48)}, path)
    with pytest.raises(
        ConfigError, match=r"has the tensor model\.layers\.0\.self_attn\.q_proj\.bias"
    ):
        found_from(str(tmp_path))
