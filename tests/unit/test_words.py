"""Numbers as people say them."""

from __future__ import annotations

from farflung.words import counted


def test_one_is_not_many() -> None:
    assert counted(1, "peer") == "1 peer"
    assert counted(0, "peer") == "0 peers"
    assert counted(1200, "peer") == "1,200 peers"
    assert (counted(1, "copy", "copies"), counted(2, "copy", "copies")) == ("1 copy", "2 copies")
