# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A web server that falls silent in mid-file: what was read stays read, and the rest is asked for again."""

import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import datasets
import pytest

from trainer import load_pairs
from trainer.data import patience


class Silent(BaseHTTPRequestHandler):
    """Serves the files of its server, by ranges; so many answers with a body stop in the middle and stay open."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        content, start, status = self.server.files[self.path], 0, 200
        if asked := self.headers.get("Range"):
            start, _, end = asked.removeprefix("bytes=").partition("-")
            start, size, status = int(start), len(content), 206
            content = content[start : int(end) + 1 if end else size]
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{size}")
        self.end_headers()
        if body and self.server.is_open and self.server.silences != 0:
            self.server.silences -= 1
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.server.closing.wait(60)
        elif body:
            self.wfile.write(content)


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    server.daemon_threads = True
    server.files, server.silences, server.is_open, server.closing = {}, 0, True, threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(patience, "READ_TIMEOUT", 0.3)
    monkeypatch.setattr(datasets.config, "STREAMING_READ_RETRY_INTERVAL", 0.01)
    monkeypatch.setattr(datasets.config, "STREAMING_READ_MAX_RETRIES", 4)


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def as_tar(pairs):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, row in enumerate(pairs):
            for suffix, content in (("png", encoded(row["image"])), ("txt", row["caption"].encode())):
                member = tarfile.TarInfo(f"{number:05}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def as_parquet(pairs):
    buffer = io.BytesIO()
    pairs.to_parquet(buffer)
    return buffer.getvalue()


def as_json(pairs):
    rows = [{"image": f"{number}.png", "caption": row["caption"]} for number, row in enumerate(pairs)]
    return json.dumps(rows).encode()


class TestStalledReads:
    @pytest.mark.parametrize(("name", "written"), [("pairs.tar", as_tar), ("pairs.parquet", as_parquet)])
    def test_every_pair_comes_once(self, server, pairs, name, written):
        server.files[f"/{name}"] = written(pairs)
        stream = load_pairs(f"http://127.0.0.1:{server.server_port}/{name}", split="train", streaming=True)
        server.silences = 2
        rows = [(row["caption"], row["image"].tobytes()) for row in stream]
        assert rows == [(row["caption"], row["image"].tobytes()) for row in pairs]
        assert server.silences == 0

    def test_a_list_of_pairs_too(self, server, pairs):
        server.files["/pairs.json"], server.silences = as_json(pairs), 2
        with patience.open_to_read(f"http://127.0.0.1:{server.server_port}/pairs.json", {}) as file:
            assert json.load(file) == json.loads(as_json(pairs))

    def test_a_server_that_stays_silent_is_an_error_in_the_end(self, server, pairs):
        server.files["/pairs.tar"] = as_tar(pairs)
        stream = load_pairs(f"http://127.0.0.1:{server.server_port}/pairs.tar", split="train", streaming=True)
        server.silences = -1
        with pytest.raises(ConnectionError, match="Server Disconnected"):
            list(stream)


class TestLimits:
    def test_are_for_the_web_alone_and_those_that_are_given_stay(self):
        assert patience.within_limits(["s3://bucket/a.tar", "a.tar"], {"key": "k"}) == {"key": "k"}
        limits = patience.within_limits(["https://host/a.tar"], {"headers": {}, "client_kwargs": {"trust_env": True}})
        assert limits["headers"] == {} and limits["client_kwargs"]["trust_env"]
        assert limits["client_kwargs"]["timeout"] == aiohttp.ClientTimeout(None, sock_connect=30.0, sock_read=0.3)
        given = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(5)}}
        assert patience.within_limits(["https://host/a.tar"], given) == given
