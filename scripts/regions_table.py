"""Writes src/farflung/regions.tsv, the fixed list of regions, and the licence of its source.

    pip install airportsdata && python scripts/regions_table.py

The source is the package `airportsdata`. The main airport of each large city comes first:
farflung.regions takes the first that fits.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import airportsdata

TABLE = Path(__file__).parents[1] / "src" / "farflung" / "regions.tsv"
LICENCE = TABLE.with_name("regions.license.txt")
HEADER = """\
# Airports with IATA code and city: code, city, division, country (ISO 3166), latitude, longitude.
# From airportsdata {version} by scripts/regions_table.py; licence in regions.license.txt.
"""
OTHERS = "# others\n"
"""Between the main airports and the rest."""
MAIN = """
LHR CDG AMS FRA MUC BER HAM DUS STR ZRH GVA VIE BRU LUX MAD BCN LIS OPO MXP FCO ATH IST ANK DUB EDI
MAN CPH OSL ARN GOT HEL KEF TLL RIX VNO WAW KRK PRG BUD OTP SOF BEG ZAG LJU KBP SVO LED TLV DXB AUH
DOH RUH KWI BAH AMM BEY CAI CMN TUN ALG LOS ACC NBO ADD DAR JNB CPT DSS KGL EBB DEL BOM BLR MAA HYD
CCU CMB DAC KHI ISB LHE KTM BKK SIN KUL CGK MNL SGN HAN HKG TPE ICN HND KIX NGO CTS FUK PEK PVG CAN
SZX CTU HGH XIY WUH TAS ALA SYD MEL BNE PER ADL CBR AKL WLG CHC HNL ANC JFK BOS PHL IAD ATL MIA MCO
TPA CLT ORD DTW MSP STL MCI DFW IAH AUS SAT PDX DEN SLC PHX LAS LAX SFO SJC SAN SEA PIT CLE CVG BNA
RDU YYZ YUL YVR YYC YOW YQB MEX GDL MTY PTY SJO HAV SJU BOG MDE UIO GUY LIM SCL EZE MVD ASU GRU GIG
BSB
"""


def main() -> None:
    airports = airportsdata.load("IATA")
    places = [a for a in airports.values() if a["city"]]
    rank = {code: i for i, code in enumerate(MAIN.split())}
    places.sort(key=lambda a: (rank.get(a["iata"], len(rank)), a["iata"]))
    lines = [
        f"{a['iata']}\t{a['city']}\t{a['subd']}\t{a['country']}\t{a['lat']:.2f}\t{a['lon']:.2f}\n"
        for a in places
    ]
    lines.insert(sum(a["iata"] in rank for a in places), OTHERS)
    TABLE.write_text(HEADER.format(version=airportsdata.__version__) + "".join(lines), "utf-8")
    licence = next(
        file for file in importlib.metadata.files("airportsdata") or () if file.name == "LICENSE"
    )
    LICENCE.write_text(licence.read_text(), "utf-8")
    print(f"{len(lines) - 1} regions, {TABLE.stat().st_size:,} bytes in {TABLE}")


if __name__ == "__main__":
    main()
