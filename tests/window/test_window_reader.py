"""What the reader keeps of its answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving import served, serving
from synthetic import Options, write_folder


def test_kept_answers_are_bounded_and_the_newest_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farflung.window.reader.MOST_KEPT", 100_000)
    write_folder(Options(peers=3, rounds=30), tmp_path)

    async def story() -> None:
        async with serving(tmp_path) as window:
            for points in range(1, 60):
                await window.json(f"api/v1/rounds?points={points}")
                reader = window.reader
                held = sum(kept.bytes for kept in reader._kept.values())
                assert held == reader._kept_bytes <= 100_000
            assert "api/v1/rounds 0 None 59" in reader._kept
            assert 1 < len(reader._kept) < 59

    served(story)


def test_a_thousand_names_that_nobody_has_take_no_memory(tmp_path: Path) -> None:
    write_folder(Options(peers=2, rounds=2), tmp_path)

    async def story() -> None:
        async with serving(tmp_path) as window:
            for node in ("x" * 4000, "..", "%00", "ABC", "0" * 65):
                assert (await window.get(f"api/v1/peers/{node}"))[0] == 404
            assert not any("peers/" in key for key in window.reader._kept)

    served(story)
