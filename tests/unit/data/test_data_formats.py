"""Claims about reading files: every kind, compression and encoding gives the same documents."""

from __future__ import annotations

import gzip
import json
import random
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from data_files import COMPRESS, ENCODINGS, TEXTUAL, csv_text, encoded, json_lines, parquet_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from farflung.data.byte_streams import CHUNK, RawFile, Unreadable, decoded, decompressed, lines
from farflung.data.formats import find_files, format_of
from farflung.data.reading import FileList, HfSplit, ReadBatch, ReadEnd, Reading, ReadNote, read
from farflung.data.records import BadRecords, FileDocuments, in_parts, json_values
from farflung.errors import ConfigError

TEXTS = [
    "First document.\nIts second line, “naïve” 🦉.\n",
    'a "quoted", cell\n\nand a blank line\n',
    "中文没有空格\n",
    "last\n",
]


def texts_of(path: Path, field: str = "text", skip: bool = False) -> list[str]:
    """What is read, the parts of a document joined."""
    found, more = list[str](), False
    bad = BadRecords(skip=skip, say=lambda _: None)
    for document in FileDocuments([path], field, bad):
        if more:
            found[-1] += document.text
        else:
            found.append(document.text)
        more = document.more
    assert not more
    return found


def refusal(path: Path, field: str = "text") -> str:
    with pytest.raises(ConfigError) as error:
        texts_of(path, field)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("ending", TEXTUAL)
def test_a_text_file_gives_the_same_documents_however_it_is_written(
    ending: str, compression: str, encoding: str, newline: str, tmp_path: Path
) -> None:
    for shown in (str.lower, str.upper):
        path = tmp_path / shown(f"docs{ending}{compression}")
        content = encoded(TEXTUAL[ending](TEXTS), ENCODINGS[encoding], newline)
        path.write_bytes(COMPRESS[compression](content))
        expected = TEXTS if ending not in (".txt", ".md") else ["".join(TEXTS)]
        assert texts_of(path) == expected


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_parquet_file_gives_the_same_documents(compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"docs.parquet{compression}"
    path.write_bytes(COMPRESS[compression](parquet_bytes(TEXTS)))
    assert texts_of(path) == TEXTS


def test_marks_and_line_breaks_inside_of_records_are_those_of_plain_text(tmp_path: Path) -> None:
    given_ = ["\ufeffone\r\ntwo\r\n", "lone \r stays\n"]
    for name, content in (
        ("a.jsonl", json_lines(given_).encode()),
        ("a.csv", csv_text(given_).encode()),
        ("a.parquet", parquet_bytes(given_)),
        ("a.json", json.dumps([{"text": t} for t in given_]).encode()),
    ):
        (tmp_path / name).write_bytes(content)
        assert texts_of(tmp_path / name) == ["one\ntwo\n", "lone \r stays\n"], name


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_any_field_may_hold_the_text(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    made: dict[str, Any] = {
        "jsonl": json_lines(TEXTS, "my field").encode(),
        "json": json.dumps([{"my field": t} for t in TEXTS]).encode(),
        "csv": csv_text(TEXTS, "my field").encode(),
        "parquet": parquet_bytes(TEXTS, "my field"),
    }
    path.write_bytes(made[kind])
    assert texts_of(path, "my field") == TEXTS
    said = refusal(path)
    assert "'text'" in said
    if kind in ("csv", "parquet"):
        assert "'my field'" in said and "--text-field" in said


def test_json_objects_one_after_the_other_are_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"text": "one"}\n{"text":\n "two"}{"text": "three"}')
    assert texts_of(path) == ["one", "two", "three"]


@pytest.mark.parametrize("compression", [c for c in COMPRESS if c])
def test_streams_one_after_the_other_are_one_file(compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.txt{compression}"
    pack = COMPRESS[compression]
    path.write_bytes(pack(b"one\n") + pack(b"") + pack(b"two\n"))
    assert texts_of(path) == ["one\ntwo\n"]


@pytest.mark.parametrize("compression", [c for c in COMPRESS if c])
def test_a_damaged_or_cut_stream_is_named(compression: str, tmp_path: Path) -> None:
    whole = COMPRESS[compression](json_lines([f"document {i}" for i in range(4000)]).encode())
    path = tmp_path / f"a.jsonl{compression}"
    path.write_bytes(whole[: len(whole) // 2])
    assert "too early" in refusal(path)
    path.write_bytes(b"no such stream at all, but long enough to be judged")
    assert f"no {compression[1:]} file" in refusal(path)
    path.write_bytes(b"")
    assert "too early" in refusal(path)
    path.write_bytes(whole + b"rubbish after the end of it all")
    assert "damaged" in refusal(path)
    kept = texts_of(path, skip=True)
    assert kept[0] == "document 0"  # what came before the damage


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
def test_a_small_file_that_unpacks_to_much_comes_in_pieces(
    compression: str, tmp_path: Path
) -> None:
    path = tmp_path / f"zeros.txt{compression}"
    path.write_bytes(COMPRESS[compression](bytes(100 << 20)))
    raw = RawFile(path)
    form = format_of(path.name)
    assert form is not None
    sizes = [len(c) for c in decompressed(raw, form.compression)]
    raw.close()
    assert sum(sizes) == 100 << 20
    assert max(sizes) <= (CHUNK if compression != ".zst" else 20 << 20)


def test_text_columns_of_parquet_may_be_of_any_text_type(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.array([*TEXTS, TEXTS[0]])
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        parquet.write_table(pa.table({"text": texts.cast(kind)}), path)
        assert texts_of(path) == [*TEXTS, TEXTS[0]]
    parquet.write_table(pa.table({"text": pa.array([1, 2])}), path)
    assert "type int64, not of text" in refusal(path)


def test_a_damaged_page_of_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rng = random.Random(0)
    texts = [rng.randbytes(3000).hex() for _ in range(2000)]
    parquet.write_table(pa.table({"text": texts}), path, row_group_size=500)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = rng.randbytes(4000)
    path.write_bytes(content)
    assert "damaged" in refusal(path)
    kept = texts_of(path, skip=True)
    assert kept == texts[: len(kept)]
    assert 0 < len(kept) < len(texts)


# ---- bad records ---------------------------------------------------------------------------

BAD: list[tuple[str, bytes, str, list[str]]] = [
    ("a.jsonl", b'{"text": "one"}\n{"no": 1}\n{"text": "two"}\n', "line 2", ["one", "two"]),
    ("a.jsonl", b'{"text": "one"}\n\n{"text": 5}\n{"text": "two"}', "line 3", ["one", "two"]),
    ("a.jsonl", b'{"text": "one"}\n{"text": "\\ud800"}\n', "line 2", ["one"]),
    ("a.jsonl", b'{"text": "one"}\n{"text": "\xff"}\n{"text": "t"}\n', "line 2", ["one", "t"]),
    ("a.jsonl", b'[1]\n{"text": "two"}\n', "line 1", ["two"]),
    ("a.json", b'[{"text": "one"}, {"text": null}, {"text": "two"}]', "record 2", ["one", "two"]),
    ("a.json", b'[{"text": "one"}, {"text": "\\ud800"}]', "record 2", ["one"]),
    ("a.json", b'[{"text": "one"}, {"text" oh}]', "record 2", ["one"]),
    ("a.json", b'[{"text": "one"}, {"text": "tw', "record 2", ["one"]),
    ("a.json", b'[{"text": "one"}', "too early", ["one"]),
    ("a.json", b"5", "record 1", []),
    ("a.csv", b"id,text\n1,one\n2\n3,two\n", "line 3", ["one", "two"]),
    ("a.csv", b"id,text\n1,one\n2,\xff\n3,two\n", "line 3", ["one", "two"]),
    ("a.csv", b'id,text\n1,one\n2,"never closed\n', "line 3", ["one"]),
    ("a.csv", b"id,no\n1,one\n", "no column 'text'", []),
    ("a.parquet", parquet_bytes(["one", None, "two"]), "row 2", ["one", "two"]),
    ("a.parquet", b"PAR1 nothing of it", "no parquet file", []),
    ("a.txt", b"good text, then \xff", "not UTF-8 text (byte 16)", []),
    ("a.txt", b"\xef\xbb\xbfgood\xff", "not UTF-8 text", []),
    ("a.txt", b"\xff\xfea\x00b", "UTF-16-LE", []),
    ("a.txt", "no mark".encode("utf-16-le"), "NUL bytes", []),
    ("a.jsonl", json_lines(["no mark"]).encode("utf-16-le"), "NUL bytes", []),
]


@pytest.mark.parametrize(("name", "content", "place", "kept"), BAD)
def test_the_first_bad_record_is_named_or_all_are_counted(
    name: str, content: bytes, place: str, kept: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert place in refusal(path)
    notes: list[str] = []
    bad = BadRecords(skip=True, say=notes.append)
    assert [d.text for d in FileDocuments([path], "text", bad)] == kept
    assert bad.counts == {str(path): 1}
    assert len(notes) == 1 and place in notes[0] and name in notes[0]


def test_many_bad_records_are_counted_and_some_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("oh\n" * 500 + '{"text": "good"}\n')
    given_ = Reading(inputs=[FileList([str(path)])], skip_bad=True, held_out_fraction=0)
    events = list(read(given_))
    assert sum(isinstance(e, ReadNote) for e in events) == 10
    assert events[-1] == ReadEnd({str(path): 500})
    assert sum(isinstance(e, ReadBatch) for e in events) == 1


# ---- one huge line --------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    text=st.binary(max_size=60).map(lambda b: bytes(c if c % 3 else 10 for c in b)),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    limit=st.integers(0, 20),
)
def test_lines_are_those_of_the_text_up_to_the_limit(
    text: bytes, sizes: list[int], limit: int
) -> None:
    chunks = _chunks(text, sizes)
    expected = text.split(b"\n")
    if not expected[-1]:
        expected.pop()
    wanted = [(n, t if len(t) <= limit else None) for n, t in enumerate(expected, 1)]
    assert list(lines(chunks, limit)) == wanted


def _chunks(text: Any, sizes: list[int]) -> list[Any]:
    chunks, at = [], 0
    while at < len(text):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(text[at : at + size])
        at += size
    return chunks


def peak_mb(work: Any) -> float:
    tracemalloc.start()
    for _ in work:
        pass
    peak = tracemalloc.get_traced_memory()[1] / (1 << 20)
    tracemalloc.stop()
    return float(peak)


def test_a_line_of_200_mb_needs_a_few_mb() -> None:
    block = b"x" * (1 << 20)
    assert peak_mb(lines((block for _ in range(200)), 2 << 20)) < 8
    assert peak_mb(in_parts("a", decoded(block for _ in range(200)))) < 8
    text = "x" * (1 << 20)
    with pytest.raises(Unreadable, match="longer than a record"):
        list(json_values(iter(["[", '{"text": "', *[text] * 20]), 4 << 20))


def test_a_record_beyond_the_limit_is_named_and_may_be_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("farflung.data.records.RECORD_BYTES", 2000)
    long = "x" * 5000
    for name, content, kept in (
        ("a.jsonl", json_lines(["one", long, "two"]).encode(), ["one", "two"]),
        ("a.csv", csv_text(["one", long, "two"]).encode(), ["one", "two"]),
        ("a.parquet", parquet_bytes(["one", long, "two"]), ["one", "two"]),
        ("a.json", json.dumps([{"text": "one"}, {"text": long}]).encode(), ["one"]),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        assert "long" in refusal(path), name
        assert texts_of(path, skip=True) == kept, name
    path = tmp_path / "a.txt"
    path.write_text(long)
    assert texts_of(path) == [long]


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(alphabet="a\r\n\ufeff", max_size=30),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
)
def test_parts_of_a_text_join_to_it(text: str, sizes: list[int]) -> None:
    parts = list(in_parts("a", _chunks(text, sizes)))
    assert "".join(p.text for p in parts) == text.replace("\r\n", "\n")
    assert [p.more for p in parts] == [True] * (len(parts) - 1) + [False] * bool(parts)
    assert all(p.text for p in parts)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(
        st.recursive(st.none() | st.text(max_size=5) | st.integers(), st.lists, max_leaves=4),
        max_size=6,
    ),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    indent=st.sampled_from([None, 1]),
)
def test_elements_of_an_array_come_one_by_one(
    values: list[Any], sizes: list[int], indent: int | None
) -> None:
    records = [{"text": v} for v in values]
    text = json.dumps(records, indent=indent)
    assert list(json_values(iter(_chunks(text, sizes)), 1 << 20)) == records
    apart = "\n".join(json.dumps(r, indent=indent) for r in records)
    assert list(json_values(iter(_chunks(apart, sizes)), 1 << 20)) == records


# ---- folders --------------------------------------------------------------------------------


def test_every_file_of_a_folder_is_read_or_passed_over_with_a_word(tmp_path: Path) -> None:
    for name in ("b/deep/x.TXT", "a.jsonl.gz", "c.bin", "d.tar.gz", ".hidden", ".git/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    prepared = tmp_path / "old"
    prepared.mkdir()
    (prepared / "manifest.json").write_text('{"seq_len": 8, "eos": 1, "train": []}')
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.txt").write_text("x")
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    (tmp_path / "link.txt").symlink_to(tmp_path / "b/deep/x.TXT")
    (tmp_path / "broken.txt").symlink_to(tmp_path / "gone")
    said: list[str] = []
    found = find_files([tmp_path], said.append, out=tmp_path / "out")
    assert [str(p.relative_to(tmp_path)) for p in found] == [
        "a.jsonl.gz",
        "b/deep/x.TXT",
        "link.txt",
    ]
    passed = [".git", ".hidden", "broken.txt", "c.bin", "d.tar.gz", "linked", "old", "out"]
    for name, line in zip(passed, said[:-1], strict=True):
        assert line.startswith(f"passed over {tmp_path / name}: ")
    assert said[-1] == "8 passed over, 3 to read"


def test_a_named_file_of_another_ending_is_text_or_refused(tmp_path: Path) -> None:
    for name in ("README", "notes.log", "plain.gz"):
        (tmp_path / name).write_bytes(gzip.compress(b"text") if name[-1] == "z" else b"text")
        assert find_files([tmp_path / name], print) == [tmp_path / name]
        assert texts_of(tmp_path / name) == ["text"]
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(ConfigError, match=r"a\.tar\.gz is of no kind"):
        find_files([tmp_path / "a.tar.gz"], print)
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04\x00\x00")
    assert "NUL bytes" in refusal(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("package", "extra", "name"),
    [
        ("zstandard", "data", "a.txt.zst"),
        ("pyarrow", "data", "a.parquet"),
        ("datasets", "hf", ""),
    ],
)
def test_a_missing_extra_is_one_sentence_with_its_command(
    package: str, extra: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "a.txt.zst").write_bytes(b"x")
    (tmp_path / "a.parquet").write_bytes(b"x")
    given_ = FileList([str(tmp_path / name)]) if name else HfSplit("x/y", None, "train")
    with pytest.raises(ConfigError) as error:
        list(read(Reading(inputs=[given_], skip_bad=True)))
    assert str(error.value).endswith(f"needs {package}: pip install 'farflung[{extra}]'")
