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

    def store(
        self,
        round_: int,
        term: int,
        attempt: int,
        index: int,
        inputs: Mapping[str, Sequence[bytes | memoryview]],
    ) -> None:
        """What was reduced for one slice: chunks by contributor. Raises StorageError."""
        name = attempt_name(round_, term, attempt)
        for node, chunks in inputs.items():
            data = b"".join(chunks)
            self._disk.replace(input_path(round_, term, attempt, index, node), data)
            self._bytes[name] = self._bytes.get(name, 0) + len(data)

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


def input_path(round_: int, term: int, attempt: int, index: int, node: str) -> str:
    return f"{FOLDER}/{attempt_name(round_, term, attempt)}/{index}-{node}"


def _round(name: str) -> int:
    head = name.partition("-")[0]
    return int(head) if head.isdigit() else -1
