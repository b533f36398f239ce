"""What an operator chose about uploading: as a host keeps it, and as one command line says it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from farflung.archive.address import folder_of, is_remote
from farflung.archive.rules import KEEP, UploadRules
from farflung.errors import ConfigError

DAY_S = 86_400.0


class UploadSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Remembered by a host; credentials are not among it, they stay in the environment."""

    address: str
    keep: int = KEEP
    keep_days: float = 0.0
    """0: any age."""
    bytes_per_s: float = 0.0
    """0: as fast as it goes."""
    data: bool = False
    """Token shards too."""

    @property
    def rules(self) -> UploadRules:
        return UploadRules(
            keep=self.keep, max_age_s=self.keep_days * DAY_S, bytes_per_s=self.bytes_per_s
        )


@dataclass(frozen=True, kw_only=True)
class UploadChoice:
    """None: as before, or the default."""

    address: str | None = None
    off: bool = False
    keep: int | None = None
    keep_days: float | None = None
    bytes_per_s: float | None = None
    data: bool | None = None

    @property
    def says_something(self) -> bool:
        return self != UploadChoice()


def chosen_upload(old: UploadSettings | None, choice: UploadChoice) -> UploadSettings | None:
    """What a host does from now on. ConfigError for rules without an address, or out of range."""
    if choice.off:
        return None
    if choice.address is not None:
        old = msgspec.structs.replace(
            old or UploadSettings(address=""), address=_absolute(choice.address)
        )
    if old is None:
        if choice.says_something:
            raise ConfigError("nothing is uploaded: say where to with --upload s3://BUCKET/PREFIX")
        return None
    settings = msgspec.structs.replace(
        old,
        keep=old.keep if choice.keep is None else choice.keep,
        keep_days=old.keep_days if choice.keep_days is None else choice.keep_days,
        bytes_per_s=old.bytes_per_s if choice.bytes_per_s is None else choice.bytes_per_s,
        data=old.data if choice.data is None else choice.data,
    )
    if settings.keep < 1:
        raise ConfigError(f"--upload-keep {settings.keep} must be 1 or more")
    if settings.keep_days < 0 or settings.bytes_per_s < 0:
        raise ConfigError("--upload-keep-days and --upload-rate must not be below 0")
    return settings


def _absolute(address: str) -> str:
    """A folder stays the same when the next start is made elsewhere."""
    return address if is_remote(address) else str(folder_of(address).resolve())
