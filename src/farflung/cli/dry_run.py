"""What `farflung join --dry-run` prints."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from farflung.cli import aio
from farflung.errors import UserError

if TYPE_CHECKING:
    from farflung.config.run import RunSpec
    from farflung.run.dry_run import KnownRun, Outlook
    from farflung.run.membership import JoinOptions, Membership
    from farflung.sizing.model import ModelSizes


def show_dry_run(folder: Path, invite: str, known: Membership | None, options: JoinOptions) -> None:
    """Takes no part. Raises UserError when the run cannot work here."""
    from farflung.run.dry_run import learn, outlook
    from farflung.run.machine import this_machine
    from farflung.sizing.model import sizes_of

    run = aio.run(learn(folder, invite, known, options))
    if run.redeemed:
        typer.echo(_redeemed(run, folder))
    sizes = sizes_of(run.spec, parameters=run.parameters)
    found = outlook(
        run.spec,
        sizes,
        this_machine(folder),
        dialable=not options.outbound_only,
        max_disk_bytes=options.max_disk_bytes,
    )
    typer.echo("\n".join(dry_run_lines(run.spec, sizes, found)))
    if found.refusals:
        raise UserError(f"run {run.spec.name} cannot be trained here: {found.refusals[0]}")
    typer.echo("nothing was started; `farflung join` without --dry-run takes part")


def _redeemed(run: KnownRun, folder: Path) -> str:
    return (
        f"the invite was redeemed to read the spec (one of its uses); `farflung join --run "
        f"{shlex.quote(run.spec.name)}` continues with the same identity in {folder}"
    )


def dry_run_lines(spec: RunSpec, sizes: ModelSizes, found: Outlook) -> list[str]:
    """For people; estimates are called that."""
    from farflung.cli.screens.numbers import percent, short, size, span

    speed, machine = found.speed, found.machine
    fit = speed.fit
    rows = f"{fit.size.micro_rows} of {spec.inner.batch_rows} rows"
    if fit.size.checkpointed:
        rows += f", {fit.size.checkpointed} of {sizes.config.layers} blocks recomputed"
    lines = [
        f"run {spec.name}: {short(sizes.parameters)} parameters, rows of "
        f"{spec.data.seq_len:,} tokens; estimates, nothing is measured (docs/sizing.md)",
        f"  device       {machine.description}",
    ]
    if machine.device.is_gpu:
        lines += [f"  micro-batch  {rows}", f"  GPU memory   {size(fit.bytes)}"]
    speed_text = f"{short(round(speed.tokens_per_s))} tokens/s while it trains"
    if speed.mfu:
        speed_text += f", MFU {percent(speed.mfu)}"
    elif machine.device.is_gpu:
        speed_text += " (a guess: the peak of this GPU is not known)"
    free = f" ({size(machine.host_bytes)} free)" if machine.host_bytes else ""
    return [
        *lines,
        f"  host memory  {size(found.host_bytes)}{free}",
        f"  disk         {size(found.disk_bytes)} besides data "
        f"({size(machine.free_disk_bytes)} free)",
        f"  speed        {speed_text}",
        f"  a round      {span(found.round_s)} of training; sends {size(found.up_bytes)}, "
        f"receives {size(found.down_bytes)}",
        f"  a day        at most {size(found.most_bytes_a_day)}, if no round waits",
    ]
