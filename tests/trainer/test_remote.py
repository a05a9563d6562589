# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Images by web address: what servers do to a client, and what it costs."""

import io
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import PIL.Image
import pytest

from trainer.data import ImageDecodingError, ImageFetchError, PairCollator, decode_image, fetch_image, remote
from trainer.data.remote import fetched


def encoded(color):
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


class Server(BaseHTTPRequestHandler):
    """Answers as the path says: /ok/red, /status/503/ok/red (the second time well), /redirect/3, /large, /slow ..."""

    asked: Counter = Counter()
    together, most_together = 0, 0

    def do_GET(self):
        cls = type(self)
        cls.asked[self.path] += 1
        cls.together += 1
        cls.most_together = max(cls.most_together, cls.together)
        try:
            _, kind, *rest = self.path.split("/")
            getattr(self, kind)(*rest)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            cls.together -= 1

    def answer(self, content, status=200, length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def ok(self, color):
        time.sleep(0.02)
        self.answer(encoded(color))

    def status(self, status, color, **headers):
        failing = self.asked[self.path] == 1
        self.answer(b"" if failing else encoded(color), int(status) if failing else 200, **headers)

    def missing(self):
        self.answer(b"<html>", 404)

    def redirect(self, count):
        target = f"/redirect/{int(count) - 1}" if int(count) else "/ok/red"
        self.answer(b"", 302, Location=target)

    def elsewhere(self, scheme):
        self.answer(b"", 302, Location=f"{scheme}:///etc/passwd")

    def large(self, announced):
        self.answer(bytes(5000), length=5000 if announced == "yes" else 10)

    def endless(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(1000):
            self.wfile.write(bytes(1000))

    def short(self):
        self.answer(encoded("red")[:20], length=500)

    def slow(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def silent(self):
        time.sleep(1)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(remote, "_LONGEST_WAIT", 0.05)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Server.asked = Counter()
    Server.together = Server.most_together = 0
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()


class TestFetchImage:
    @pytest.mark.parametrize("path", ["/ok/red", "/redirect/4"])
    def test_the_file(self, server, path):
        assert fetch_image(server + path) == encoded("red")
        assert decode_image({"bytes": None, "path": server + path}).getpixel((0, 0)) == (255, 0, 0)

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_what_may_go_well_is_tried_again(self, server, status):
        assert fetch_image(f"{server}/status/{status}/red") == encoded("red")
        assert Server.asked.total() == 2

    @pytest.mark.parametrize(
        ("path", "message", "asked"),
        [
            ("/missing", "404", 1),
            ("/redirect/9", "redirect", None),
            ("/elsewhere/file", "'file:///etc/passwd' is not allowed", 1),
            ("/elsewhere/ftp", "no web address", 1),
            ("/large/yes", "larger than 4000 bytes", 1),
            ("/endless", "larger than 4000 bytes", 1),
            ("/short", "IncompleteRead", 3),
            ("/slow", "not complete after 0.3 s|timed out", 3),
            ("/silent", "timed out|TimeoutError", 3),
        ],
    )
    def test_what_does_not(self, server, path, message, asked):
        start = time.monotonic()
        with pytest.raises(ImageFetchError, match=message):
            fetch_image(server + path, max_bytes=4000, timeout=0.3)
        assert asked is None or Server.asked[path] == asked
        assert time.monotonic() - start < 20

    @pytest.mark.parametrize(
        "address", ["file:///etc/passwd", "ftp://host/a.jpg", "data:image/png;base64,AAAA", "/etc/x"]
    )
    def test_only_the_web(self, address):
        with pytest.raises(ImageFetchError, match="no web address"):
            fetch_image(address)

    def test_no_server(self):
        with pytest.raises(ImageFetchError, match="refused"):
            fetch_image("http://127.0.0.1:9/a.png", attempts=1)

    @pytest.mark.parametrize(
        "path", ["file:///etc/hostname", "local:///etc/hostname", "simplecache::file:///etc/hostname"]
    )
    def test_files_of_this_machine_are_not_opened_by_url(self, path):
        with pytest.raises(ImageDecodingError, match="data do not open files"):
            decode_image({"bytes": None, "path": path})


class TestFetched:
    def test_a_batch_at_a_time(self, server):
        colors = ["red", "lime", "blue", "black", "white", "gray"]
        rows = [{"image": {"bytes": None, "path": f"{server}/ok/{color}"}, "caption": color} for color in colors]
        rows[1:1] = [{"image": {"bytes": b"x", "path": f"{server}/missing"}, "caption": "here"}, {"caption": "none"}]
        rows += [{"image": f"{server}/missing", "caption": "gone"}, dict(rows[0])]
        found = fetched(rows)
        assert [row["caption"] for row in found] == [row["caption"] for row in rows]
        assert found[0]["image"]["bytes"] == found[-1]["image"]["bytes"] == encoded("red")
        assert found[1:3] == rows[1:3]
        assert isinstance(found[-2]["image"], ImageFetchError)
        with pytest.raises(ImageDecodingError, match="404"):
            decode_image(found[-2]["image"])
        # The same address is asked once, and several at the same time.
        assert Server.asked["/ok/red"] == 1
        assert Server.most_together > 1

    def test_a_pair_whose_image_is_gone_is_left_out_and_counted(self, server, tiny_processor):
        rows = [
            {"image": {"bytes": None, "path": f"{server}/{path}"}, "caption": "a red bus", "pair_id": number}
            for number, path in enumerate(["ok/red", "missing", "ok/blue"])
        ]
        collator = PairCollator(tiny_processor).for_evaluation()
        assert collator(rows)["pair_ids"].tolist() == [0, 2]
        assert sum(collator.skipped.values()) == 1
        asked = Server.asked.total()
        seen = [{**row, "vision_tower_features": [0.0]} for row in rows]
        assert collator(seen)["pair_ids"].tolist() == [0, 1, 2]
        assert Server.asked.total() == asked

    def test_rows_without_addresses_are_left_alone(self):
        rows = [{"image": {"bytes": b"x", "path": None}}]
        assert fetched(rows) is rows
