"""Regions are of a fixed list; whoever mistypes one is told which there are."""

from __future__ import annotations

import pytest

from farflung import regions
from farflung.errors import UserError


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("FRA", "FRA"),
        (" fra ", "FRA"),
        ("Frankfurt", "FRA"),
        ("frankfurt am main", "FRA"),
        ("Zürich", "ZRH"),
        ("Sao Paulo", "GRU"),
        ("são paulo", "GRU"),
        ("London", "LHR"),
        ("London, CA", "YXU"),
        ("London, Ontario", "YXU"),
        ("Portland", "PDX"),
        ("Portland, Maine", "PWM"),
        ("New York", "JFK"),
        ("Birmingham, GB", "BHX"),
    ],
)
def test_a_city_or_a_code_names_a_region(words: str, code: str) -> None:
    assert regions.resolve(words) == code


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("Franfurt", r"region 'Franfurt' is not in the list; .* did you mean FRA \(Frankfurt"),
        ("Birmingham", r"is ambiguous: BHM \(Birmingham, Alabama, US\), BHX .* the country after"),
        ("Springfield, US", r"is ambiguous: .*; give its code$"),
        ("Paris, DE", "is not in the list"),
        ("", "is not in the list; give a city or the IATA code"),
        (",", "is not in the list"),
        ("\u202e<script>", "is not in the list"),
        ("x" * 100_000, "is not in the list"),
    ],
)
def test_a_mistake_gets_one_sentence(words: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        regions.resolve(words)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("code", ["", "fra", "FR", "FRAN", "FR\n", "###", "\tAA", "ZZZ", "ÄÖÜ"])
def test_only_codes_of_the_list_are_known(code: str) -> None:
    assert not regions.known(code) and regions.region(code) is None


def test_every_line_of_the_table_is_a_place_that_its_code_finds() -> None:
    lines = [line for line in regions.table().splitlines() if not line.startswith("#")]
    codes = [line.split("\t")[0] for line in lines]
    assert len(set(codes)) == len(codes) > 7000
    for line in lines[::97]:
        place = regions.region(line.split("\t")[0])
        assert place is not None and place.city and len(place.country) == 2
        assert -90 <= place.lat <= 90 and -180 <= place.lon <= 180
    frankfurt = regions.region("FRA")
    assert frankfurt is not None
    assert (frankfurt.city, frankfurt.country) == ("Frankfurt am Main", "DE")
    assert (round(frankfurt.lat), round(frankfurt.lon)) == (50, 9)
