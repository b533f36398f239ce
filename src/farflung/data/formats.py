"""What a file is by its name, and the files of a folder, those passed over included."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from farflung.data.manifest import MANIFEST_FILE
from farflung.errors import ConfigError

Content = Literal["text", "json lines", "json", "csv", "parquet"]
Compression = Literal["", "gz", "zst", "bz2", "xz"]

CONTENTS: dict[str, Content] = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "json lines",
    ".ndjson": "json lines",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}
COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst", ".bz2": "bz2", ".xz": "xz"}
ALL_ENDINGS = f"{', '.join(CONTENTS)}, each plain or with {', '.join(COMPRESSIONS)}"

Say = Callable[[str], None]


class FileFormat(NamedTuple):
    content: Content
    compression: Compression


def format_of(name: str) -> FileFormat | None:
    """By the endings of a name, in any case; None for another kind of file."""
    rest, compression = Path(name.lower()), COMPRESSIONS.get(Path(name.lower()).suffix, "")
    content = CONTENTS.get(rest.with_suffix("").suffix if compression else rest.suffix)
    return FileFormat(content, compression) if content else None


def named_format(path: Path) -> FileFormat:
    """Of a file that was named: any other ending is plain text, if it looks like text."""
    found = format_of(path.name)
    if found is not None:
        return found
    compression = COMPRESSIONS.get(path.suffix.lower(), "")
    if compression and Path(path.stem).suffix:
        raise ConfigError(f"{path} is of no kind that is read: {ALL_ENDINGS}; unpack it first")
    return FileFormat("text", compression)


def find_files(inputs: list[Path], say: Say, *, out: Path | None = None) -> list[Path]:
    """Files in a fixed order; of a folder those whose kind is known, others are said.

    Folders that hold prepared data, and `out`, are passed over as a whole. Raises ConfigError for
    a missing path or when nothing is found.
    """
    found: list[Path] = []
    passed = 0
    for path in inputs:
        if path.is_dir():
            for name, reason in _inside(path, out):
                if reason:
                    passed += 1
                    say(f"passed over {name}: {reason}")
                else:
                    found.append(name)
        elif path.is_file():
            named_format(path)
            found.append(path)
        elif path.exists():
            raise ConfigError(f"{path} is neither a file nor a folder; give one")
        else:
            raise ConfigError(f"there is no file or folder {path}; check the name")
    if passed:
        say(f"{passed:,} passed over, {len(found):,} to read")
    if not found:
        where = ", ".join(map(str, inputs))
        raise ConfigError(f"no file to read in {where}; kinds that are read: {ALL_ENDINGS}")
    return found


def _inside(folder: Path, out: Path | None) -> Iterator[tuple[Path, str]]:
    """(file or folder, why it is passed over: empty when it is read), sorted by path."""
    found: list[tuple[Path, str]] = []
    for root, folders, files in os.walk(folder):
        here = Path(root)
        for name in list(folders):
            reason = _folder_reason(here / name, out)
            if reason:
                folders.remove(name)
                found.append((here / name, reason))
        found += [(here / n, _file_reason(here / n)) for n in files]
    return iter(sorted(found))


def _folder_reason(folder: Path, out: Path | None) -> str:
    if folder.name.startswith("."):
        return "a hidden folder"
    if out is not None and folder.resolve() == out.resolve():
        return "what is written here"
    if folder.is_symlink():
        return "a link to a folder; name it to read it"
    if is_prepared(folder):
        return "prepared data"
    return ""


def _file_reason(path: Path) -> str:
    if path.name.startswith("."):
        return "a hidden file"
    if not path.is_file():
        return "a broken link or no regular file"
    return "" if format_of(path.name) else "no kind of file that is read"


def is_prepared(folder: Path) -> bool:
    """Whether `farflung data prepare` has finished in this folder."""
    try:
        tree = msgspec.json.decode((folder / MANIFEST_FILE).read_bytes())
    except (OSError, msgspec.DecodeError):
        return False
    return isinstance(tree, dict) and {"seq_len", "eos", "train"} <= tree.keys()
