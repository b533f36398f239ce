"""The screen of `farflung status`. Pure."""

from __future__ import annotations

from rich.cells import cell_len

from farflung.cli.screens import parts
from farflung.cli.screens.frame import Json
from farflung.cli.screens.line import ScreenLine, cropped, strung, strung_in
from farflung.cli.screens.numbers import percent
from farflung.cli.screens.peers_table import heading, laid, peer_row
from farflung.cli.screens.round_bars import doing
from farflung.cli.screens.terminal import Terminal
from farflung.cli.screens.text import fit, wrapped

MOST_TROUBLES = 5
MOST_SAMPLES = 2
PEERS = 20


def status_lines(
    frame: Json, terminal: Terminal, now: float, *, most_peers: int = PEERS
) -> list[ScreenLine]:
    """Everything of a run that a person should know, at the width of the terminal.

    `now`: unix seconds.
    """
    head, width = frame["head"], terminal.width
    blocks = [
        [parts.title(head, terminal), *_descent(head, terminal)],
        [*parts.standing(head, terminal, now), *_bar(head, width)],
        _facts(frame, terminal),
        _samples(frame, terminal),
        _peers(frame, width, most_peers),
        _troubles(frame, terminal, now),
    ]
    out: list[ScreenLine] = []
    for block in blocks:
        if block:
            out += [*([[("", "")]] if out else []), *block]
    return out


def _descent(head: Json, terminal: Terminal) -> list[ScreenLine]:
    if not head["descent"]:
        return []
    text = f"from {head['descent']}"
    return [[(line, "dim")] for line in wrapped(text, terminal.sentence_width, 2)]


def _bar(head: Json, width: int) -> list[ScreenLine]:
    line = parts.progress(head, width)
    return [line] if line else []


def _facts(frame: Json, terminal: Terminal) -> list[ScreenLine]:
    head, width = frame["head"], terminal.width
    room = width - parts.LABEL
    lost = [
        f"{head['abandoned']:,} abandoned" if head["abandoned"] else "",
        f"{head['rejected']:,} rejected" if head["rejected"] else "",
    ]
    rows: list[tuple[str, ScreenLine]] = [
        ("progress", strung_in([parts.rounds_text(head), parts.tokens_text(head), *lost], room)),
        ("speed", strung_in(parts.speed_parts(head), room)),
        ("loss", parts.loss_line(frame, room)),
        ("held out", strung_in(parts.held_out(frame), room)),
        ("traffic", strung_in(parts.traffic(head), room)),
        ("weights", strung(parts.agreement(head))),
        *(("data", line) for line in _sources(head, room)),
        ("archive", strung_in(_archive(head), room)),
        ("disk", [(fit(head["keeper_disk"], terminal.sentence_width - parts.LABEL), "")]),
    ]
    limit = terminal.sentence_width
    return [
        line
        for name, row in rows
        if any(text for text, _ in row)
        for line in parts.labelled(name, row, limit)
    ]


def _sources(head: Json, room: int) -> list[ScreenLine]:
    several = len(head["sources"]) > 1
    return [
        strung_in(
            [
                fit(source["name"], 24) if several else "",
                percent(source["share"]) if several else "",
                f"{source['samples']:,} samples read",
                f"{source['epochs']:.2f} epochs",
            ],
            room,
        )
        for source in head["sources"]
    ]


def _archive(head: Json) -> list[str]:
    reached = f"up to round {head['archived']:,}" if head["archived"] >= 0 else ""
    return [reached, f"uploading {head['uploading']}" if head["uploading"] else ""]


def _samples(frame: Json, terminal: Terminal) -> list[ScreenLine]:
    """What the model wrote, newest evaluation."""
    if not frame["evaluations"]:
        return []
    drawn = frame["evaluations"][-1]["samples"][:MOST_SAMPLES]
    return [_sample(s, terminal.width) for s in drawn if s["prompt"] or s["text"]]


def _sample(sample: Json, width: int) -> ScreenLine:
    """`"prompt text"`, the text in the foreground."""
    prompt = fit(sample["prompt"], width - 2)
    text = fit(sample["text"], width - 2 - cell_len(prompt))
    return [('"' + prompt, "dim"), (text, ""), ('"', "dim")]


def _peers(frame: Json, width: int, most: int) -> list[ScreenLine]:
    peers = frame["peers"]
    shown = peers[:most]
    if not shown:
        return []
    words = doing(frame)
    plan = laid(shown, width, {p["node"]: words[p["node"]] for p in shown})
    rows = [peer_row(p, words[p["node"]], plan) for p in shown]
    more = frame["peers_total"] - len(shown)
    remedy = f": --peers {len(peers)}" if len(peers) > len(shown) else ""
    rest: list[ScreenLine] = [[(f"and {more:,} more{remedy}", "dim")]] if more > 0 else []
    return [cropped(line, width) for line in (heading(plan), *rows, *rest)]


def _troubles(frame: Json, terminal: Terminal, now: float) -> list[ScreenLine]:
    troubles = [line for line in frame["lines"] if line["kind"] == "trouble"][:MOST_TROUBLES]
    return parts.news(troubles, terminal, now, rows=2)
