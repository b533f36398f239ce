"""Who may connect."""

from __future__ import annotations

import pytest

from farflung.window.connections import Census


def test_one_address_may_have_so_many_and_this_machine_any_number() -> None:
    census = Census(most=100, most_each=2)
    for _ in range(2):
        assert census.refusal("192.0.2.1") == ""
        census.enter("192.0.2.1")
    assert "2 connections from 192.0.2.1 are open" in census.refusal("192.0.2.1")
    assert census.refusal("192.0.2.2") == ""
    for local in ("127.0.0.1", "127.9.9.9", "::1"):
        for _ in range(5):
            assert census.refusal(local) == ""
            census.enter(local)
    census.leave("192.0.2.1")
    assert census.refusal("192.0.2.1") == ""
    assert census.open == 16


@pytest.mark.parametrize("address", ["?", "fe80::1%eth0", "not an address"])
def test_a_strange_address_counts_like_any_other(address: str) -> None:
    census = Census(most=10, most_each=1)
    census.enter(address)
    assert "close one" in census.refusal(address)
    census.leave(address)
    assert census.refusal(address) == "" and census.open == 0
