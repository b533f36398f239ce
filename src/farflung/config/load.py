"""Reads a run spec from TOML, applies `a.b=value` overrides, and explains mistakes."""

from __future__ import annotations

import difflib
import re
import tomllib
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from farflung.config.run import RunSpec
from farflung.errors import ConfigError
from farflung.ids import split_endpoint

BOM = b"\xef\xbb\xbf"
"""What some editors put before UTF-8 text."""


def load_spec(path: Path | None, overrides: Iterable[str] = ()) -> RunSpec:
    """A checked spec. Raises ConfigError with one sentence for any mistake."""
    return from_table({} if path is None else _read(path), overrides)


def load_json(path: Path, overrides: Iterable[str] = ()) -> RunSpec:
    """A resolved spec as `spec_bytes` writes it. Raises ConfigError."""
    try:
        table = msgspec.json.decode(path.read_bytes().removeprefix(BOM), type=dict[str, Any])
        return from_table(table, overrides)
    except OSError as error:
        raise ConfigError(f"cannot read the run spec {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"the run spec {path} is not valid JSON: {error}") from None


def from_table(table: dict[str, Any], overrides: Iterable[str] = ()) -> RunSpec:
    """A checked spec from a nested table; overrides look like `outer.rounds=50`."""
    for override in overrides:
        _override(table, override)
    try:
        return msgspec.convert(table, RunSpec, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error))) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read the run spec {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the run spec {path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the run spec {path} is not valid TOML: {error}") from None


def _override(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r} must look like outer.rounds=50")
    *parents, leaf = key.strip().split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is a value, not a section")
    try:
        table[leaf] = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        table[leaf] = text


def _explain(message: str) -> str:
    """msgspec's message in our words, with the nearest known name for an unknown one."""
    unknown = re.search(r"unknown field `(.+?)`(?: - at `\$\.?(.*)`)?", message)
    if unknown is None:
        where = re.search(r"(.*) - at `\$\.?(.*)`", message)
        return f"{where[2]}: {where[1]}" if where else message
    name, section = unknown[1], unknown[2] or ""
    known = _fields(section)
    near = difflib.get_close_matches(name, known, n=1)
    full = f"{section}.{name}" if section else name
    hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(sorted(known))}"
    return f"unknown setting {full!r}; {hint}"


def _fields(section: str) -> list[str]:
    kind: Any = RunSpec
    for part in filter(None, section.split(".")):
        name = part.partition("[")[0]  # `sources[...]`: one of a list
        kind = next(f.type for f in msgspec.structs.fields(kind) if f.name == name)
        kind = typing.get_args(kind)[0] if typing.get_args(kind) else kind
    return [f.name for f in msgspec.structs.fields(kind)]


WILDCARDS = ("0.0.0.0", "::", "")


def check_advertised(bind: str, advertise: Iterable[str]) -> None:
    """ConfigError when a wildcard is bound and nobody is told where to dial."""
    if split_endpoint(bind)[0] in WILDCARDS and not list(advertise):
        raise ConfigError(
            f"--bind {bind} accepts connections on every address but names none that others can "
            f"dial; give --advertise HOST:PORT"
        )


def check_endpoints(endpoints: Iterable[str]) -> None:
    """ConfigError for the first one that is not HOST:PORT."""
    for endpoint in endpoints:
        try:
            split_endpoint(endpoint)
        except ValueError as error:
            raise ConfigError(f"{error}; for example 0.0.0.0:7100") from None
