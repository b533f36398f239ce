"""A host's folder: made once at the run's birth, opened again ever after.

It is born in this order: keys, data, initial weights, GENESIS, settings. Whatever was made before
GENESIS is worthless without it, so a birth that was killed begins anew. From GENESIS on nothing
is ever made again in silence: a folder that lost its keys or its journal is refused, because a
new journal under the same keys would be a second run that looks like the first.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from farflung.archive.settings import UploadChoice, UploadSettings, chosen_upload
from farflung.config.run import OuterSpec, RunSpec, spec_hash
from farflung.data.shards import open_sources, read_manifest, source_folders
from farflung.disk import RealDisk, storage_errors
from farflung.errors import CorruptState, MismatchError, StorageError, UserError
from farflung.failpoints import hit
from farflung.hashing import digest
from farflung.ids import RunId
from farflung.network.tls import RunAuthority
from farflung.outer.layout import Layout
from farflung.peer.disk_budget import Keep, check_limit, need_of
from farflung.run.assemble import open_journal, read_journal
from farflung.run.genesis import (
    Founding,
    Material,
    check_founding,
    describe,
    genesis_record,
    make_weights,
    same_birth,
    synthetic_material,
)
from farflung.run.home import EVENTS, JOURNAL, LOCK, SETTINGS, nothing_left, private_folder
from farflung.run.host_data import CACHE, check_sources, place_sources
from farflung.run.window_settings import WindowChoice, WindowSettings, chosen_window
from farflung.swarm.amendments import differs_in_amendable, same_settings
from farflung.swarm.identity import Identity
from farflung.swarm.journal import Journal
from farflung.swarm.lineage import descent
from farflung.swarm.records import DataPart, Genesis
from farflung.swarm.recovery import Recovery, recovery_text
from farflung.swarm.replay import current_spec, genesis_spec

RUN_KEY = "run.key"
CA_KEY = "ca.pem"
RECOVERY = "recovery.key"
DATA = "data"
UNBORN = frozenset({LOCK, EVENTS, RUN_KEY, CA_KEY, DATA, CACHE, JOURNAL})
"""All that a birth makes before GENESIS, which is worthless without it."""
RESTORE = (
    "move the folder away and restore the run: farflung host --restore-from NODE "
    "--recovery-key FILE --old-host-is-stopped"
)
DEFAULT_BIND = "127.0.0.1:7000"

Say = Callable[[str], None]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a host keeps so that `host` without arguments continues."""

    run: str
    bind: str
    advertise: tuple[str, ...]
    keeper: bool
    max_disk_bytes: int = 0
    keep_rounds: int = 0
    keep_age_s: float = 0.0
    alone_since: int = 0
    """The operator asserted that coordinators of lower terms are stopped for good (restoring)."""
    upload: UploadSettings | None = None
    """Where the keeper's snapshots are archived; None: nowhere."""
    window: WindowSettings = WindowSettings()
    halted: str = ""
    """Why this coordinator may not start again: another one has continued the run."""


@dataclass(frozen=True, kw_only=True)
class HostOptions:
    """What this start was told; None: as before, or the default."""

    bind: str | None = None
    advertise: tuple[str, ...] | None = None
    keeper: bool | None = None
    max_disk_bytes: int = 0
    upload: UploadChoice = field(default_factory=UploadChoice)
    window: WindowChoice = field(default_factory=WindowChoice)
    keep: Keep | None = None
    """How long the keeper keeps results for `verify`."""
    recovery_file: Path | None = None
    """Where the recovery key goes instead of the terminal."""
    extend: tuple[str, ...] = ()
    """What of the run's settings changes with this start (swarm/amendments.py)."""
    founding: Founding | None = None
    """What a run that is born now begins with; None: fresh weights."""


@dataclass(frozen=True, kw_only=True)
class HostFiles:
    """A host's folder, opened."""

    settings: Settings
    journal: Journal
    run_key: Identity
    authority: RunAuthority


def load_settings(folder: Path) -> Settings | None:
    """None when the folder holds none. Raises CorruptState."""
    path = folder / SETTINGS
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Settings)
    except msgspec.DecodeError as error:
        raise CorruptState(f"{path} is damaged ({error}); {RESTORE}") from None


def save_settings(folder: Path, settings: Settings) -> None:
    RealDisk(folder).replace(SETTINGS, msgspec.json.encode(settings))


def wanted_settings(
    known: Settings | None, options: HostOptions, run: str = "", alone_since: int = 0
) -> Settings:
    """The known settings with what this start was told, or fresh ones."""
    old = known or Settings(
        run=run, bind=DEFAULT_BIND, advertise=(), keeper=True, alone_since=alone_since
    )
    keep = options.keep or Keep(rounds=old.keep_rounds, age_s=old.keep_age_s)
    return msgspec.structs.replace(
        old,
        keep_rounds=keep.rounds,
        keep_age_s=keep.age_s,
        bind=old.bind if options.bind is None else options.bind,
        advertise=old.advertise if options.advertise is None else options.advertise,
        keeper=old.keeper if options.keeper is None else options.keeper,
        max_disk_bytes=options.max_disk_bytes or old.max_disk_bytes,
        upload=chosen_upload(old.upload, options.upload),
        window=chosen_window(old.window, options.window),
    )


def open_folder(folder: Path, spec: RunSpec | None, options: HostOptions, say: Say) -> HostFiles:
    """Create a run in `folder`, or continue the one that is there. A birth that fails leaves
    nothing.

    Raises UserError, StorageError, CorruptState.
    """
    with nothing_left(folder, UNBORN, lambda: has_run(folder)):
        try:
            return _open(folder, spec, options, say)
        except (Exception, KeyboardInterrupt):
            keeper = folder.parent / "keeper"
            if not has_run(folder) and not _has_journal(keeper):
                remove_tree(keeper)
            raise


def has_run(folder: Path) -> bool:
    """A run was born in this host's folder; what is missing of it was lost."""
    return any((folder / name).exists() for name in (SETTINGS, RECOVERY)) or _has_journal(folder)


def _has_journal(folder: Path) -> bool:
    """More than the torn GENESIS of a birth that was killed."""
    path = folder / JOURNAL
    if not path.exists() or not path.stat().st_size:
        return False
    try:
        return read_journal(path).length > 0
    except CorruptState:
        return True


def remove_tree(path: Path) -> None:
    """With all that is in it; of a link, the link. Raises StorageError."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        with storage_errors(path):
            shutil.rmtree(path)


def _open(folder: Path, spec: RunSpec | None, options: HostOptions, say: Say) -> HostFiles:
    disk = RealDisk(folder)
    disk.sweep()
    known = load_settings(folder)
    if known is not None and known.halted:
        raise UserError(f"this coordinator was stopped: {known.halted}; {RESTORE}")
    born = has_run(folder)
    run_key = Identity.load(disk, RUN_KEY)
    if run_key is None and born:
        raise UserError(f"{folder} lost its {RUN_KEY}; {RESTORE}")
    if options.founding is not None:
        check_unborn(folder)
    if not born:
        _check_birth(folder, spec, options.recovery_file)
    if run_key is None:
        run_key = Identity.load_or_create(disk, RUN_KEY)
    journal = open_journal(disk, run_key)
    if journal.cut_bytes:
        say(f"the journal's torn tail of {journal.cut_bytes} bytes was cut")
    if journal.length:
        authority = _continue(folder, journal, run_key, spec)
    elif born:
        raise UserError(f"{folder} lost its journal; {RESTORE}")
    else:
        authority = _create(folder, run_key, _needed(folder, spec), journal, options, say)
    settings = wanted_settings(known, options, authority.run)
    genesis = genesis_of(journal)
    _check_limit(settings, Layout.from_json(genesis.layout), genesis_spec(genesis).outer)
    save_settings(folder, settings)
    _show_recovery_key(folder, journal, run_key, authority, options.recovery_file, say)
    return HostFiles(settings=settings, journal=journal, run_key=run_key, authority=authority)


def _check_limit(settings: Settings, layout: Layout, outer: OuterSpec) -> None:
    """ConfigError when --max-disk is below what the keeper needs: before it is remembered."""
    if settings.keeper:
        check_limit(settings.max_disk_bytes, need_of(layout, outer, keeps_genesis=True, cache=0))


def _needed(folder: Path, spec: RunSpec | None) -> RunSpec:
    if spec is None:
        raise UserError(f"{folder} holds no run yet; give a run spec: farflung host run.toml")
    return spec


def check_unborn(folder: Path) -> None:
    """UserError when --from cannot found a run here, because there is one."""
    if has_run(folder):
        raise UserError(
            f"{folder} holds a run already, and --from founds a new one: continue it without "
            f"--from, or give the new run another name"
        )


def _check_birth(folder: Path, spec: RunSpec | None, recovery: Path | None) -> None:
    """UserError, before anything is written, when no run can be born here."""
    check_sources(_needed(folder, spec).data)
    if recovery is not None and recovery.exists() and recovery.stat().st_size:
        raise UserError(f"{recovery} exists and holds something else; name another file")
    keeper = folder.parent / "keeper"
    if _has_journal(keeper):
        raise UserError(
            f"{keeper} holds a run whose host folder is gone: restore it (farflung host "
            f"--restore-from {keeper} --recovery-key FILE --old-host-is-stopped), or remove "
            f"{keeper} to begin a new run of that name"
        )


def _continue(
    folder: Path, journal: Journal, run_key: Identity, spec: RunSpec | None
) -> RunAuthority:
    genesis = genesis_of(journal)
    if genesis.run_key != run_key.public_key:
        raise UserError(f"{folder / RUN_KEY} is not the key of this run's journal; {RESTORE}")
    if spec is not None:
        _check_same(journal, spec)
    authority = RunAuthority.load(RealDisk(folder), CA_KEY, RunId(genesis.run))
    if authority is None:
        raise UserError(f"{folder} lost its {CA_KEY}; {RESTORE}")
    return authority


def genesis_of(journal: Journal) -> Genesis:
    """The first record of a journal that is not empty."""
    genesis = next(journal.records())
    assert isinstance(genesis, Genesis)
    return genesis


def _check_same(journal: Journal, spec: RunSpec) -> None:
    """A spec file may be as it was at the run's birth, or as amendments have left it."""
    born, now = genesis_spec(genesis_of(journal)), current_spec(journal.records())
    if same_settings(spec, born) or same_settings(spec, now):
        return
    if genesis_of(journal).ancestors and same_birth(spec, born):
        return
    if differs_in_amendable(born, spec):
        raise MismatchError(
            "this spec differs from the run's in settings that may change while it lives: change "
            "them with `farflung host --extend rounds=+100` (also tokens, grace_s, weights, ...)"
        )
    old, new = spec_hash(born).hex()[:12], spec_hash(spec).hex()[:12]
    raise MismatchError(
        f"the run here has spec {old}, yours is {new}; a run's spec cannot change: continue "
        f"with `farflung host` alone, or choose another name"
    )


# ---- the recovery key ----------------------------------------------------------------------


def _show_recovery_key(
    folder: Path,
    journal: Journal,
    run_key: Identity,
    authority: RunAuthority,
    where: Path | None,
    say: Say,
) -> None:
    """Once in a run's life: into the folder, and to the operator, who keeps it elsewhere."""
    if where is None and (folder / RECOVERY).exists():
        return
    spec_name = genesis_spec(genesis_of(journal)).name
    text = recovery_text(
        Recovery(
            run=RunId(authority.run),
            run_name=spec_name,
            run_seed=run_key.seed,
            ca_seed=authority.seed,
        )
    )
    if where is not None:
        _write_private(where, text)
        say(f"the recovery key is in {where}; keep it off this machine: it restores a lost host")
    if not (folder / RECOVERY).exists():
        if where is None:
            say(
                "Recovery key (keep it off this machine and secret: whoever has it owns the run, "
                f"and without it a lost disk ends the run):\n\n  {text}\n"
            )
        # Last: a host that is killed before this line shows the key again at its next start.
        _write_private(folder / RECOVERY, text)


def _write_private(path: Path, text: str) -> None:
    """A file that only its owner may read; one with other content is never overwritten."""
    try:
        if path.exists() and path.stat().st_size:
            if path.read_text().strip() == text:
                return
            raise UserError(f"{path} exists and holds something else; name another file")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise StorageError(f"cannot write the recovery key to {path}: {error.strerror}") from None


def install_keys(folder: Path, recovery: Recovery) -> tuple[Identity, RunAuthority]:
    """Write a recovery key's two keys into a host's folder."""
    private_folder(folder)
    disk = RealDisk(folder)
    run_key = Identity.from_seed(recovery.run_seed)
    authority = RunAuthority.create(recovery.run, seed=recovery.ca_seed)
    disk.replace(RUN_KEY, run_key.private_pem)
    disk.replace(CA_KEY, authority.private_pem)
    _write_private(folder / RECOVERY, recovery_text(recovery))
    return run_key, authority


# ---- birth ---------------------------------------------------------------------------------


def _create(
    folder: Path,
    run_key: Identity,
    spec: RunSpec,
    journal: Journal,
    options: HostOptions,
    say: Say,
) -> RunAuthority:
    """Authority, data, initial weights, GENESIS. Leftovers of a birth that was killed give way."""
    disk, founding = RealDisk(folder), options.founding
    for left in (folder / DATA, folder / CACHE, folder.parent / "keeper"):
        remove_tree(left)
    authority = RunAuthority.create(RunId(secrets.token_hex(8)))
    disk.replace(CA_KEY, authority.private_pem)
    material, data = make_material(folder, spec, say)
    if founding is None:
        say("making the initial weights ...")
        weights = make_weights(spec, data)
    else:
        check_founding(spec, founding, material)
        say(f"from {descent(founding.lineage)}")
        weights = founding.weights
    say(describe(weights.layout))
    _check_limit(wanted_settings(None, options), weights.layout, spec.outer)
    record = genesis_record(
        run=authority.run,
        run_key=run_key.public_key,
        spec=spec,
        weights=weights,
        material=material,
        disk=RealDisk(folder.parent / "keeper"),
        lineage=() if founding is None else founding.lineage,
    )
    hit("genesis.stored")
    journal.append(record)
    hit("genesis.appended")
    return authority


def make_material(folder: Path, spec: RunSpec, say: Say) -> tuple[Material, Path | None]:
    """Prepare or find the token shards: their hashes for GENESIS, and their folder.

    Raises UserError (ConfigError) for sources that are no data folders or do not go together.
    """
    if spec.data.synthetic:
        return synthetic_material(spec), None
    data = folder / DATA
    place_sources(spec.data, data, say)
    rows = open_sources(data, spec.data)
    parts = []
    for source, where, table in zip(
        spec.data.parts, source_folders(data, spec.data), rows.sources, strict=True
    ):
        manifest = read_manifest(where)
        parts.append(
            DataPart(
                name=source.name,
                rows=len(table),
                manifest=digest(manifest),
                manifest_bytes=len(manifest),
            )
        )
    return (
        Material(
            data=tuple(parts),
            vocab=rows.manifest.vocab,
            tokenizer=digest(rows.tokenizer) if rows.tokenizer else b"",
            tokenizer_bytes=len(rows.tokenizer),
        ),
        data,
    )
