"""A person's mistake gives one sentence that names value, rule and remedy, and exit code 2."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import (
    ENDLESS,
    RUN,
    Swarm,
    assert_one_sentence,
    command,
    listing,
    quad_spec,
    until,
)

from farflung.disk import RealDisk
from farflung.events import GenerationClosed, JournalWritable
from farflung.ids import Endpoint, RunId
from farflung.swarm.identity import Identity
from farflung.swarm.invite import make_invite, parse_invite

SPEC = """
name = "quad"
[model]
preset = "quadratic"
parameters = 1000
[data]
source = "synthetic"
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """A host without peers, shared by the tests that only talk to it."""
    with Swarm(tmp_path_factory.mktemp("live"), quad_spec(**ENDLESS)) as swarm:
        swarm.host()
        yield swarm


def invite_of(swarm: Swarm, *, expires_in_s: int = 3600, uses: int = 5, run: str = "") -> str:
    """A signed invite with other terms than the host's own."""
    own = parse_invite(swarm.invite)
    key = Identity.load(RealDisk(swarm.folder("host")), "run.key")
    assert key is not None
    return make_invite(
        key,
        run=RunId(run or own.run),
        run_name=own.run_name,
        ca_public_key=own.ca_public_key,
        endpoints=own.endpoints,
        role="trainer",
        expires_at=int(time.time()) + expires_in_s,
        uses=uses,
    )


# ---- invites -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[:-40], "cut off"),
        (lambda text: text[:60] + ("a" if text[60] != "a" else "b") + text[61:], "checksum"),
        (lambda _: "hello", "is no invite"),
        (lambda text: text[:50] + "!" + text[51:], "does not belong"),
    ],
)
def test_a_damaged_invite_is_explained_and_writes_nothing(
    live: Swarm, tmp_path: Path, change: object, words: str
) -> None:
    assert callable(change)
    done = command(tmp_path, "join", change(live.invite))
    assert_one_sentence(done, words)
    assert listing(tmp_path) == {}


def test_an_expired_invite_is_refused(live: Swarm, tmp_path: Path) -> None:
    done = command(tmp_path, "join", invite_of(live, expires_in_s=-300))
    assert_one_sentence(done, "expired 5 min ago", "ask the host")
    assert not list(tmp_path.iterdir()), "a join that failed leaves nothing"


def test_an_expired_invite_is_not_waited_for(live: Swarm, tmp_path: Path) -> None:
    key = Identity.load(RealDisk(live.folder("host")), "run.key")
    assert key is not None
    own = parse_invite(live.invite)
    text = make_invite(
        key, run=RunId(own.run), run_name=own.run_name, ca_public_key=own.ca_public_key,
        endpoints=[Endpoint("127.0.0.1:1")], role="trainer",
        expires_at=int(time.time()) - 300, uses=1,
    )  # fmt: skip
    assert_one_sentence(command(tmp_path, "join", text), "expired 5 min ago")
    assert not list(tmp_path.iterdir())


def test_an_invite_of_another_run_is_refused_with_both_runs(live: Swarm, tmp_path: Path) -> None:
    done = command(tmp_path, "join", invite_of(live, run="deadbeefdeadbeef"))
    assert_one_sentence(done, "deadbeefdeadbeef", parse_invite(live.invite).run)


def test_a_used_up_invite_is_refused(live: Swarm, tmp_path: Path) -> None:
    invite = invite_of(live, uses=1)
    first = live.spawn("first", "join", invite, "--name", "first")
    until(lambda: "joins run" in first.text, "the first bearer is in")
    done = command(tmp_path, "join", invite)
    assert_one_sentence(done, "used 1 time,", "ask the host for another")
    first.kill()


# ---- endpoints -----------------------------------------------------------------------------


def taken_port() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_host_on_a_taken_port_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(SPEC)
    with taken_port() as sock:
        endpoint = f"127.0.0.1:{sock.getsockname()[1]}"
        done = command(tmp_path / "home", "host", str(tmp_path / "run.toml"), "--bind", endpoint)
        assert_one_sentence(done, f"cannot listen on {endpoint}", "address already in use")


def test_join_on_a_taken_port_says_so(live: Swarm, tmp_path: Path) -> None:
    with taken_port() as sock:
        endpoint = f"127.0.0.1:{sock.getsockname()[1]}"
        done = command(tmp_path, "join", live.invite, "--bind", endpoint)
        assert_one_sentence(done, f"cannot listen on {endpoint}", "address already in use")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("endpoint", ["localhost", "host:notaport", "1.2.3.4:99999", ":70000"])
@pytest.mark.parametrize("option", ["--bind", "--advertise"])
def test_a_bad_endpoint_is_shown_with_an_example(
    tmp_path: Path, endpoint: str, option: str
) -> None:
    (tmp_path / "run.toml").write_text(SPEC)
    done = command(tmp_path / "home", "host", str(tmp_path / "run.toml"), option, endpoint)
    assert_one_sentence(done, endpoint, "for example 0.0.0.0:7100")
    assert not (tmp_path / "home").exists()


def test_a_keepers_taken_port_is_told_by_its_option_before_anything_is_made(
    tmp_path: Path,
) -> None:
    (tmp_path / "run.toml").write_text(SPEC)
    with taken_port() as sock:
        endpoint = f"127.0.0.1:{sock.getsockname()[1] - 1}"
        done = command(
            tmp_path / "home", "host", str(tmp_path / "run.toml"), "--bind", endpoint,
            "--advertise", endpoint,
        )  # fmt: skip
        assert_one_sentence(done, "cannot listen on", f"the port after --bind {endpoint}")
        assert not done.stdout and not list((tmp_path / "home").glob("*"))
    done = command(
        tmp_path / "home", "host", str(tmp_path / "run.toml"), "--bind", "127.0.0.1:65535",
        "--advertise", "127.0.0.1:65535",
    )  # fmt: skip
    assert_one_sentence(done, "leaves no port for the keeper")


# ---- which run -----------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--run", "books"]])
def test_settings_without_a_spec_found_no_run(tmp_path: Path, arguments: list[str]) -> None:
    done = command(tmp_path / "home", "host", "--set", "outer.rounds=60", *arguments)
    assert_one_sentence(done, "--set outer.rounds=60", "no spec is given", "run.toml")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("verb", ["host", "join", "leave", "status"])
def test_a_run_that_is_not_there_is_named_beside_those_that_are(live: Swarm, verb: str) -> None:
    home = "host" if verb in ("host", "status") else "named"
    if home == "named" and not live.folder("named").exists():
        peer = live.join("named")
        until(lambda: "joins run" in peer.text, "it is in")
        peer.kill()
    assert_one_sentence(live.run(home, verb, "--run", "nope"), "'nope'", RUN)


def test_a_spec_and_another_runs_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(SPEC)
    done = command(tmp_path / "home", "host", str(tmp_path / "run.toml"), "--run", "books")
    assert_one_sentence(done, "--run books", "'quad'")
    assert not (tmp_path / "home").exists()


def test_a_data_source_that_does_not_exist_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(SPEC.replace('"synthetic"', '"nowhere"'))
    done = command(tmp_path / "home", "host", str(tmp_path / "run.toml"))
    assert_one_sentence(done, "data.source='nowhere' does not exist", "farflung data prepare")
    assert not done.stdout and not list((tmp_path / "home").glob("*"))


def test_a_spec_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(SPEC + "[outer]\nroundz = 3\n", "utf-8-sig")
    done = command(tmp_path / "home", "host", str(tmp_path / "run.toml"))
    assert_one_sentence(done, "outer.roundz", "did you mean 'rounds'?")


@pytest.mark.parametrize("size", ["1b", "nope"])
def test_the_demo_takes_the_sizes_that_its_help_names(tmp_path: Path, size: str) -> None:
    done = command(tmp_path, "demo", "--size", size, "--out", str(tmp_path / "out"))
    assert_one_sentence(done, repr(size), "demo or tiny")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["host", "status"])
def test_a_user_without_a_home_is_told_what_to_set(tmp_path: Path, verb: str) -> None:
    patch = "import pathlib\ndef no(*_): raise RuntimeError('no home')\npathlib.Path.home = no"
    patch += "\nimport os; del os.environ['FARFLUNG_HOME']"
    assert_one_sentence(command(tmp_path, verb, patch=patch), "FARFLUNG_HOME")


# ---- specs and settings --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[outer\n", ["not valid TOML"]),
        (SPEC + "[outer]\ninner_stesp = 3\n", ["outer.inner_stesp", "did you mean 'inner_steps'?"]),
        (SPEC + '[outer]\nrounds = "many"\n', ["outer.rounds"]),
        (SPEC + "[outer]\nmomentum = 1.5\n", ["outer.momentum=1.5", "[0, 1)"]),
        (SPEC.replace("quad", "../x", 1), ["name='../x'"]),
    ],
)
def test_a_wrong_spec_is_explained_and_writes_nothing(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    (tmp_path / "run.toml").write_text(text)
    done = command(tmp_path / "home", "host", str(tmp_path / "run.toml"))
    assert_one_sentence(done, *words)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("rounds", "must look like"),
        ("=5", "must look like"),
        ("outer.=5", "outer"),
        ("outer.rounds=", "outer.rounds"),
        ("name.x=5", "is a value, not a section"),
        ("outr.rounds=5", "did you mean 'outer'?"),
    ],
)
def test_a_malformed_override_is_explained(tmp_path: Path, override: str, word: str) -> None:
    (tmp_path / "run.toml").write_text(SPEC)
    done = command(tmp_path / "home", "host", str(tmp_path / "run.toml"), "--set", override)
    assert_one_sentence(done, word)
    assert not (tmp_path / "home").exists()


def test_an_unreadable_spec_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        done = command(tmp_path / "home", "host", str(path))
        assert_one_sentence(done, "cannot read the run spec", str(path))


def test_another_spec_for_the_same_name_is_refused_with_both_hashes(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec()) as swarm:
        swarm.host().kill()
        before = listing(swarm.folder("host"))
        (tmp_path / "run.toml").write_text(SPEC)
        done = swarm.run("host", "host", str(tmp_path / "run.toml"))
        assert_one_sentence(done, "the run here has spec", "yours is", "choose another name")
        assert listing(swarm.folder("host")) == before


# ---- folders -------------------------------------------------------------------------------


def test_a_second_process_on_the_same_folder_is_refused(live: Swarm) -> None:
    owner = live.started[0].process.pid
    assert_one_sentence(live.run("host", "host"), f"in use by process {owner}")


def test_a_second_peer_on_the_same_folder_is_refused(live: Swarm) -> None:
    first = live.join("twice")
    until(lambda: "joins run" in first.text, "the first is in")
    done = live.run("twice", "join")
    assert_one_sentence(done, f"in use by process {first.process.pid}")
    first.kill()


@pytest.mark.parametrize("verb", ["host", "join", "leave", "status"])
def test_an_unknown_run_name_is_explained(tmp_path: Path, verb: str) -> None:
    done = command(tmp_path, verb, "--run", "nothere")
    assert_one_sentence(done, str(tmp_path))
    assert listing(tmp_path) == {}


@pytest.mark.parametrize("verb", ["host", "join", "leave", "status"])
def test_an_empty_home_is_explained(tmp_path: Path, verb: str) -> None:
    assert_one_sentence(command(tmp_path, verb), str(tmp_path))


def test_verify_of_an_empty_folder_is_explained(tmp_path: Path) -> None:
    assert_one_sentence(command(tmp_path, "verify", str(tmp_path)), "holds no journal.bin")


def test_a_journal_damaged_in_the_middle_stops_the_host_at_the_byte(tmp_path: Path) -> None:
    with Swarm(tmp_path, quad_spec(outer={"rounds": 3}, swarm={"start_peers": 1})) as swarm:
        host = swarm.host()
        swarm.join("a")
        assert host.wait() == 0
        path = swarm.folder("host") / "journal.bin"
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 0xFF
        path.write_bytes(damaged)
        done = swarm.run("host", "host")
        assert_one_sentence(done, "damaged at byte", "--restore-from")
        assert path.read_bytes() == damaged
        checked = swarm.verify()
        assert checked.returncode == 1
        assert "damaged at byte" in checked.stdout + checked.stderr


# ---- versions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constant", "words"),
    [
        ("PROTOCOL_VERSION", "you speak protocol 77, this run"),
        ("ARITHMETIC_VERSION", "your arithmetic version is 77, the run's"),
    ],
)
def test_another_version_is_refused_with_both_values(
    live: Swarm, tmp_path: Path, constant: str, words: str
) -> None:
    patch = f"import farflung.config.run as r\nr.{constant} = 77"
    done = command(tmp_path, "join", live.invite, patch=patch)
    assert_one_sentence(done, words, "install the same farflung version")
    assert not list(tmp_path.iterdir())


# ---- a full disk ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_full_disk_holds_commits_back_until_there_is_room(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for the full disk: the journal may not grow past a size."""
    import resource

    spec = quad_spec(**ENDLESS, model={"parameters": 1000}, swarm={"start_peers": 1})
    with Swarm(tmp_path, spec) as swarm:
        host = swarm.host()
        swarm.join("a")
        swarm.committed(3)
        journal = swarm.folder("host") / "journal.bin"
        room = journal.stat().st_size + 20_000
        pid = host.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, hard))
        until(
            lambda: "paused: nothing is committed" in host.text or host.process.poll() is not None,
            "the host says that it is full",
        )
        assert host.process.poll() is None, host.text
        stuck = swarm.n_committed()
        assert journal.stat().st_size <= room
        # The limit holds for the event log too, which grows faster: JournalBlocked may be lost.
        status = swarm.run("host", "status")
        words = " ".join(status.stdout.split())
        assert "paused" in words, status
        assert "disk refuses the journal (journal.bin may not grow any more" in words, status
        done = command(tmp_path / "late", "join", swarm.invite, "--name", "late")
        assert_one_sentence(done, "the host's disk takes no new members now")
        assert swarm.n_committed() == stuck
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        swarm.more(3)
        assert "the run goes on" in host.text
        until(lambda: swarm.events("host", JournalWritable), "the event tells it too")
        assert not [e for e in swarm.events("host", GenerationClosed) if e.name == "a"]
        swarm.kill_all()
        copy = tmp_path / "copy"
        shutil.copytree(swarm.folder("host").parent, copy)
        done = command(tmp_path, "verify", str(copy))
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_run_name_of_an_invite_is_its_folder(live: Swarm) -> None:
    assert live.folder("host").parent.name == RUN
    assert [Endpoint(e) for e in parse_invite(live.invite).endpoints] == [live.endpoint]
