"""The JSON report of a storm."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from typing import Any

import farflung
from farflung.chaos.faults import Executed
from farflung.chaos.storm import StormOutcome
from farflung.config.run import ARITHMETIC_VERSION, PROTOCOL_VERSION

REPORT_VERSION = 1


def to_json(outcome: StormOutcome) -> dict[str, Any]:
    """Everything that a reader needs to judge and to repeat the run."""
    options, evidence = outcome.options, outcome.evidence
    return {
        "report_version": REPORT_VERSION,
        "passed": outcome.verdict.passed,
        "interrupted": outcome.interrupted,
        "repeat": repeat(outcome),
        "versions": {
            "farflung": farflung.__version__,
            "protocol": PROTOCOL_VERSION,
            "arithmetic": ARITHMETIC_VERSION,
            "python": sys.version.split()[0],
            "system": platform.platform(),
            "cpus": os.cpu_count(),
        },
        "options": {
            "minutes": options.minutes,
            "peers": options.peers,
            "seed": options.seed,
            "min_peers": options.min_peers,
            "netns": options.netns,
            "kinds": sorted(str(k) for k in options.kinds),
        },
        "folder": str(outcome.folder) if outcome.kept else None,
        "seconds": round(evidence.healed_s - evidence.started_s, 1),
        "rows": [
            {
                "key": row.key,
                "promise": row.promise,
                "checks": row.checks,
                "violations": row.violations,
                "first": row.first,
                "note": row.note,
            }
            for row in outcome.verdict.rows
        ],
        "figures": outcome.verdict.figures,
        "verify": dataclasses.asdict(evidence.findings) if evidence.findings else None,
        "executed": [_executed(e, evidence.started_s) for e in evidence.executed],
        "planned": len(outcome.schedule),
    }


def repeat(outcome: StormOutcome) -> str:
    """The command that plays the same schedule again."""
    options = outcome.options
    return (
        f"farflung chaos --minutes {options.minutes:g} --peers {options.peers} "
        f"--seed {options.seed}" + (" --netns" if options.netns else "")
    )


def _executed(done: Executed, zero_s: float) -> dict[str, Any]:
    fault = done.fault
    return {
        "number": fault.number,
        "kind": str(fault.kind),
        "nodes": list(fault.nodes),
        "links": len(fault.links),
        "amount": fault.amount,
        "returns": fault.returns,
        "planned_s": round(fault.at_s, 3),
        "started_s": round(done.started_s - zero_s, 3),
        "ended_s": None if done.ended_s is None else round(done.ended_s - zero_s, 3),
        "outcome": done.outcome,
        "told": done.told,
        "skipped": done.skipped,
    }
