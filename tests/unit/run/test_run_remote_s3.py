"""A data folder in an S3-compatible store (moto, on this machine): read by ranges, with faults."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from data_servers import FaultyProxy

from farflung.config.load import from_table
from farflung.data.manifest import MANIFEST_FILE
from farflung.data.prepare import prepare
from farflung.data.shards import open_sources
from farflung.data.split import Document
from farflung.data.tokenizer import ByteTokenizer
from farflung.errors import ConfigError, LinkDown, UserError
from farflung.run.host_data import place_sources
from farflung.run.remote_folder import RemoteFolder

T = 64
BUCKET = "rows"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("d")
    prepare([Document("x", "some words " * 3000)], ByteTokenizer(), T, folder, shard_rows=100)
    return folder


@pytest.fixture(scope="module")
def endpoint(prepared: Path) -> Iterator[str]:
    """A server with the folder at s3://rows/here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that only tests use
        import boto3
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="y",
        )
        client.create_bucket(Bucket=BUCKET)
        for path in prepared.iterdir():
            client.put_object(Bucket=BUCKET, Key=f"here/{path.name}", Body=path.read_bytes())
        client.close()
        yield url
        server.stop()


@pytest.fixture
def proxy(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    yield proxy
    proxy.close()


FILE = "train-00001.bin"


def read(offset: int, length: int) -> bytes:
    return asyncio.run(RemoteFolder(f"s3://{BUCKET}/here").read(FILE, offset, length))


@pytest.mark.parametrize("faults", [[], ["503"], ["503", "503"], ["late"], ["cut"]])
def test_a_range_is_exact_whatever_the_store_does(
    prepared: Path, proxy: FaultyProxy, faults: list[str]
) -> None:
    """A cut answer may be an error, of which whoever asks tries again, but never other bytes."""
    proxy.faults = list(faults)
    expected = (prepared / FILE).read_bytes()[1000:3000]
    found = b""
    with contextlib.suppress(LinkDown) if "cut" in faults else contextlib.nullcontext():
        found = read(1000, 2000)
    assert (found or read(1000, 2000)) == expected
    assert proxy.faults == []


def test_a_missing_file_and_a_wrong_range_are_named(proxy: FaultyProxy) -> None:  # noqa: ARG001
    with pytest.raises(LinkDown, match=rf"s3://{BUCKET}/here/none\.bin"):
        asyncio.run(RemoteFolder(f"s3://{BUCKET}/here").read("none.bin", 0, 5))
    with pytest.raises(LinkDown, match=rf"s3://{BUCKET}/here/{FILE}"):
        read(10**9, 5)


def test_a_host_takes_everything_but_the_training_rows(
    tmp_path: Path, prepared: Path, proxy: FaultyProxy
) -> None:
    proxy.faults = ["503"]
    spec = from_table({"data": {"source": f"s3://{BUCKET}/here", "seq_len": T}})
    said: list[str] = []
    place_sources(spec.data, tmp_path / "data", said.append)
    here = {path.name for path in (tmp_path / "data").iterdir()}
    gone = {path.name for path in prepared.iterdir()} - here
    assert gone and all(n.startswith("train") and not n.endswith(".b3") for n in gone)
    rows = open_sources(tmp_path / "data", spec.data)
    assert len(rows.train) > 100 and rows.held_out[0].shape == (T + 1,)
    assert said == [f"reading s3://{BUCKET}/here/{MANIFEST_FILE} ..."]


def test_a_host_says_what_is_wrong_with_a_store(tmp_path: Path, proxy: FaultyProxy) -> None:  # noqa: ARG001
    spec = from_table({"data": {"source": f"s3://{BUCKET}/elsewhere", "seq_len": T}})
    with pytest.raises(UserError, match=rf"s3://{BUCKET}/elsewhere.*manifest\.json"):
        place_sources(spec.data, tmp_path / "data", print)
    with pytest.raises(ConfigError, match="cannot be used"):
        RemoteFolder("s3://?")


def test_without_obstore_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConfigError, match=r"pip install 'farflung\[s3\]'"):
        RemoteFolder("https://example.org/data")
