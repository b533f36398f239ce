"""An exported folder is the run's model, bit by bit, for transformers and for ourselves."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from tokenizers import Tokenizer as Engine
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers
from trained_samples import SEQ_LEN, llama_spec, made, play

from farflung.config.load import from_table
from farflung.data.tokenizer import ByteTokenizer, load_tokenizer, tokenizer_from_bytes
from farflung.errors import ConfigError, CorruptState, UserError
from farflung.export.card import model_card
from farflung.export.hf import HfOptions, write_hf
from farflung.export.tokenizer_json import token_names, tokenizer_json
from farflung.model.hf_names import layout_entries
from farflung.outer.layout import Layout
from farflung.trained.hf_folder import config_from_hf
from farflung.trained.history import TrainedShare, TrainingHistory
from farflung.trained.model import TrainedModel, config_of
from farflung.trained.sources import resolve

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers

VARIANTS: dict[str, dict[str, Any]] = {
    "tied, grouped": {},
    "untied, full heads": {"tied": False, "heads": 6, "kv_heads": 6, "rope_theta": 5e5},
    "query and key norm": {"qk_norm": True, "heads": 6, "kv_heads": 2},
}
TEXTS = [
    "What say you, my lord?\n\n  naïve ☃ 𝔘\x00\x7f don't 1234",
    " leading and trailing ",
    "",
    "\n\n\n\t",
]


def loaded(folder: Path) -> tuple[Any, Any]:
    """What transformers makes of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype="auto"
        )
        return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_computes_the_same_bits(variant: str, tmp_path: Path) -> None:
    model = made(**VARIANTS[variant])
    write_hf(model, tmp_path / "hf", HfOptions())
    theirs, _ = loaded(tmp_path / "hf")
    expected = {"query and key norm": "Qwen3ForCausalLM"}.get(variant, "LlamaForCausalLM")
    assert type(theirs).__name__ == expected
    tokens = torch.randint(0, 257, (3, SEQ_LEN), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        difference = theirs(tokens).logits - model.llama(attention="eager")(tokens)
    assert float(difference.abs().max()) == 0.0


def test_a_run_is_exported_as_the_journal_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = play(tmp_path, llama_spec("bpe-1024"), 2)
    monkeypatch.setenv("FARFLUNG_HOME", str(run.peer))
    write_hf(resolve("llama"), tmp_path / "hf", HfOptions(licence="cc0-1.0"))
    again = resolve(str(tmp_path / "hf"))
    assert np.array_equal(again.weights, run.anchor)
    first = resolve("llama")
    kept = ("name", "run", "round", "state_root", "history", "spec", "config", "provenance")
    assert [getattr(again, k) for k in kept] == [getattr(first, k) for k in kept]
    theirs, tokenizer = loaded(tmp_path / "hf")
    ids = tokenizer("The quick brown fox", return_tensors="pt").input_ids
    assert ids.tolist()[0] == run.tokenizer.encode("The quick brown fox")
    with torch.no_grad():
        ours = again.llama(attention="eager")(ids)
        assert float((theirs(ids).logits - ours).abs().max()) == 0.0
    card = (tmp_path / "hf" / "README.md").read_text()
    for fact in (run.root, "| p0 |", "| p1 |", "license: cc0-1.0", "a fox", "bpe-1024"):
        assert fact in card
    assert f"| tokens trained | {first.history.tokens:,} |" in card


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe-1024"])
def test_the_code_on_the_card_runs(
    tokenizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = made(tokenizer)
    write_hf(model, tmp_path / "hf", HfOptions())
    code = (tmp_path / "hf" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code.replace("50", "5"), {"FOLDER": str(tmp_path / "hf")})
    assert capsys.readouterr().out.startswith("Once")


@pytest.mark.parametrize("name", ["bytes", "bpe-1024"])
def test_the_ends_of_documents_are_those_of_the_run(name: str, tmp_path: Path) -> None:
    model = made(name)
    write_hf(model, tmp_path / "hf", HfOptions())
    theirs, tokenizer = loaded(tmp_path / "hf")
    eos = model.need_tokenizer().eos
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == eos
    assert theirs.config.eos_token_id == theirs.generation_config.eos_token_id == eos
    assert theirs.config.bos_token_id == eos
    assert tokenizer.model_max_length == theirs.config.max_position_embeddings == SEQ_LEN
    for text in TEXTS:
        ids = model.need_tokenizer().encode(text)
        assert tokenizer(text).input_ids == ids
        assert tokenizer.decode(ids) == text


def own_tokenizer(path: Path) -> str:
    """Several special tokens, none of which has a name that is known to end a document."""
    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<fin>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(["to be or not to be"], trainer)
    engine.save(str(path))
    return str(path)


def test_an_uncommon_end_of_documents_goes_with_the_folder(tmp_path: Path) -> None:
    name = own_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match="--eos"):
        load_tokenizer(name)
    speaks = load_tokenizer(name, eos="<fin>")
    folder = tmp_path / "hf"
    config = dataclasses.replace(BASE.need_config(), vocab=speaks.vocab_size)
    layout = Layout.from_entries(layout_entries(config))
    weights = np.zeros(layout.size, np.float32)
    model = dataclasses.replace(
        BASE, tokenizer=speaks, config=config, layout=layout, weights=weights
    )
    write_hf(model, folder, HfOptions())
    config_file = folder / "tokenizer_config.json"
    table = json.loads(config_file.read_text())
    assert table["eos_token"] == "<fin>"
    assert resolve(str(folder)).need_tokenizer().eos == speaks.eos == 1
    table["eos_token"] = {"content": "<mask>", "special": True}  # as transformers writes some
    config_file.write_text(json.dumps(table))
    assert resolve(str(folder)).need_tokenizer().eos == 2


BASE = made()
BYTES = ByteTokenizer()
BYTES_AS_JSON = tokenizer_from_bytes(tokenizer_json(BYTES))
BPE = load_tokenizer("bpe-1024")


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=100))
def test_bytes_as_a_json_tokenizer_have_the_same_ids(text: str) -> None:
    ids = BYTES.encode(text)
    assert BYTES_AS_JSON.encode(text) == ids
    assert BYTES_AS_JSON.decode(ids) == BYTES.decode(ids)
    counted, plain = BYTES_AS_JSON.encode_counted([text])[0], BYTES.encode_counted([text])[0]
    assert counted.ids.tolist() == ids
    if ids:  # a character's bytes are counted token by token, also there
        assert counted.n_bytes.tolist() == plain.n_bytes.tolist()


def test_bytes_as_a_json_tokenizer_know_every_byte_and_the_end() -> None:
    assert (BYTES_AS_JSON.vocab_size, BYTES_AS_JSON.eos) == (BYTES.vocab_size, BYTES.eos)
    assert sorted(token_names(BYTES)) == list(range(257))
    for byte in range(256):
        assert BYTES_AS_JSON.decode([byte]) == BYTES.decode([byte])


def test_the_shipped_tokenizer_is_exported_byte_for_byte() -> None:
    assert tokenizer_json(BPE) == BPE.json()


def test_what_a_foreign_tokenizer_adds_or_cuts_is_left_out() -> None:
    engine = Engine(models.WordLevel(unk_token="<unk>"))
    engine.normalizer = normalizers.Lowercase()
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", "</s>"], show_progress=False)
    engine.train_from_iterator(["to be or not to be"], trainer)
    engine.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", 1)]
    )
    engine.enable_truncation(4)
    ours = tokenizer_from_bytes(engine.to_str().encode())
    text = "to be or not to be"
    assert engine.encode(text).ids != ours.encode(text)
    theirs = Engine.from_str(tokenizer_json(ours).decode())
    assert theirs.encode(text).ids == ours.encode(text)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_shards_hold_every_tensor_once_and_an_index(dtype: Any, tmp_path: Path) -> None:
    model = made(tied=False)
    write_hf(model, tmp_path / "hf", HfOptions(dtype=dtype, shard_bytes=200_000))
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    shards = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert len(shards) > 2
    assert sorted(set(index["weight_map"].values())) == [s.name for s in shards]
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    found = {}
    for shard in shards:
        with safe_open(shard, "pt") as file:
            names = list(file.keys())
            assert {index["weight_map"][n] for n in names} == {shard.name}
            found |= {n: file.get_tensor(n) for n in names}
    assert sum(t.nbytes for t in found.values()) == index["metadata"]["total_size"]
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    for name, values in model.tensors():
        assert torch.equal(found.pop(name), torch.from_numpy(values).to(wanted))
    assert not found
    theirs, _ = loaded(tmp_path / "hf")
    assert theirs.dtype == wanted
    if dtype == "fp32":
        assert np.array_equal(resolve(str(tmp_path / "hf")).weights, model.weights)


def test_files_are_as_readable_as_this_users_other_files(tmp_path: Path) -> None:
    write_hf(made(), tmp_path / "hf", HfOptions())
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    assert (tmp_path / "hf").stat().st_mode == (tmp_path / "plain").stat().st_mode
    modes = {p.stat().st_mode for p in (tmp_path / "hf").iterdir()}
    assert modes == {(tmp_path / "plain" / "file").stat().st_mode}


def test_a_small_model_is_one_file(tmp_path: Path) -> None:
    write_hf(made(), tmp_path / "hf", HfOptions())
    assert [p.name for p in (tmp_path / "hf").glob("model*")] == ["model.safetensors"]


def test_a_folder_that_holds_something_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something already"):
        write_hf(made(), tmp_path / "hf", HfOptions())
    assert [p.name for p in tmp_path.rglob("*")] == ["hf", "mine.txt"]


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_hf(made(), tmp_path / "hf", HfOptions(), stop)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    write_hf(made(), tmp_path / "hf", HfOptions())
    assert (tmp_path / "hf" / "config.json").exists()


def test_a_program_of_ones_own_gives_tensors_by_name(tmp_path: Path) -> None:
    layout = Layout.from_entries([("encoder.w", (3, 4)), ("encoder.b", (4,))])
    spec = from_table(
        {
            "name": "own",
            "model": {"preset": "custom", "program": ["python", "mine.py"]},
            "data": {"source": "synthetic"},
        }
    )
    model = TrainedModel(
        name="own",
        source="a test",
        layout=layout,
        weights=np.arange(16, dtype=np.float32),
        config=config_of(spec, layout),
        tokenizer=None,
        spec=spec,
    )
    write_hf(model, tmp_path / "own", HfOptions())
    names = sorted(p.name for p in (tmp_path / "own").iterdir())
    assert names == ["README.md", "farflung.json", "model.safetensors"]
    with safe_open(tmp_path / "own" / "model.safetensors", "np") as file:
        assert np.array_equal(file.get_tensor("encoder.w"), np.arange(12).reshape(3, 4))
        assert np.array_equal(file.get_tensor("encoder.b"), np.arange(12, 16))
    assert "theirs to bring" in (tmp_path / "own" / "README.md").read_text()
    with pytest.raises(UserError, match="program of your own"):
        model.llama()


def test_a_layout_of_another_version_is_refused() -> None:
    layout = Layout.from_entries([("model.embed_tokens.weight", (257, 96))])
    with pytest.raises(ConfigError, match=r"tensors are not those of model.preset='demo'"):
        config_of(llama_spec(), layout)


def test_a_peers_name_cannot_write_the_card() -> None:
    share = TrainedShare(name="x |\n# <b>HACK</b> `" + "y" * 200, rounds=1, tokens=2)
    model = dataclasses.replace(made(), history=TrainingHistory(contributors=(share,)))
    card = model_card(model, "fp32", "unknown")
    (line,) = [row for row in card.splitlines() if "HACK" in row]
    assert line.startswith(r"| x \| # &lt;b>") and line.endswith("| 1 | 2 |")
    assert len(line) < 140


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling='yarn'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"head_dim": 64}, "_proj.weight of shape"),
    ],
)
def test_a_model_of_another_kind_is_refused(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    write_hf(made(), tmp_path / "hf", HfOptions())
    path = tmp_path / "hf" / "config.json"
    table = json.loads(path.read_text())
    assert config_from_hf(table, "here") == made().config
    path.write_text(json.dumps({**table, **change}))
    with pytest.raises(ConfigError, match=sentence):
        resolve(str(tmp_path / "hf"))


def test_a_folder_that_lacks_a_shard_is_refused(tmp_path: Path) -> None:
    write_hf(made(), tmp_path / "hf", HfOptions(shard_bytes=200_000))
    next((tmp_path / "hf").glob("*.safetensors")).unlink()
    with pytest.raises(CorruptState, match="cannot read"):
        resolve(str(tmp_path / "hf"))
