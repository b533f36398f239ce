"""Codecs of the data plane, by the names that the run spec uses."""

from __future__ import annotations

from farflung.errors import ConfigError
from farflung.outer.codecs.base import Codec
from farflung.outer.codecs.bf16 import Bf16
from farflung.outer.codecs.fp32 import Fp32
from farflung.outer.codecs.int8 import Int8Blocks
from farflung.outer.codecs.int8_sigma import Int8Sigma

__all__ = ["CODECS", "Codec", "get_codec"]

CODECS: dict[str, Codec] = {c.name: c for c in (Fp32(), Bf16(), Int8Blocks(), Int8Sigma())}


def get_codec(name: str) -> Codec:
    """The codec of this name. Raises ConfigError for an unknown one."""
    try:
        return CODECS[name]
    except KeyError:
        raise ConfigError(f"outer.codec={name!r} must be one of {', '.join(CODECS)}") from None
