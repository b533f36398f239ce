"""From the inputs of a command to batches of text, in one stream that is always the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from farflung.data.batches import TextBatch, batches
from farflung.data.formats import Say, find_files
from farflung.data.hf_dataset import PREFIX, hf_documents
from farflung.data.records import BadRecords, FileDocuments
from farflung.data.split import Document, split


class HfSplit(msgspec.Struct, frozen=True, tag="hf"):
    name: str
    config: str | None
    split: str


class FileList(msgspec.Struct, frozen=True, tag="files"):
    paths: list[str]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What is read, and how."""

    inputs: list[FileList | HfSplit]
    text_field: str = "text"
    skip_bad: bool = False
    held_out_fraction: float = 0.02

    @property
    def paths(self) -> list[Path]:
        return [Path(p) for i in self.inputs if isinstance(i, FileList) for p in i.paths]

    @property
    def total_bytes(self) -> int | None:
        """Of all files on disk; None when a dataset is among the inputs."""
        if any(isinstance(i, HfSplit) for i in self.inputs):
            return None
        return sum(p.stat().st_size for p in self.paths)

    @property
    def provenance(self) -> str:
        """The first names."""
        hubs = [f"{PREFIX}{i.name}" for i in self.inputs if isinstance(i, HfSplit)]
        names = [*(p.name for p in self.paths), *hubs]
        return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


class ReadBatch(msgspec.Struct, frozen=True, tag="batch"):
    batch: TextBatch
    read_bytes: int
    """Of the files on disk, so far."""


class ReadNote(msgspec.Struct, frozen=True, tag="note"):
    text: str


class ReadEnd(msgspec.Struct, frozen=True, tag="end"):
    bad: dict[str, int]
    """Records that were left out, per file."""


ReadEvent = ReadBatch | ReadNote | ReadEnd


def inputs_of(
    names: list[str], say: Say, *, out: Path, hf_config: str | None, hf_split: str
) -> list[FileList | HfSplit]:
    """Folders become their files, `hf:NAME` a dataset. Raises ConfigError."""
    found: list[FileList | HfSplit] = []
    for name in names:
        if name.startswith(PREFIX):
            found.append(HfSplit(name.removeprefix(PREFIX), hf_config, hf_split))
        else:
            paths = find_files([Path(name)], say, out=out)
            found.append(FileList([str(p) for p in paths]))
    return found


class _Inputs:
    """The documents of all inputs, and how far they were read."""

    def __init__(self, reading: Reading, bad: BadRecords) -> None:
        self._reading = reading
        self._bad = bad
        self._files: FileDocuments | None = None
        self._done = 0

    @property
    def read_bytes(self) -> int:
        return self._done + (self._files.read_bytes if self._files is not None else 0)

    def __iter__(self) -> Iterator[Document]:
        field = self._reading.text_field
        for given in self._reading.inputs:
            if isinstance(given, HfSplit):
                yield from hf_documents(given.name, given.config, given.split, field, self._bad)
            else:
                self._files = FileDocuments([Path(p) for p in given.paths], field, self._bad)
                yield from self._files
                self._done, self._files = self.read_bytes, None


def read(reading: Reading) -> Iterator[ReadEvent]:
    """Batches in order, notes as they come up, the end. Raises ConfigError."""
    notes: list[str] = []
    bad = BadRecords(skip=reading.skip_bad, say=notes.append)
    inputs = _Inputs(reading, bad)
    for batch in batches(split(inputs, reading.held_out_fraction)):
        yield from map(ReadNote, notes)
        notes.clear()
        yield ReadBatch(batch, inputs.read_bytes)
    yield from map(ReadNote, notes)
    yield ReadEnd(dict(bad.counts))
