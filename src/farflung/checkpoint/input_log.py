"""With `record = "all"`: the contributions that this node reduced, for `verify`.

One file per slice and contributor, `inputs/<round>-<term>-<attempt>/<slice>-<node>`: attempts are
counted anew in each term, over other slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from farflung.disk import Disk

FOLDER = "inputs"


class InputLog:
    """Inputs of one node by round."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._bytes: dict[str, int] = {}
        """By folder of one attempt."""
        for name in disk.folders(FOLDER):
            folder = f"{FOLDER}/{name}"
            sizes = (disk.size(f"{folder}/{n}") or 0 for n in disk.names(folder))
            self._bytes[name] = sum(sizes)

    @property
    def n_bytes(self) -> int:
        return sum(self._bytes.values())

    def expect(self, name: str) -> None:
        """Files of this attempt are about to be written: from now on they go with its round."""
        self._bytes.setdefault(name, 0)

    def write(
        self, name: str, index: int, inputs: Mapping[str, Sequence[bytes | memoryview]]
    ) -> int:
        """What was reduced for one slice of an attempt: chunks by contributor; bytes written.

        In the pool; touches no table. Raises StorageError.
        """
        written = 0
        for node, chunks in inputs.items():
            data = b"".join(chunks)
            self._disk.replace(input_path(name, index, node), data)
            written += len(data)
        return written

    def wrote(self, name: str, n_bytes: int) -> None:
        """The files are there; an attempt that was dropped meanwhile takes them along."""
        if name in self._bytes:
            self._bytes[name] += n_bytes
        else:
            self._disk.remove_folder(f"{FOLDER}/{name}")

    def rounds(self) -> list[int]:
        return sorted({_round(name) for name in self._bytes})

    def resolved(self, round_: int, committed: tuple[int, int] | None) -> None:
        """Drop the attempts of a round that were not committed; (term, attempt) was."""
        keep = None if committed is None else attempt_name(round_, *committed)
        self._drop([n for n in self._bytes if _round(n) == round_ and n != keep])

    def trim(self, floor: int) -> None:
        """Forget rounds below `floor`."""
        self._drop([n for n in self._bytes if _round(n) < floor])

    def _drop(self, names: list[str]) -> None:
        for name in names:
            self._disk.remove_folder(f"{FOLDER}/{name}")
            del self._bytes[name]


def attempt_name(round_: int, term: int, attempt: int) -> str:
    return f"{round_}-{term}-{attempt}"


def input_path(name: str, index: int, node: str) -> str:
    return f"{FOLDER}/{name}/{index}-{node}"


def _round(name: str) -> int:
    head = name.partition("-")[0]
    return int(head) if head.isdigit() else -1
