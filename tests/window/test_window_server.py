"""The window's web server over real sockets: what it answers, to whom, and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import re
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import Serving, Stream, served, serving, until
from synthetic import Options, write_folder

from farflung.events import EventLog, RoundAbandoned, RoundOpened
from farflung.window.metrics import NAMES
from farflung.window.stream import packed

ROOT = Path(__file__).parents[2]
TYPES = (ROOT / "web" / "src" / "types.ts").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    write_folder(Options(peers=6, rounds=40), path)
    return path


def fields_of(name: str) -> set[str]:
    """Of an interface in types.ts, first level."""
    body = re.search(rf"export interface {name} \{{(.*?)\n\}}", TYPES, re.S)
    assert body is not None
    inner = re.sub(r"//[^\n]*|/\*.*?\*/", "", body[1], flags=re.S)
    return set(re.findall(r"^  (\w+):", inner, re.M))


def is_a(name: str, value: Any) -> None:
    assert set(value) == fields_of(name), name


def test_every_endpoint_answers_in_the_shape_of_the_types(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder) as window:
            frame = await window.json("api/v1/frame")
            is_a("Frame", frame)
            head = await window.json("api/v1/head")
            is_a("Head", head)
            rounds = await window.json("api/v1/rounds?from=5&to=30&points=10")
            is_a("Rounds", rounds)
            assert rounds["from"] == 5 and len(rounds["loss"]) <= 10
            for evaluation in await window.json("api/v1/evaluations"):
                is_a("Evaluation", evaluation)
            peers = await window.json("api/v1/peers")
            assert len(peers) >= 6
            for peer in peers:
                is_a("Peer", peer)
            page = await window.json(f"api/v1/peers/{peers[0]['node']}")
            is_a("PeerPage", page)
            regions = await window.json("api/v1/regions")
            assert regions
            for region in regions:
                is_a("Region", region)
            last = head["round"]
            (timeline,) = await window.json(f"api/v1/timeline?from={last}&to={last}&peers=3")
            is_a("Timeline", timeline)
            assert len(timeline["peers"]) <= 3
            is_a("Links", await window.json("api/v1/links?peers=4"))
            lines = await window.json("api/v1/lines?limit=7")
            assert len(lines) == 7
            for line in lines:
                is_a("Line", line)
            older = await window.json(
                f"api/v1/lines?before={lines[-1]['serial']}&kind=peer&limit=5"
            )
            assert all(x["kind"] == "peer" and x["serial"] < lines[-1]["serial"] for x in older)
            status, headers, body = await window.get("api/v1/rounds.csv")
            assert (status, headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
            table = list(csv.DictReader(body.decode().splitlines()))
            assert [int(row["round"]) for row in table] == list(range(len(table)))
            assert len(table) >= 39

    served(story)


def test_metrics_are_what_prometheus_reads(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder) as window:
            status, headers, body = await window.get("metrics")
            assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
            families = {f.name: f for f in text_string_to_metric_families(body.decode())}
            head, peers = await window.json("api/v1/head"), await window.json("api/v1/peers")
            assert all(f.documentation for f in families.values())
            (tokens,) = families["farflung_tokens"].samples
            assert (tokens.name, tokens.value) == ("farflung_tokens_total", head["tokens"])
            told = {s.labels["node"]: s for s in families["farflung_peer_tokens"].samples}
            assert {n: s.value for n, s in told.items()} == {p["node"]: p["tokens"] for p in peers}
            assert {s.labels["name"] for s in told.values()} == {p["name"] for p in peers}
            (state,) = [s for s in families["farflung_run_state"].samples if s.value]
            assert state.labels["state"] == head["state"]

    served(story)


def test_the_grafana_dashboard_asks_only_for_metrics_that_are_served(folder: Path) -> None:
    text = (ROOT / "docs" / "grafana.json").read_text()
    assert json.loads(text)["panels"]
    asked = set(re.findall(r"farflung_\w+", text))

    async def story() -> None:
        async with serving(folder) as window:
            _, _, body = await window.get("metrics")
            found = set(re.findall(r"^(farflung_\w+)\{", body.decode(), re.M))
            assert len(asked) > 15 and asked <= found
            assert {f"farflung_{n}" for n in NAMES} >= found

    served(story)


def test_the_page_and_its_files_are_served_packed_and_tagged(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder) as window:
            status, headers, body = await window.get("")
            assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
            for name in re.findall(rb'(?:src|href)="([^"]+)"', body):
                path = name.decode()
                assert not path.startswith(("/", "http")), "relative, for any path prefix"
                status, headers, _ = await window.get(path)
                assert status == 200, path
                tag = headers["ETag"]
                status, headers, again = await window.get(path, headers={"If-None-Match": tag})
                assert (status, again) == (304, b""), path
            assert (await window.get("api/v1/frame"))[1]["Content-Encoding"] == "gzip"
            plain = {"Accept-Encoding": "identity"}
            assert "Content-Encoding" not in (await window.get("api/v1/frame", headers=plain))[1]
            for path in (
                "../server.py",
                "%2e%2e/server.py",
                "static/index.html",
                "api",
                "api/v2/x",
            ):
                assert (await window.get(path))[0] == 404, path
            assert (await window.get("api/v1/peers/00"))[0] == 404

    served(story)


def test_every_answer_has_the_headers_that_keep_a_browser_safe(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder) as window:
            for path in ("", "app.js", "api/v1/head", "metrics", "nothing", "api/v1/rounds?from=x"):
                _, headers, _ = await window.get(path)
                policy = headers["Content-Security-Policy"]
                assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
                assert "unsafe" not in policy
                assert headers["X-Content-Type-Options"] == "nosniff"
                assert headers["Referrer-Policy"] == "no-referrer"
                assert "Access-Control-Allow-Origin" not in headers
                assert "aiohttp" not in headers.get("Server", "")
            _, headers, _ = await window.get("?embed=loss,map")
            assert "frame-ancestors *" in headers["Content-Security-Policy"]

    served(story)


def test_a_window_for_everybody_lets_other_pages_read_the_api(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder, public=True) as window:
            host = {"Host": "train.example.org"}
            status, headers, _ = await window.get("api/v1/head", headers=host)
            assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")
            assert "Access-Control-Allow-Origin" not in (await window.get("", headers=host))[1]

    served(story)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(folder: Path, method: str) -> None:
    async def story() -> None:
        async with serving(folder) as window:
            async with window.session.request(
                method, window.url("api/v1/head"), data=b"x" * 100_000
            ) as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
            async with window.session.head(window.url("api/v1/head")) as answer:
                assert answer.status == 200 and await answer.read() == b""

    served(story)


def test_a_name_that_was_made_to_point_here_sees_nothing(folder: Path) -> None:
    """DNS rebinding: a page elsewhere resolves its own name to 127.0.0.1 and asks."""

    async def story() -> None:
        async with serving(folder, names=frozenset({"proxy.example.org"})) as window:
            for name, expected in (
                ("evil.example", 421), ("127.0.0.1.evil.example", 421), ("", 421),
                ("127.0.0.1", 200), ("localhost:9999", 200), ("LOCALHOST", 200), ("[::1]:1", 200),
                ("proxy.example.org", 200),
            ):  # fmt: skip
                for path in ("api/v1/head", "", "api/v1/stream?" if expected != 200 else "healthz"):
                    status, _, _ = await window.get(path, headers={"Host": name})
                    assert status == expected, (name, path)

    served(story)


@pytest.mark.parametrize(
    "query",
    [
        "rounds?points=0", "rounds?points=1e9", "rounds?from=-1", "rounds?to=%F0%9F%98%80",
        "rounds?from=" + "9" * 400, "timeline?from=0&to=100000", "links?peers=1000000",
        "lines?kind=<script>", "lines?limit=501", "lines?q=" + "a" * 101, "lines?before=x",
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_answered_with_one_sentence(folder: Path, query: str) -> None:
    async def story() -> None:
        async with serving(folder) as window:
            status, headers, body = await window.get(f"api/v1/{query}")
            assert status == 400 and headers["Content-Type"].startswith("text/plain")
            assert body.count(b"\n") == 1 and len(body) < 200

    served(story)


def test_until_the_history_is_read_it_says_how_far_it_is(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder, follow=False) as window:
            for path in ("api/v1/frame", "healthz", "metrics", "api/v1/stream"):
                status, headers, body = await window.get(path)
                assert (status, headers["Retry-After"]) == (503, "1")
                assert json.loads(body)["reading"] == 0.0
            assert (await window.get(""))[0] == 200, "the page is there at once"
        async with serving(folder) as window:
            assert await window.get("healthz") == (200, *(await window.get("healthz"))[1:])

    served(story)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_history_of_any_length_ends(
    monkeypatch: pytest.MonkeyPatch, size: int, tmp_path: Path
) -> None:
    """Also one whose length is a multiple of what is folded at once."""
    monkeypatch.setattr("farflung.window.reader.SLICE", size)
    write_folder(Options(peers=2, rounds=2), tmp_path)

    async def story() -> None:
        async with serving(tmp_path) as window:
            assert (await window.json("api/v1/head"))["rounds"] >= 1

    served(story)


def test_a_damaged_journal_is_told_and_read_when_it_is_mended(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farflung.window.reader.RETRY_S", 0.02)
    where, log = copy_of(folder, tmp_path)
    log.close()
    good = (where / "journal.bin").read_bytes()
    (where / "journal.bin").write_bytes(b"something else" + good)

    async def story() -> None:
        async with serving(where, ready=False) as window:
            await until(lambda: window.reader.problem, "it is told")
            status, _, body = await window.get("api/v1/frame")
            assert status == 503 and b"not a journal that this farflung reads" in body
            (where / "journal.bin").write_bytes(good)
            await until(lambda: window.reader.ready, "it is read")
            assert (await window.json("api/v1/head"))["rounds"] > 30
            assert window.reader.problem == ""

    served(story)


def test_a_prefix_is_taken_away(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder, prefix="/runs/one") as window:
            assert (await window.get("runs/one/api/v1/head"))[0] == 200
            assert (await window.get("runs/one/"))[0] == 200
            status, headers, _ = await window.get("runs/one")
            assert (status, headers["Location"]) == (308, "one/")
            for path in ("api/v1/head", "runs/oneapi/v1/head", "runs/"):
                assert (await window.get(path))[0] == 404, path

    served(story)


def test_without_the_map_no_region_leaves_the_host(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder, map_shown=False) as window:
            frame = await window.json("api/v1/frame")
            assert frame["head"]["map"] is False and frame["regions"] == []
            assert not any(p["region"] for p in frame["peers"])
            assert not any(n["region"] for n in frame["links"]["nodes"])

    served(story)


# ---- the stream ----------------------------------------------------------------------------


def copy_of(folder: Path, tmp_path: Path) -> tuple[Path, EventLog]:
    """A run that goes on: its folder, and the log to write to."""
    for name in ("journal.bin", "events.jsonl"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    return tmp_path, EventLog(tmp_path / "events.jsonl", "coordinator", lambda: 1.0)


async def opened(window: Serving, **headers: str) -> Stream:
    answer = await window.session.get(
        window.url("api/v1/stream"), headers=headers, timeout=aiohttp.ClientTimeout(sock_read=60)
    )
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
    return Stream(answer)


@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_all_viewers_hear_what_happens_in_the_same_words(
    folder: Path, tmp_path: Path, coding: str
) -> None:
    async def story() -> None:
        where, log = copy_of(folder, tmp_path)
        async with serving(where) as window:
            headers = {"Accept-Encoding": coding}
            early = await opened(window, **headers)
            number = (await window.json("api/v1/head"))["round"] + 1
            log.emit(RoundOpened(round=number, fragment=0, peers=2, rows=8))
            head = await early.find("head", lambda h: h["round"] == number)
            is_a("Head", head)
            late = await opened(window, **headers)  # into the middle of the packed stream
            log.emit(RoundAbandoned(round=number, fragment=0, reason="nobody <b>came</b>"))
            for viewer in (early, late):
                line = await viewer.find("line", lambda x: "abandoned" in x["text"])
                is_a("Line", line)
                assert viewer.ids == sorted(viewer.ids)
                viewer.answer.close()
        log.close()

    served(story)


def test_what_happens_between_frame_and_stream_is_not_missed(folder: Path, tmp_path: Path) -> None:
    async def story() -> None:
        where, log = copy_of(folder, tmp_path)
        async with serving(where) as window:
            frame = await window.json("api/v1/frame")
            number = frame["head"]["round"] + 1
            log.emit(RoundOpened(round=number, fragment=0, peers=2, rows=8))
            step = window.reader.step
            await until(lambda: window.reader.step > step, "it is folded")
            viewer = await opened(window)
            assert (await viewer.find("head"))["round"] == number
            viewer.answer.close()
        log.close()

    served(story)


def test_a_viewer_that_does_not_read_is_cut_off_and_disturbs_nobody(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farflung.window.stream.MOST_BEHIND", 100_000)

    async def story() -> None:
        where, log = copy_of(folder, tmp_path)
        async with serving(where) as window:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", window.port))
            _, writer = await asyncio.open_connection(sock=sock, limit=1)
            writer.write(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            good = await opened(window)
            await until(lambda: len(window.server.hub) == 2, "both are there")
            number = (await window.json("api/v1/head"))["round"] + 1
            heard = asyncio.Event()

            async def listen() -> None:
                while not heard.is_set():
                    await good.event()

            async with asyncio.TaskGroup() as group:
                listening = group.create_task(listen())
                for _ in range(500):
                    await window.server.hub._hand_out(packed(b": " + b"x" * 50_000 + b"\n\n"))
                    await asyncio.sleep(0.01)
                    if window.server.hub.dropped:
                        break
                assert window.server.hub.dropped == 1
                heard.set()
                log.emit(RoundOpened(round=number + 1, fragment=0, peers=2, rows=8))
                await listening
            assert len(window.server.hub) <= 1
            good.answer.close()
            await hang_up(writer)
        log.close()

    served(story)


def test_a_viewer_of_an_old_protocol_gets_an_unframed_stream(folder: Path, tmp_path: Path) -> None:
    """HTTP/1.0 knows no chunks: nginx asks so unless it is told otherwise."""

    async def story() -> None:
        where, log = copy_of(folder, tmp_path)
        async with serving(where) as window:
            reader, writer = await asyncio.open_connection("127.0.0.1", window.port)
            writer.write(b"GET /api/v1/stream HTTP/1.0\r\nHost: localhost\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"chunked" not in head.lower()
            assert await reader.readuntil(b"\n\n") == b"retry: 2000\n\n"
            await hang_up(writer)
        log.close()

    served(story)


def test_another_run_in_the_folder_ends_all_streams(folder: Path, tmp_path: Path) -> None:
    async def story() -> None:
        where, log = copy_of(folder, tmp_path)
        log.close()
        async with serving(where) as window:
            viewer = await opened(window)
            before = await window.json("api/v1/head")
            for name in ("journal.bin", "events.jsonl"):
                (where / name).unlink()
            write_folder(Options(peers=3, rounds=5, seed=9), where)
            await until(lambda: window.reader.life == 1 and window.reader.ready, "it is read anew")
            with pytest.raises((aiohttp.ClientError, AssertionError)):
                await viewer.find("never")
            after = await window.json("api/v1/head")
            assert after["run"] != before["run"] or after["rounds"] < before["rounds"]
            viewer.answer.close()

    served(story)


# ---- load ----------------------------------------------------------------------------------


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def first_line(window: Serving, host: str = "127.0.0.1") -> tuple[bytes, Any]:
    """Of the answer to a request on a connection that stays open."""
    reader, writer = await asyncio.open_connection(host, window.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return await reader.readline(), writer


def test_connections_are_limited_in_all(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder, most_connections=3) as window:
            held = [await first_line(window) for _ in range(3)]
            assert [line.split()[1] for line, _ in held] == [b"200"] * 3
            reader, writer = await asyncio.open_connection("127.0.0.1", window.port)
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 503 ") and b"try again later\n" in answer
            await hang_up(writer)
            await hang_up(held[0][1])
            await until(lambda: window.server.census.open == 2, "one has gone")
            line, again = await first_line(window)
            assert b"200" in line
            for w in (held[1][1], held[2][1], again):
                await hang_up(w)
            assert window.server.census.refused == 1

    served(story)


def test_a_connection_that_asks_nothing_is_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farflung.window.connections.FIRST_S", 0.1)

    async def story() -> None:
        async with serving(folder) as window:
            reader, writer = await asyncio.open_connection("127.0.0.1", window.port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: local")
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 30) == b""
            await hang_up(writer)
            await until(lambda: window.server.census.open == 0, "it is not counted any more")

    served(story)


def test_the_same_question_at_once_is_answered_once(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder) as window:
            made = 0
            answered = window.reader._answered

            def counting(question: Any) -> Any:
                nonlocal made
                made += 1
                return answered(question)

            window.reader._answered = counting  # type: ignore[method-assign]
            bodies = await asyncio.gather(*(window.get("api/v1/peers") for _ in range(50)))
            assert len({body for _, _, body in bodies}) == 1
            assert made <= 3

    served(story)


def test_too_many_different_questions_are_turned_away(folder: Path) -> None:
    async def story() -> None:
        async with serving(folder) as window:
            paths = [f"api/v1/rounds?points={n}" for n in range(1, 300)]
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

                async def ask(path: str) -> int:
                    async with session.get(window.url(path)) as answer:
                        await answer.read()
                        return answer.status

                found = await asyncio.gather(*map(ask, paths))
            assert set(found) <= {200, 503} and found.count(200) >= 64
            assert (await window.get("api/v1/head"))[0] == 200

    served(story)
