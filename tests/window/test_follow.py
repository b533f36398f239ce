"""Figures to trackers and alerts to people, from a folder that is being written."""

from __future__ import annotations

import http.server
import itertools
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from synthetic import Options, write_folder

from farflung.errors import UserError
from farflung.monitor.alerts import Alert, AlertRules
from farflung.window.alarm import alarm, check_kinds
from farflung.window.exporters import check_target, open_exporter
from farflung.window.follow import REMEMBERED, Forwarder

ALERT = Alert(kind="lost", sentence="$(touch pwned); `id` is lost", at=7.0)


class Recorder:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.texts: list[tuple[int, str, str]] = []
        self.closed = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.steps.append((step, dict(values)))

    def text(self, step: int, name: str, text: str) -> None:
        self.texts.append((step, name, text))

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    write_folder(Options(peers=5, rounds=60, seed=3), out)
    return out


def forwarder(folder: Path, recorder: Recorder, **others: Any) -> Forwarder:
    return Forwarder(
        folder=folder,
        trackers=[("test:x", lambda *_: recorder)],
        alarms=others.pop("alarms", []),
        watch=AlertRules(),
        say=others.pop("say", lambda _: None),
        wall=others.pop("wall", lambda: 1_790_000_500.0),
        **others,
    )


def test_every_round_and_evaluation_is_told_once_over_restarts(folder: Path) -> None:
    (folder / REMEMBERED).unlink(missing_ok=True)
    first, second = Recorder(), Recorder()
    for recorder in (first, second):
        one = forwarder(folder, recorder)
        one.look()
        one.look()
        one.close()
        assert recorder.closed
    rounds = [step for step, values in first.steps if "swarm/peers" in values]
    assert rounds == list(range(60))
    newest = first.steps[[s for s, v in first.steps if "swarm/peers" in v].index(59)]
    assert newest[1]["train/tokens"] > 0
    assert any("eval/bits_per_byte" in values for _, values in first.steps)
    assert first.texts and not second.steps and not second.texts


def test_steps_never_go_back(folder: Path) -> None:
    (folder / REMEMBERED).unlink(missing_ok=True)
    recorder = Recorder()
    one = forwarder(folder, recorder)
    one.look()
    one.close()
    steps = [step for step, _ in recorder.steps]
    assert steps == sorted(steps)


def test_an_alert_that_is_not_delivered_is_tried_again_later(folder: Path) -> None:
    said: list[str] = []
    tries: list[float] = []
    clock = [1_790_900_000.0]

    def refuse(_alert: Alert, _run: str) -> str:
        tries.append(clock[0])
        return "" if len(tries) > 2 else "the hook answered 503"

    one = forwarder(
        folder,
        Recorder(),
        alarms=[refuse],
        say=said.append,
        wall=lambda: clock[0],
        served=lambda: False,
    )
    one.watch.patience_s = 0.0
    for _ in range(8):
        one.look()
        clock[0] += 5.0
    one.close()
    gaps = [b - a for a, b in itertools.pairwise(tries)]
    assert gaps[0] == 10.0 and gaps[1] == 20.0
    assert any("tried again in 10 s" in line for line in said)


def test_a_command_gets_a_strangers_words_as_data(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    script = tmp_path / "hook.py"
    script.write_text(
        "import json, os, sys\n"
        f"json.dump([sys.argv[1:], os.environ['FARFLUNG_ALERT_TEXT']], open({str(out)!r}, 'w'))\n"
    )
    assert alarm(f"{sys.executable} {script} --flag")(ALERT, "books") == ""
    arguments, text = json.loads(out.read_text())
    assert arguments == ["--flag", f"farflung books: {ALERT.sentence}"]
    assert text == ALERT.sentence and not (tmp_path / "pwned").exists()
    assert "ended with 3" in alarm(f"{sys.executable} -c 'raise SystemExit(3)'")(ALERT, "books")


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]], list[int]]]:
    bodies: list[dict[str, Any]] = []
    answers = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers[-1])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/secret", bodies, answers
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_gets_json_and_its_path_is_never_told(
    hook: tuple[str, list[dict[str, Any]], list[int]],
) -> None:
    url, bodies, answers = hook
    assert alarm(url)(ALERT, "books") == ""
    assert bodies[0]["text"] == bodies[0]["content"] == f"farflung books: {ALERT.sentence}"
    assert (bodies[0]["kind"], bodies[0]["run"], bodies[0]["ended"]) == ("lost", "books", False)
    answers.append(503)
    assert alarm(url)(ALERT, "books") == "127.0.0.1 answered 503"
    why = alarm("http://127.0.0.1:9/secret")(ALERT, "books")
    assert "cannot be reached" in why and "secret" not in why


@pytest.mark.parametrize("target", ["wandb", "wandb:", "mlflow:x", ""])
def test_an_unknown_tracker_is_one_sentence(target: str) -> None:
    with pytest.raises(UserError, match="must be wandb:PROJECT"):
        check_target(target)


def test_mistakes_in_alerts_are_one_sentence() -> None:
    with pytest.raises(UserError, match="'sleepy' must be some of: paused,"):
        check_kinds("lost,sleepy")
    with pytest.raises(UserError, match="neither a URL"):
        alarm("no-such-program-here --x")
    with pytest.raises(UserError, match="names no host"):
        alarm("https://")


def test_tensorboard_files_hold_what_was_logged(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    board = open_exporter(f"tensorboard:{tmp_path}", "0123456789", "books", {"codec": "int8"})
    board.log(3, {"train/loss": 2.5})
    board.text(3, "prompt-0", "<b>bold</b>\n# no heading")
    board.close()
    (file,) = (tmp_path / "books-01234567").iterdir()
    data, found = file.read_bytes(), []
    while data:  # TFRecord: length, its CRC, the record, its CRC
        size = int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    values = {v.tag: v for event in found for v in event.summary.value}
    assert values["train/loss"].simple_value == 2.5
    (text,) = values["samples/prompt-0/text_summary"].tensor.string_val
    assert text == b"    <b>bold</b>\n    # no heading\n"


def test_a_tracker_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match=r"pip install 'farflung\[trackio\]'"):
        open_exporter("trackio:books", "0123", "books", {})
