"""Telling people of alerts: a webhook, or a command of theirs.

A webhook gets JSON with the sentence as `text` and `content` (what Slack, Mattermost and Discord
show) and the parts beside it. A command gets the sentence as its last argument and the parts in its
environment: no shell reads a stranger's words.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit

from farflung.errors import UserError
from farflung.monitor.alerts import KINDS, Alert

DELIVER_S = 15.0
"""For one try."""
WEB = ("http", "https")

Deliver = Callable[[Alert, str], str]
"""(alert, name of the run) -> why it was not delivered; empty when it was."""


def alarm(target: str) -> Deliver:
    """What delivers to a URL or runs a command. UserError when it can do neither."""
    parts = urlsplit(target)
    if parts.scheme in WEB:
        if not parts.hostname:
            raise UserError(f"--alert {target!r} names no host; give https://HOST/...")
        return lambda alert, run: _post(target, alert, run)
    try:
        command = shlex.split(target)
    except ValueError as error:
        raise UserError(f"--alert {target!r} is no command: {error}") from None
    if not command or shutil.which(command[0]) is None:
        raise UserError(
            f"--alert {target!r} is neither a URL (https://...) nor a command that is installed"
        )
    return lambda alert, run: _run(command, alert, run)


def check_kinds(text: str) -> frozenset[str]:
    """`paused,lost` -> the kinds. UserError names the unknown one."""
    wanted = frozenset(part.strip() for part in text.split(",") if part.strip())
    unknown = sorted(wanted - set(KINDS))
    if unknown or not wanted:
        what = repr(unknown[0]) if unknown else repr(text)
        raise UserError(f"--alert-on {what} must be some of: {','.join(KINDS)}")
    return wanted


def told(alert: Alert, run: str) -> str:
    mark = "resolved: " if alert.ended else ""
    return f"farflung {run}: {mark}{alert.sentence}"


def _post(url: str, alert: Alert, run: str) -> str:
    sentence = told(alert, run)
    body = {
        "text": sentence,
        "content": sentence,
        "run": run,
        "kind": alert.kind,
        "ended": alert.ended,
        "at": alert.at,
    }
    request = urllib.request.Request(
        url,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "farflung"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=DELIVER_S):
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"{_host(url)} answered {error.code}"
    except (OSError, ValueError) as error:
        return f"{_host(url)} cannot be reached: {getattr(error, 'reason', error)}"


def _host(url: str) -> str:
    """Without the path: that of a webhook is a secret."""
    return urlsplit(url).hostname or "the webhook"


def _run(command: list[str], alert: Alert, run: str) -> str:
    environment = {
        **os.environ,
        "FARFLUNG_ALERT": alert.kind,
        "FARFLUNG_ALERT_ENDED": "1" if alert.ended else "",
        "FARFLUNG_ALERT_RUN": run,
        "FARFLUNG_ALERT_TEXT": alert.sentence,
    }
    try:
        outcome = subprocess.run(
            [*command, told(alert, run)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DELIVER_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} took longer than {DELIVER_S:g} s"
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    return "" if outcome.returncode == 0 else f"{command[0]} ended with {outcome.returncode}"
