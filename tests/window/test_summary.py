"""The summary picture, and the land on it."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import pytest
from synthetic import Options, view_of

from farflung.monitor.view import View
from farflung.window.land import land
from farflung.window.summary import write_summary


def size_of(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_a_run_with_hostile_names_is_drawn_the_same_twice(tmp_path: Path) -> None:
    view = view_of(Options(peers=12, rounds=40, seed=2))
    frame = view.frame(view.newest or 0.0)
    for name in ("a.png", "b.png"):
        write_summary(frame, tmp_path / name, dark=True)
    assert size_of(tmp_path / "a.png") == (1760, 1100)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    write_summary(frame, tmp_path / "light.png")
    assert (tmp_path / "light.png").read_bytes() != (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize("map_shown", [True, False])
def test_a_run_without_anything_is_drawn_too(tmp_path: Path, map_shown: bool) -> None:
    write_summary(View(map_shown=map_shown).frame(0.0), tmp_path / "none.png")
    assert size_of(tmp_path / "none.png") == (1760, 1100)


def test_the_land_is_on_the_globe_and_no_ring_crosses_its_edge() -> None:
    rings = land()
    assert len(rings) > 100
    for ring in rings:
        lons = [lon for lon, _ in ring]
        assert min(lons) >= -180.01 and max(lons) <= 180.01
        assert all(-90.01 <= lat <= 90.01 for _, lat in ring)
        jumps = [abs(a - b) for a, b in itertools.pairwise(lons)]
        assert max(jumps) < 180
