"""Claims about packing, the data folder on disk, and what a stranger's manifest can do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from farflung.cli.data import app
from farflung.config.run import DataSpec
from farflung.data.ensure import shipped_folder
from farflung.data.manifest import DataManifest
from farflung.data.packing import Packer, bits_per_byte
from farflung.data.prepare import prepare
from farflung.data.shards import blobs, needed, open_rows
from farflung.data.split import Document, split
from farflung.data.tokenizer import ByteTokenizer, Encoded, load_tokenizer, tokenizer_from_bytes
from farflung.errors import ConfigError, CorruptState
from farflung.hashing import digest

GOLDEN = Path(__file__).parents[2] / "golden" / "data_manifest.json"
SMALL = [Document(f"d{i}", f"Line {i} of the naïve text.\n" * (i + 3)) for i in range(20)]


def _prepare(out: Path, seq_len: int = 32, **settings: Any) -> DataManifest:
    return prepare(SMALL, load_tokenizer("bpe-1024"), seq_len, out, **settings)


@settings(max_examples=50, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(1, 99), max_size=30), max_size=10),
    seq_len=st.integers(2, 12),
    chunk=st.integers(1, 4),
)
def test_every_token_but_the_first_is_a_target_once(
    documents: list[list[int]], seq_len: int, chunk: int
) -> None:
    packer = Packer(seq_len, eos=0)
    stream: list[int] = []
    rows: list[list[int]] = []
    sizes: list[int] = []
    for i, ids in enumerate(documents):
        array = np.array(ids, np.int64)
        packer.add(Encoded(array, array % 5))
        stream += [*ids, 0]
        if i % chunk == 0:
            tokens, n_bytes = packer.take()
            rows += tokens.tolist()
            sizes += n_bytes.tolist()
    tokens, n_bytes = packer.take()
    rows += tokens.tolist()
    sizes += n_bytes.tolist()
    count = max(0, len(stream) - 1) // seq_len
    assert rows == [stream[i * seq_len : i * seq_len + seq_len + 1] for i in range(count)]
    assert sizes == [sum(t % 5 for t in row[1:]) for row in rows]
    assert packer.tokens == len(stream)


def test_bits_per_byte_of_a_uniform_guess_over_bytes_is_eight() -> None:
    assert bits_per_byte(10 * np.log(256), 10) == pytest.approx(8.0)
    assert np.isnan(bits_per_byte(1.0, 0))


def test_a_folder_reads_back_as_the_packed_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("bpe-1024")
    _prepare(tmp_path / "data", held_out_fraction=0.1)
    rows = open_rows(tmp_path / "data")
    for held_out, table in ((False, rows.train), (True, rows.held_out)):
        packer = Packer(32, tokenizer.eos)
        for piece in split(SMALL, 0.1):
            if piece.held_out == held_out:
                packer.add(tokenizer.encode_counted([piece.text])[0])
        tokens, n_bytes = packer.take()
        assert len(table) == len(tokens) > 0
        assert np.array_equal(table.gather(range(len(table))), tokens)
        assert [table.bytes_of(i) for i in range(len(table))] == n_bytes.tolist()
        assert table.text_bytes == n_bytes.sum()
        assert table[0].dtype == np.int64


def test_bytes_of_rows_are_the_bytes_of_their_text(tmp_path: Path) -> None:
    _prepare(tmp_path / "data")
    rows = open_rows(tmp_path / "data")
    tokenizer = tokenizer_from_bytes(rows.tokenizer)
    ascii_rows = 0
    for i in range(len(rows.train)):
        text = tokenizer.decode(rows.train[i][1:].tolist())
        if "�" not in text:
            assert rows.train.bytes_of(i) == len(text.encode())
            ascii_rows += 1
    assert ascii_rows > len(rows.train) // 2


def test_shards_do_not_change_the_rows(tmp_path: Path) -> None:
    one = _prepare(tmp_path / "one")
    many = _prepare(tmp_path / "many", shard_rows=7)
    assert len(many.train) == -(-one.train_rows // 7)
    a, b = open_rows(tmp_path / "one").train, open_rows(tmp_path / "many").train
    everything = range(len(a))
    assert np.array_equal(a.gather(everything), b.gather(everything))
    assert [a.bytes_of(i) for i in everything] == [b.bytes_of(i) for i in everything]
    assert np.array_equal(b.gather([9, 2]), np.stack([a[9], a[2]]))


def test_equal_input_gives_equal_bytes_and_the_golden_manifest(tmp_path: Path) -> None:
    _prepare(tmp_path / "a", shard_rows=40, provenance="golden test")
    _prepare(tmp_path / "b", shard_rows=40, provenance="golden test")
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "manifest.json").read_bytes() == GOLDEN.read_bytes()


def test_a_byte_folder_has_no_tokenizer_file(tmp_path: Path) -> None:
    manifest = prepare(SMALL, ByteTokenizer(), 16, tmp_path / "data")
    rows = open_rows(tmp_path / "data")
    assert manifest.tokenizer is None
    assert rows.tokenizer == b""
    assert not (tmp_path / "data" / "tokenizer.json").exists()


def test_large_vocabularies_are_stored_in_four_bytes(tmp_path: Path) -> None:
    class Wide(ByteTokenizer):
        vocab_size = 70_000
        eos = 69_999

    assert prepare(SMALL, Wide(), 16, tmp_path / "data").dtype == "uint32"
    rows = open_rows(tmp_path / "data").train
    assert rows.gather(range(len(rows))).max() == 69_999


def test_without_held_out_text_the_table_is_empty(tmp_path: Path) -> None:
    _prepare(tmp_path / "data", held_out_fraction=0)
    rows = open_rows(tmp_path / "data")
    assert len(rows.held_out) == 0
    with pytest.raises(IndexError, match="row 0"):
        rows.held_out[0]
    with pytest.raises(IndexError):
        rows.train[len(rows.train)]
    with pytest.raises(IndexError):
        rows.train[-1]


def test_damage_is_named_with_both_hashes(tmp_path: Path) -> None:
    manifest = _prepare(tmp_path)
    path = tmp_path / "train-00000.bin"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(CorruptState) as error:
        open_rows(tmp_path)
    assert manifest.train[0].tokens.hash in str(error.value)
    assert digest(path.read_bytes()).hex() in str(error.value)
    assert "train-00000.bin" in str(error.value)
    open_rows(tmp_path, verify=False)
    path.write_bytes(good[:-2])
    with pytest.raises(CorruptState, match="bytes, the manifest says"):
        open_rows(tmp_path, verify=False)
    path.unlink()
    with pytest.raises(CorruptState, match=r"train-00000\.bin"):
        open_rows(tmp_path)


def test_blobs_name_every_file_by_its_hash(tmp_path: Path) -> None:
    _prepare(tmp_path, shard_rows=10)
    served = blobs(tmp_path)
    assert {p.name for p in served.values()} == {p.name for p in tmp_path.iterdir()}
    assert all(digest(path.read_bytes()) == name for name, path in served.items())
    manifest = (tmp_path / "manifest.json").read_bytes()
    for name, expected, n_bytes in needed(manifest):
        assert served[expected] == tmp_path / name
        assert (tmp_path / name).stat().st_size == n_bytes


def _hostile(path: tuple[Any, ...], value: Any) -> Any:
    return pytest.param(path, value, id=f"{'.'.join(map(str, path))}={value!r:.24}")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        _hostile(("train", 0, "tokens", "file"), "../../etc/passwd"),
        _hostile(("train", 0, "tokens", "file"), "/etc/passwd"),
        _hostile(("train", 0, "tokens", "file"), "train-00000.bin\n"),
        _hostile(("train", 0, "tokens", "file"), "train-0.bin"),
        _hostile(("train", 0, "tokens", "file"), "manifest.json"),
        _hostile(("train", 0, "tokens", "file"), "heldout-00000.bin"),
        _hostile(("train", 0, "lengths", "file"), "train-00001.len"),
        _hostile(("tokenizer", "file"), "../tokenizer.json"),
        _hostile(("train", 0, "tokens", "hash"), "ABC"),
        _hostile(("train", 0, "tokens", "n_bytes"), 1 << 60),
        _hostile(("train", 0, "rows"), -1),
        _hostile(("train", 0, "rows"), 10**12),
        _hostile(("tokenizer", "n_bytes"), 0),
        _hostile(("seq_len",), 0),
        _hostile(("vocab",), 1 << 20),
        _hostile(("eos",), 5000),
        _hostile(("dtype",), "object"),
        _hostile(("version",), 3),
        _hostile(("chunk_rows",), 0),
        _hostile(("chunk_rows",), 1),
        _hostile(("train", 0, "chunks", "file"), "../train-00000.b3"),
        _hostile(("train", 0, "chunks", "n_bytes"), 64),
        _hostile(("surprise",), 1),
        _hostile(("train",), None),
    ],
)
def test_a_strangers_manifest_is_refused(path: tuple[Any, ...], value: Any) -> None:
    tree = msgspec.json.decode(GOLDEN.read_bytes())
    place = tree
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(CorruptState, match=r"the data manifest (is malformed|has version 3)"):
        needed(msgspec.json.encode(tree))


def test_a_file_listed_twice_is_refused() -> None:
    tree = msgspec.json.decode(GOLDEN.read_bytes())
    tree["train"].append(tree["train"][0])
    with pytest.raises(CorruptState, match="listed twice"):
        needed(msgspec.json.encode(tree))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xff", b"null"])
def test_garbage_is_no_manifest(data: bytes) -> None:
    with pytest.raises(CorruptState, match="malformed"):
        needed(data)


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="farflung data prepare"):
        open_rows(tmp_path)
    with pytest.raises(ConfigError, match="fewer than one row"):
        prepare([Document("d", "short")], ByteTokenizer(), 128, tmp_path / "a")
    with pytest.raises(ConfigError, match="--seq-len 1 must"):
        prepare(SMALL, ByteTokenizer(), 1, tmp_path / "b")
    with pytest.raises(ConfigError, match="shard_rows=0"):
        prepare(SMALL, ByteTokenizer(), 8, tmp_path / "c", shard_rows=0)
    _prepare(tmp_path / "d")
    with pytest.raises(ConfigError, match="already holds"):
        _prepare(tmp_path / "d")


def test_progress_counts_every_byte_of_text(tmp_path: Path) -> None:
    calls: list[int] = []
    _prepare(tmp_path, progress=calls.append)
    assert calls[-1] == sum(len(d.text.encode()) for d in SMALL)


def test_the_shipped_folder_is_made_once(tmp_path: Path) -> None:
    settings = DataSpec(tokenizer="bytes", seq_len=256)
    first = shipped_folder(settings, tmp_path)
    made_at = (first / "manifest.json").stat().st_mtime_ns
    assert shipped_folder(settings, tmp_path) == first
    assert (first / "manifest.json").stat().st_mtime_ns == made_at
    assert shipped_folder(DataSpec(tokenizer="bytes", seq_len=512), tmp_path) != first
    rows = open_rows(first)
    assert len(rows.train) > 20_000
    assert len(rows.held_out) > 400
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_reading_shards_imports_neither_torch_nor_tokenizers() -> None:
    modules = "farflung.data.shards, farflung.data.order, farflung.data.mixture"
    code = f"import sys, {modules}; print([m for m in ('torch', 'tokenizers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_prepares_files_folders_and_json_lines(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("A line of text.\n" * 200, encoding="utf-8")
    (folder / "other.bin").write_bytes(b"\xff")
    lines = tmp_path / "b.jsonl"
    lines.write_text('{"text": "Another.\\n", "id": 3}\n\n' * 100, encoding="utf-8")
    out = tmp_path / "out"
    arguments = ["prepare", str(tmp_path / "in"), str(lines), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--tokenizer", "bytes", "--seq-len", "16"])
    assert result.exit_code == 0, result.output
    rows = open_rows(out)
    assert rows.manifest.provenance == "a.txt, b.jsonl"
    assert f"{len(rows.train)} training rows" in result.output
    assert f"passed over {folder / 'other.bin'}" in result.output
    assert "1 passed over, 1 to read" in result.output
    text = b"".join(
        bytes(t for t in r[1:].tolist() if t < 256)
        for r in map(rows.train.__getitem__, range(len(rows.train)))
    )
    assert b"A line of text." in text
    assert b"Another." in text


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("bad.txt", b"\xff\xff", "not UTF-8"),
        ("bad.jsonl", b'{"text": "ok"}\n{"no": 1}\n', "line 2"),
        ("bad.jsonl", b"[1]\n", "line 1"),
        ("bad.jsonl", b'{"text": "\\ud800"}\n', "line 1"),
        ("bad.jsonl", b'{"text": "\xff"}\n', "line 1"),
    ],
)
def test_bad_input_names_file_and_place(
    name: str, content: bytes, rule: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    result = CliRunner().invoke(app, ["prepare", str(path), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, ConfigError)
    assert rule in str(result.exception)
    assert name in str(result.exception)


def test_missing_and_empty_inputs_are_refused(tmp_path: Path) -> None:
    for where, rule in ((tmp_path / "none", "no file or folder"), (tmp_path, "no file to read")):
        result = CliRunner().invoke(app, ["prepare", str(where), "--out", str(tmp_path / "out")])
        assert isinstance(result.exception, ConfigError)
        assert rule in str(result.exception)
