# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The check of dependencies: `pip-audit` against databases on loopback that know a flaw, nothing, or do not answer."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests import check_dependencies
from tests.check_dependencies import CONSTRAINTS, Report, ask, main


FLAW = {
    "id": "PYSEC-2000-1",
    "modified": "2000-01-02T00:00:00Z",
    "published": "2000-01-01T00:00:00Z",
    "summary": "It runs what it reads",
    "details": "It runs what it reads",
    "affected": [
        {
            "package": {"name": "left-pad", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.3"}]}],
            "versions": ["1.2"],
        }
    ],
}


@contextlib.contextmanager
def database(answer):
    """A server like osv.dev's, that answers a query by the function."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(answer(query)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def constraints(tmp_path):
    file = tmp_path / "constraints.txt"
    file.write_text("left-pad==1.2\nright-pad==7.0\n")
    return file


class TestAsking:
    def test_a_flaw_is_named_with_its_correction(self, constraints):
        pytest.importorskip("pip_audit")
        with database(lambda query: {"vulns": [FLAW] if query["package"]["name"] == "left-pad" else []}) as url:
            answer = ask("osv", constraints, "--osv-url", url)
        assert sorted(answer.checked) == ["left-pad", "right-pad"] and answer.unknown == []
        (flaw,) = answer.flaws
        assert flaw.startswith("left-pad 1.2: PYSEC-2000-1 (corrected in 1.3): It runs")

    @pytest.mark.slow
    def test_nobody_there(self, constraints):
        pytest.importorskip("pip_audit")
        answer = ask("osv", constraints, "--osv-url", "http://127.0.0.1:9/v1/query")
        assert isinstance(answer, str) and "refused" in answer


class TestVerdict:
    @pytest.mark.parametrize(
        ("answers", "code", "strict", "said"),
        [
            ([Report(["a", "b"], [], [])], 0, 0, "2 pinned packages have no flaw that pypi knows of."),
            ([Report(["a"], ["b"], [])], 0, 1, "NOT CHECKED, since pypi does not know them: b"),
            ([Report(["a"], [], ["a 1.0: X"])], 1, 1, "a 1.0: X"),
            (["gone", Report(["a"], [], [])], 0, 0, "1 pinned packages have no flaw that osv knows of."),
            # What `pip-audit` itself ends with success after: a mirror that knows no package.
            ([Report([], ["a", "b"], []), "gone"], 0, 1, "NOT CHECKED, since no database could be asked"),
            (["gone", "gone"], 0, 1, "This is no pass."),
        ],
    )
    def test_of_what_was_answered(self, monkeypatch, capsys, answers, code, strict, said):
        for arguments, expected in (([], code), (["--strict"], strict)):
            given = dict(zip(check_dependencies.SERVICES, answers, strict=False))
            monkeypatch.setattr(check_dependencies, "ask", given.__getitem__)
            assert main(arguments) == expected
            assert said in capsys.readouterr().out

    def test_what_is_accepted_is_no_flaw_and_is_told(self, monkeypatch, capsys):
        flaw = {"id": "PYSEC-2000-1", "aliases": ["CVE-1"], "fix_versions": [], "description": ""}
        report = {"dependencies": [{"name": "a", "version": "1", "vulns": [flaw]}]}
        assert check_dependencies.read_report(report).flaws == ["a 1: PYSEC-2000-1 (corrected in no release yet): "]
        monkeypatch.setattr(check_dependencies, "ACCEPTED", {"CVE-1": "nothing of it is called"})
        assert check_dependencies.read_report(report).flaws == []
        monkeypatch.setattr(check_dependencies, "ask", lambda service: check_dependencies.read_report(report))
        assert main([]) == 0 and "Accepted: CVE-1: nothing of it is called" in capsys.readouterr().out

    def test_every_pin_is_exact(self):
        pins = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
        assert all(line.count("==") == 1 for line in pins) and pins == sorted(pins, key=str.lower)
