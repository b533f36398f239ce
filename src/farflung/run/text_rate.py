"""How much text a token of a run stands for: what turns a training loss into bits per byte."""

from __future__ import annotations

import math
from pathlib import Path

from farflung.config.run import RunSpec
from farflung.data.manifest import decode_manifest
from farflung.data.shards import read_manifest, source_folders
from farflung.errors import FarflungError


def bytes_per_token(data: Path, spec: RunSpec) -> float:
    """UTF-8 bytes behind a target token of the training text in a node's data folder: the mean of
    its sources by their weights. NaN when it is not known (no text, or not here yet)."""
    if spec.data.synthetic:
        return math.nan
    weights = [s.weight for s in spec.data.sources] or [1.0]
    rates = [_rate(folder) for folder in source_folders(data, spec.data)]
    return sum(w * r for w, r in zip(weights, rates, strict=True)) / sum(weights)


def _rate(folder: Path) -> float:
    try:
        manifest = decode_manifest(read_manifest(folder))
    except (FarflungError, OSError):
        return math.nan
    tokens = sum(shard.rows for shard in manifest.train) * manifest.seq_len
    return sum(shard.text_bytes for shard in manifest.train) / tokens if tokens else math.nan
