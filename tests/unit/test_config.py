"""Run specs: one sentence for every mistake, one hash for every spec."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import msgspec
import pytest

from farflung.config import run as module
from farflung.config.load import check_endpoints, from_table, load_json, load_spec
from farflung.config.run import (
    OuterSpec,
    RunSpec,
    SwarmSpec,
    spec_bytes,
    spec_from_bytes,
    spec_hash,
)
from farflung.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden" / "swarm_spec.json"


def mistake(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        from_table({}, overrides)
    sentence = str(caught.value)
    assert sentence and "\n" not in sentence
    return sentence


def test_an_empty_table_is_the_default_run() -> None:
    assert from_table({}) == RunSpec() == load_spec(None)


def test_the_default_run_has_the_golden_bytes_and_hash() -> None:
    """A change here changes every run's identity: new fields need a new default on purpose."""
    assert spec_bytes(RunSpec()) == GOLDEN.read_bytes().rstrip(b"\n")


def test_equal_specs_have_equal_hashes_and_different_ones_do_not() -> None:
    a = from_table({"outer": {"rounds": 7}, "name": "x"})
    b = from_table({"name": "x"}, ["outer.rounds=7"])
    assert spec_hash(a) == spec_hash(b)
    assert spec_hash(a) != spec_hash(from_table({"name": "x"}, ["outer.rounds=8"]))
    assert len(spec_hash(a)) == 32


def test_a_resolved_spec_is_read_back(tmp_path: Path) -> None:
    spec = from_table({}, ["outer.fragments=4", "outer.window=2", "inner.optimizer=adamw"])
    path = tmp_path / "spec.json"
    path.write_bytes(spec_bytes(spec))
    assert load_json(path) == spec


def test_a_toml_file_is_read_and_overrides_win(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('name = "tiny"\n[outer]\nrounds = 3\nlr = 0.7\n', encoding="utf-8")
    spec = load_spec(path, ["outer.rounds=9", "data.seed=5"])
    assert (spec.name, spec.outer.rounds, spec.outer.lr, spec.data.seed) == ("tiny", 9, 0.7, 5)


def test_an_override_that_is_no_toml_value_is_a_string() -> None:
    assert from_table({}, ["name=swift-otter"]).name == "swift-otter"
    assert from_table({}, ['name="quoted"']).name == "quoted"
    assert from_table({}, ["data.source=some/folder"]).data.source == "some/folder"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("outer.round=3", "unknown setting 'outer.round'; did you mean 'rounds'?"),
        ("oter.rounds=3", "unknown setting 'oter'; did you mean 'outer'?"),
        ("nmae=x", "unknown setting 'nmae'; did you mean 'name'?"),
        ("inner.learning_rate=3", "unknown setting 'inner.learning_rate'; known are: autocast"),
    ],
)
def test_an_unknown_setting_is_answered_with_the_nearest_name(override: str, sentence: str) -> None:
    assert sentence in mistake(override)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("outer.rounds=ten", ("outer.rounds", "int", "str")),
        ("outer.rounds=1.5", ("outer.rounds", "int")),
        ("outer.codec=int4", ("outer.codec", "int4")),
        ("outer.rounds=0", ("outer.rounds=0", "at least 1")),
        ("model.step_s=-1", ("model.step_s=-1", "0 or above")),
        ("outer.window=2", ("outer.window=2", "outer.fragments=1")),
        ("outer.momentum=1.0", ("outer.momentum=1.0", "try 0.9")),
        ("outer.lr=0.0", ("outer.lr=0.0", "try 0.7")),
        ("outer.chunk_elements=1000", ("outer.chunk_elements=1000", "try 1024")),
        ("outer.tokens=-1", ("outer.tokens=-1",)),
        ("inner.batch_rows=0", ("inner.batch_rows=0", "at least 1")),
        ("inner.decay_fraction=1.5", ("inner.decay_fraction=1.5", "[0, 1]")),
        ("data.seq_len=1", ("data.seq_len=1", "at least 2")),
        ("swarm.dead_s=2.0", ("suspect_s=3.0", "dead_s=2.0")),
        ("swarm.quorum_fraction=0.0", ("swarm.quorum_fraction=0.0", "(0, 1]")),
        ("model.preset=custom", ("model.program", "custom")),
        ("name=a/b", ("name='a/b'", "letters")),
        ("name=", ("name=''",)),
    ],
)
def test_a_wrong_value_is_answered_with_value_and_rule(
    override: str, words: tuple[str, ...]
) -> None:
    sentence = mistake(override)
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize("override", ["outer.rounds", "=5", ""])
def test_an_override_without_key_or_value_is_explained(override: str) -> None:
    assert "must look like outer.rounds=50" in mistake(override)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("inner.beta2=1.0", ("inner.beta2=1.0", "try 0.95")),
        ("inner.warmup_steps=-1", ("inner.warmup_steps=-1", "0 or above")),
        ("outer.lr=inf", ("outer.lr=inf", "finite")),
        ("inner.z_loss=nan", ("inner.z_loss=nan", "finite")),
        ("swarm.norm_band=0.0", ("swarm.norm_band=0.0", "above 0")),
        ("swarm.attempt_s=-1.0", ("swarm.attempt_s=-1.0", "0 or above")),
        ("swarm.keep_rounds=0", ("swarm.keep_rounds=0", "at least 1")),
        ("swarm.snapshot_every=0", ("swarm.snapshot_every=0", "at least 1")),
        ("model.parameters=0", ("model.parameters=0", "at least 1")),
    ],
)
def test_a_value_that_would_fail_later_is_refused_now(
    override: str, words: tuple[str, ...]
) -> None:
    sentence = mistake(override)
    assert all(word in sentence for word in words), sentence


def mixture(*sources: dict[str, object], **data: object) -> RunSpec:
    return from_table({"data": {"sources": list(sources), **data}})


def test_a_spec_without_sources_has_one() -> None:
    assert [(p.name, p.source, p.weight) for p in RunSpec().data.parts] == [
        ("data", "shakespeare", 1.0)
    ]
    spec = mixture({"name": "a", "source": "x"}, {"name": "b", "source": "y", "weight": 0.5})
    assert [(p.name, p.weight) for p in spec.data.parts] == [("a", 1.0), ("b", 0.5)]
    assert spec_from_bytes(spec_bytes(spec)) == spec


def test_a_block_holds_as_many_tokens_at_every_length() -> None:
    rows = {
        n: from_table({"data": {"seq_len": n}}).data.rows_per_block for n in (128, 8192, 1 << 20)
    }
    assert rows == {128: 512, 8192: 8, 1 << 20: 1}
    assert from_table({"data": {"block_rows": 3}}).data.rows_per_block == 3


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"sources": [{"name": "a", "source": "x", "wieght": 2}]}, "did you mean 'weight'?"),
        ({"sources": [{"name": "a"}]}, "source"),
        ({"sources": [{"name": "../a", "source": "x"}]}, "name='../a'"),
        ({"sources": [{"name": "a", "source": "x", "weight": 0.0}]}, "weight=0.0 of 'a'"),
        ({"sources": [{"name": "a", "source": "x"}] * 2}, "'a' twice"),
        (
            {"sources": [{"name": "a", "source": "x"}], "source": "y"},
            "source='y' and [[data.sources]] exclude each other",
        ),
        (
            {"sources": [{"name": n, "source": n} for n in ("synthetic", "x")]},
            "mixes synthetic rows with real ones",
        ),
        ({"window_blocks": 0}, "window_blocks=0 must be at least 1"),
        ({"block_rows": -1}, "block_rows=-1"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_one_sentence(data: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_table({"data": data})
    assert words in str(caught.value)


def test_a_spec_that_breaks_a_rule_cannot_be_built() -> None:
    words = r"outer\.rounds=0 must be at least 1"
    with pytest.raises(ConfigError, match=words):
        OuterSpec(rounds=0)
    with pytest.raises(ConfigError, match=words):
        msgspec.structs.replace(RunSpec().outer, rounds=0)
    with pytest.raises(ConfigError, match=words):
        msgspec.convert({"outer": {"rounds": 0}}, RunSpec)
    with pytest.raises(ConfigError, match="name='a/b'"):
        RunSpec(name="a/b")
    with pytest.raises(ConfigError, match=r"swarm\.beat_s=9.0 < suspect_s=3.0"):
        SwarmSpec(beat_s=9.0)


def test_bytes_of_another_version_or_with_a_broken_rule_are_explained() -> None:
    known = spec_bytes(RunSpec())
    assert spec_from_bytes(known) == RunSpec()
    for changed, words in [
        (known.replace(b'"rounds":50', b'"rounds":0'), r"outer\.rounds=0 must be"),
        (known.replace(b'"rounds":50', b'"laps":50'), "another version.*laps"),
        (known[:-9], "damaged"),
        (b"\xff", "damaged"),
    ]:
        with pytest.raises(ConfigError, match=words):
            spec_from_bytes(changed)


def test_every_setting_is_explained() -> None:
    tree = ast.parse(inspect.getsource(module))
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name.endswith("Spec")]
    assert len(classes) == 9
    bare = []
    for each in classes:
        for field, after in zip(each.body, [*each.body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign) or "ClassVar" in ast.unparse(field.annotation):
                continue
            text = after.value if isinstance(after, ast.Expr) else None
            if not (isinstance(text, ast.Constant) and isinstance(text.value, str)):
                bare.append(f"{each.name}.{ast.unparse(field.target)}")
    assert bare == []


def test_an_override_below_a_value_is_explained() -> None:
    assert "is a value, not a section" in mistake("name=x", "name.deeper=1")


def test_a_section_that_is_a_value_is_explained() -> None:
    with pytest.raises(ConfigError, match="outer"):
        from_table({"outer": 3})


def test_files_that_cannot_be_read_are_explained(tmp_path: Path) -> None:
    missing, binary, broken = tmp_path / "none", tmp_path / "bin", tmp_path / "broken"
    binary.write_bytes(b"\xff\xfe")
    broken.write_text("outer = [", encoding="utf-8")
    for path, words in [(missing, "cannot read"), (binary, "not UTF-8"), (broken, "valid TOML")]:
        with pytest.raises(ConfigError, match=words):
            load_spec(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_json(missing)
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_json(broken)


def test_derived_sizes_follow_the_settings() -> None:
    spec = from_table({}, ["outer.inner_steps=30", "outer.fragments=4"])
    assert spec.steps_per_round == 7.5
    assert spec.inner_batch_tokens == 8 * 128


def test_endpoints_are_host_and_port() -> None:
    check_endpoints(["0.0.0.0:7100", "[::1]:0", "example.org:65535"])
    for wrong in ("7100", "host:", ":1", "host:65536", "host:x"):
        with pytest.raises(ConfigError, match=r"must be HOST:PORT.*for example"):
            check_endpoints([wrong])
