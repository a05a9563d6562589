# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""
A small Hub on loopback: what `huggingface_hub` asks of the real one, over HTTP, stored on disk, with faults on order.

The stock client talks to it unmodified when `HF_ENDPOINT` points at it (and `HF_HUB_DISABLE_XET=1` has it take git
LFS, which it speaks wherever `hf_xet` is not installed). What is kept is laid out as git does: files by their hash,
commits as JSON that names them, branches, tags and pull requests as names of commits. Large files lie in a storage of
another origin, as with the real one, so that a token that leaks to it is seen.

Run by itself: `python -m tests.hub_server --root FOLDER --token NAME=SECRET`.
"""

import argparse
import base64
import hashlib
import json
import math
import os
import re
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml


REPO_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
LARGE_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".parquet", ".arrow", ".msgpack", ".onnx", ".pkl"}
LARGE_SIZE = 10_000_000
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in sorted(LARGE_SUFFIXES))
PAGE_SIZE = 1000
COMMIT_PATTERN = re.compile(r"[0-9a-f]{40}")


# What is kept ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Account:
    """Whom a token belongs to, and whether it may write."""

    name: str
    can_write: bool = True
    organizations: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        return self.can_write and (namespace == self.name or namespace in self.organizations)


class HubError(Exception):
    """An answer that is an error: the status, the code in `X-Error-Code`, and the message."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any):
        super().__init__(message)
        self.status = status
        self.code = code
        self.body = {"error": message, **body}


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def card_data(content: bytes | None) -> dict | None:
    """The metadata of a `README.md`, `None` if it has none. Raises `yaml.YAMLError` or `ValueError`."""
    match = re.match(r"\s*---\r?\n(.*?)^---\s*$", (content or b"").decode(), re.DOTALL | re.MULTILINE)
    if match is None:
        return None
    data = yaml.safe_load(match[1])
    if data is not None and not isinstance(data, dict):
        raise ValueError("metadata must be a mapping")
    return data or {}


def card_problems(content: bytes, repo_type: str) -> list[str]:
    """What the Hub rejects a card for: a part of its rules."""
    try:
        data = card_data(content) or {}
    except (yaml.YAMLError, ValueError) as error:
        return [f"Invalid YAML: {error}"]
    problems = []
    for name in ("tags", "datasets", "metrics"):
        value = data.get(name, [])
        if not (isinstance(value, str) or isinstance(value, list) and all(isinstance(item, str) for item in value)):
            problems.append(f'"{name}" must be a string or an array of strings')
    if not isinstance(data.get("license", ""), (str, list)):
        problems.append('"license" must be a string')
    if repo_type == "model" and not isinstance(data.get("model-index", []), list):
        problems.append('"model-index" must be an array')
    if repo_type == "space" and data.get("sdk") not in ("gradio", "docker", "static", "streamlit"):
        problems.append('"sdk" must be one of [gradio, docker, static, streamlit]')
    return problems


class Repository:
    """One repository: its settings and references in `repo.json`, its commits beside it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.data = json.loads((folder / "repo.json").read_text())

    @classmethod
    def create(cls, folder: Path, repo_type: str, repo_id: str, private: bool, sdk: str | None) -> "Repository":
        data = {
            "id": repo_id,
            "type": repo_type,
            "private": private,
            "gated": False,
            "sdk": sdk,
            "createdAt": now(),
            "branches": {},
            "tags": {},
            "discussions": [],
        }
        write_atomically(folder / "repo.json", json.dumps(data).encode())
        return cls(folder)

    def save(self) -> None:
        write_atomically(self.folder / "repo.json", json.dumps(self.data, indent=1).encode())

    @property
    def namespace(self) -> str:
        return self.data["id"].split("/")[0]

    def references(self) -> dict[str, str]:
        """Every name of a commit: branches, tags and pull requests."""
        pulls = {f"refs/pr/{each['num']}": each["head"] for each in self.data["discussions"] if each.get("head")}
        return {**self.data["tags"], **self.data["branches"], **pulls}

    def resolve(self, revision: str) -> str:
        references = self.references()
        for name in (revision, revision.removeprefix("refs/heads/"), revision.removeprefix("refs/tags/")):
            if name in references:
                return references[name]
        if COMMIT_PATTERN.fullmatch(revision) and self._commit_file(revision).exists():
            return revision
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def _commit_file(self, oid: str) -> Path:
        return self.folder / "commits" / f"{oid}.json"

    def commit(self, oid: str) -> dict:
        return json.loads(self._commit_file(oid).read_text())

    def files(self, revision: str) -> dict[str, dict]:
        return self.commit(self.resolve(revision))["files"]

    def history(self, revision: str) -> Iterator[dict]:
        oid = self.resolve(revision)
        while oid is not None:
            commit = self.commit(oid)
            yield commit
            oid = commit["parent"]

    def add_commit(self, parent: str | None, files: dict, title: str, message: str, author: str) -> str:
        commit = {
            "parent": parent,
            "title": title,
            "message": message,
            "author": author,
            "date": now(),
            "files": files,
            "nonce": secrets.token_hex(4),
        }
        oid = hashlib.sha1(json.dumps(commit, sort_keys=True).encode()).hexdigest()
        write_atomically(self._commit_file(oid), json.dumps({"oid": oid, **commit}, indent=1).encode())
        return oid

    def move(self, revision: str, oid: str) -> None:
        """Lets a branch or a pull request point to another commit."""
        if revision.startswith("refs/pr/"):
            self.discussion(int(revision.removeprefix("refs/pr/")))["head"] = oid
        else:
            self.data["branches"][revision.removeprefix("refs/heads/")] = oid
        self.save()

    def discussion(self, number: int) -> dict:
        for each in self.data["discussions"]:
            if each["num"] == number:
                return each
        raise HubError(404, f"Discussion {number} not found")

    def open_discussion(self, title: str, author: str, head: str | None, status: str = "open") -> dict:
        discussion = {
            "num": len(self.data["discussions"]) + 1,
            "title": title,
            "author": author,
            "createdAt": now(),
            "status": status,
            "head": head,
            "mergedAs": None,
        }
        self.data["discussions"].append(discussion)
        self.save()
        return discussion


class Storage:
    """Repositories and the contents of their files, on disk."""

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)
        self.lock = threading.RLock()

    def object_path(self, sha256: str) -> Path:
        return self.root / "objects" / sha256[:2] / sha256

    def put(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        if not self.object_path(sha256).exists():
            write_atomically(self.object_path(sha256), content)
        return sha256

    def get(self, sha256: str) -> bytes:
        return self.object_path(sha256).read_bytes()

    def folder(self, repo_type: str, repo_id: str) -> Path:
        return self.root / "repositories" / repo_type / repo_id

    def exists(self, repo_type: str, repo_id: str) -> bool:
        return (self.folder(repo_type, repo_id) / "repo.json").is_file()

    def repository(self, repo_type: str, repo_id: str) -> Repository:
        return Repository(self.folder(repo_type, repo_id))

    def entry(self, content: bytes) -> dict:
        """A regular file, as a commit lists it."""
        return {"sha256": self.put(content), "size": len(content), "oid": git_hash(content), "lfs": False}


# Faults ----------------------------------------------------------------------------------------------------------


@dataclass
class Fault:
    """
    What goes wrong with some of the requests that match.

    Args:
        method (`str`): The HTTP method.
        path (`str`): A pattern that is searched in the path (with its query).
        status (`int`, *optional*): The answer, instead of the real one.
        headers (`dict`, *optional*): Headers of that answer.
        body (`dict`, *optional*): Body of that answer.
        cut_upload (`int`, *optional*): The connection is cut after this many bytes of the request's body.
        cut_download (`int`, *optional*): The connection is cut after this many bytes of the answer's body.
        lose_answer (`bool`, *optional*, defaults to `False`): What was asked for is done, but never answered.
        corrupt (`bool`, *optional*, defaults to `False`): One byte of the content is another one.
        delay (`float`, *optional*, defaults to 0.0): Seconds before the answer.
        skip (`int`, *optional*, defaults to 0): How many matching requests go well before.
        times (`int`, *optional*, defaults to 1): How many go wrong then; -1 for all.
    """

    method: str
    path: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: dict | None = None
    cut_upload: int | None = None
    cut_download: int | None = None
    lose_answer: bool = False
    corrupt: bool = False
    delay: float = 0.0
    skip: int = 0
    times: int = 1

    def strikes(self, method: str, path: str) -> bool:
        if method != self.method or not re.search(self.path, path) or self.times == 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass(frozen=True)
class Seen:
    """A request that was answered, or cut."""

    method: str
    path: str
    status: int
    headers: dict[str, str]
    at_storage: bool


class ConnectionCut(Exception):
    """The fault plan wants the connection to end here."""


# The server ------------------------------------------------------------------------------------------------------


class Hub:
    """
    The server, in a thread of this process.

    Args:
        root (`str` or `os.PathLike`): The folder for everything that is kept.
        tokens (`dict[str, Account]`): The accounts by their tokens.
        part_size (`int`, *optional*, defaults to 10 MB): Larger files are uploaded in parts of this size.
        port (`int`, *optional*, defaults to 0): The port; 0 takes a free one.
    """

    def __init__(
        self, root: str | os.PathLike, tokens: dict[str, Account], part_size: int = 10_000_000, port: int = 0
    ):
        self.storage = Storage(root)
        self.tokens = tokens
        self.part_size = part_size
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.parts: dict[tuple[str, int], bytes] = {}
        self.fault_lock = threading.Lock()
        self._servers = [_Server(("127.0.0.1", each), Handler, self) for each in (port, 0)]
        self.url, self.storage_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)
        self._servers[1].is_storage = True
        self._threads = [threading.Thread(target=server.serve_forever, daemon=True) for server in self._servers]

    def __enter__(self) -> "Hub":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def fail(self, method: str, path: str, **what: Any) -> Fault:
        """Orders a [`Fault`]."""
        fault = Fault(method, path, **what)
        with self.fault_lock:
            self.faults.append(fault)
        return fault

    def fault_for(self, method: str, path: str) -> Fault:
        with self.fault_lock:
            return next((fault for fault in self.faults if fault.strikes(method, path)), Fault(method, path))

    def requests(self, method: str, path: str) -> list[Seen]:
        """What was asked for so far, by method and a pattern of the path."""
        return [seen for seen in self.seen if seen.method == method and re.search(path, seen.path)]

    # What tests ask, beside the protocol

    def repository(self, repo_id: str, repo_type: str = "model") -> Repository:
        return self.storage.repository(repo_type, repo_id)

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        """Every file of a revision with its content."""
        entries = self.repository(repo_id, repo_type).files(revision)
        return {path: self.storage.get(entry["sha256"]) for path, entry in entries.items()}

    def commits(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> list[str]:
        """The titles of the commits of a revision, the newest first, without the initial one."""
        return [commit["title"] for commit in self.repository(repo_id, repo_type).history(revision)][:-1]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    is_storage = False

    def __init__(self, address: tuple[str, int], handler: type, hub: Hub):
        super().__init__(address, handler)
        self.hub = hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is not worth a traceback."""


Route = tuple[str, re.Pattern, Callable[..., Any]]
ROUTES: list[Route] = []
_REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
_PLAIN_REPO = r"/(?:(?P<kind>datasets|spaces)/)?(?P<repo_id>[^/]+/[^/]+)"


def route(method: str, pattern: str) -> Callable:
    """Registers what answers a method and a path; the named groups of the pattern are its arguments."""

    def register(function: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return register


class Handler(BaseHTTPRequestHandler):
    """One connection: finds the route, checks who asks, answers in JSON."""

    protocol_version = "HTTP/1.1"
    server: _Server

    # Between the protocol and the routes

    def answer(self) -> None:
        self.hub = self.server.hub
        self.fault = self.hub.fault_for(self.command, self.path)
        split = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(split.query, keep_blank_values=True).items()}
        self.body_read = False
        try:
            time.sleep(self.fault.delay)
            if self.fault.status is not None:
                self.read_body()
                raise HubError(self.fault.status, f"ordered: {self.fault.status}", **(self.fault.body or {}))
            self.dispatch(split.path)
        except HubError as error:
            code = {} if error.code is None else {"X-Error-Code": error.code, "X-Error-Message": str(error)}
            self.send_json(error.body, error.status, {**code, **self.fault.headers})
        except (ConnectionCut, ConnectionError):
            self.note(0)
            self.hang_up()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def dispatch(self, path: str) -> None:
        for method, pattern, function in ROUTES:
            match = pattern.fullmatch(path) if method == self.command else None
            if match is not None:
                groups = {name: None if text is None else unquote(text) for name, text in match.groupdict().items()}
                function(self, **groups)
                return
        raise HubError(404, f"{self.command} {path} is nothing that this Hub knows")

    def hang_up(self) -> None:
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def read_body(self) -> bytes:
        if self.body_read:
            return b""
        self.body_read = True
        pieces, limit = [], math.inf if self.fault.cut_upload is None else self.fault.cut_upload
        for piece in self._pieces():
            pieces.append(piece)
            limit -= len(piece)
            if limit <= 0:
                raise ConnectionCut
        if self.fault.cut_upload is not None:
            raise ConnectionCut
        return b"".join(pieces)

    def _pieces(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            piece = self.rfile.read(min(left, 1 << 16))
            if not piece:
                raise ConnectionCut
            left -= len(piece)
            yield piece

    def read_json(self) -> dict:
        return json.loads(self.read_body() or b"{}")

    def send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.read_body()  # What is left of it would be taken for the next request.
        if self.fault.lose_answer:
            raise ConnectionCut
        if self.fault.corrupt and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        self.note(status)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.fault.cut_download
        self.wfile.write(content if cut is None else content[:cut])
        if cut is not None:
            self.wfile.flush()
            self.hang_up()

    def send_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def note(self, status: int) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.seen.append(Seen(self.command, self.path, status, headers, self.server.is_storage))

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet: `Hub.seen` knows."""

    # Who asks, and for what

    def account(self) -> Account | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if not token:
            return None
        if scheme.lower() != "bearer" or token not in self.hub.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[token]

    def known_account(self) -> Account:
        account = self.account()
        if account is None:
            raise HubError(401, "Invalid username or password.")
        return account

    def repository(self, kind: str | None, repo_id: str) -> Repository:
        """The repository, if it may be read; a private one is not there for others."""
        repo_type = REPO_TYPES[kind or "models"]
        account = self.account()
        if self.hub.storage.exists(repo_type, repo_id):
            repository = self.hub.storage.repository(repo_type, repo_id)
            namespaces = () if account is None else (account.name, *account.organizations)
            if not repository.data["private"] or repository.namespace in namespaces:
                return repository
        if account is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        raise HubError(404, "Repository not found", "RepoNotFound")

    def writable_repository(self, kind: str | None, repo_id: str) -> Repository:
        account = self.known_account()
        repository = self.repository(kind, repo_id)
        if not account.owns(repository.namespace):
            raise HubError(
                403, "Forbidden: you must use a write token, and be the owner or a member with the rights to write"
            )
        return repository

    def url_of(self, repository: Repository) -> str:
        prefix = "" if repository.data["type"] == "model" else f"{repository.data['type']}s/"
        return f"{self.hub.url}/{prefix}{repository.data['id']}"


# Accounts and repositories ---------------------------------------------------------------------------------------


@route("GET", "/api/whoami-v2")
def whoami(handler: Handler) -> None:
    account = handler.known_account()
    role = "write" if account.can_write else "read"
    handler.send_json(
        {
            "type": "user",
            "name": account.name,
            "fullname": account.name,
            "orgs": [{"name": name, "type": "org"} for name in account.organizations],
            "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role}},
        }
    )


@route("POST", "/api/repos/create")
def create_repository(handler: Handler) -> None:
    account, asked = handler.known_account(), handler.read_json()
    repo_type, namespace = asked.get("type") or "model", asked.get("organization") or account.name
    if not account.owns(namespace):
        raise HubError(403, f'You don\'t have the rights to create a {repo_type} under the namespace "{namespace}"')
    repo_id = f"{namespace}/{asked['name']}"
    with handler.hub.storage.lock:
        if handler.hub.storage.exists(repo_type, repo_id):
            repository = handler.hub.storage.repository(repo_type, repo_id)
            raise HubError(409, f"You already created this {repo_type} repo", url=handler.url_of(repository))
        private = asked.get("visibility") == "private" or asked.get("private") is True
        folder = handler.hub.storage.folder(repo_type, repo_id)
        repository = Repository.create(folder, repo_type, repo_id, private, asked.get("sdk"))
        files = {".gitattributes": handler.hub.storage.entry(GITATTRIBUTES.encode())}
        repository.move("main", repository.add_commit(None, files, "initial commit", "", account.name))
    handler.send_json({"url": handler.url_of(repository), "name": repo_id, "id": secrets.token_hex(12)})


@route("DELETE", "/api/repos/delete")
def delete_repository(handler: Handler) -> None:
    asked = handler.read_json()
    kind = f"{asked.get('type') or 'model'}s"
    namespace = asked.get("organization") or handler.known_account().name
    repository = handler.writable_repository(kind, f"{namespace}/{asked['name']}")
    (repository.folder / "repo.json").unlink()
    handler.send_json({})


@route("POST", "/api/repos/move")
def move_repository(handler: Handler) -> None:
    asked = handler.read_json()
    repository = handler.writable_repository(f"{asked['type']}s", asked["fromRepo"])
    if handler.hub.storage.exists(asked["type"], asked["toRepo"]):
        raise HubError(409, f"{asked['toRepo']} exists already")
    target = handler.hub.storage.folder(asked["type"], asked["toRepo"])
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(repository.folder, target)
    moved = Repository(target)
    moved.data["id"] = asked["toRepo"]
    moved.save()
    handler.send_json({})


@route("PUT", f"{_REPO}/settings")
def change_settings(handler: Handler, kind: str, repo_id: str) -> None:
    repository, asked = handler.writable_repository(kind, repo_id), handler.read_json()
    if "visibility" in asked or "private" in asked:
        repository.data["private"] = asked.get("visibility") == "private" or asked.get("private") is True
    repository.data["gated"] = asked.get("gated", repository.data["gated"])
    repository.save()
    handler.send_json({"private": repository.data["private"]})


@route("POST", "/api/validate-yaml")
def validate_yaml(handler: Handler) -> None:
    asked = handler.read_json()
    problems = card_problems(asked["content"].encode(), asked.get("repoType") or "model")
    if problems:
        raise HubError(400, problems[0], errors=[{"message": problem} for problem in problems], warnings=[])
    empty = (
        [] if card_data(asked["content"].encode()) else [{"message": "empty or missing yaml metadata in repo card"}]
    )
    handler.send_json({"errors": [], "warnings": empty})


@route("GET", f"{_REPO}/auth-check(?:/(?:read|write))?")
def check_access(handler: Handler, kind: str, repo_id: str) -> None:
    handler.repository(kind, repo_id)
    handler.send_json({})


@route("GET", f"{_REPO}(?:/revision/(?P<revision>[^/]+))?")
def repository_info(handler: Handler, kind: str, repo_id: str, revision: str | None) -> None:
    repository = handler.repository(kind, repo_id)
    commit = repository.commit(repository.resolve(revision or "main"))
    card = commit["files"].get("README.md")
    data = None if card is None else card_data(handler.hub.storage.get(card["sha256"]))
    detailed = handler.query.get("blobs", "").lower() in ("true", "1")
    handler.send_json(
        {
            "_id": hashlib.md5(repo_id.encode()).hexdigest()[:24],
            "id": repo_id,
            "modelId": repo_id,
            "author": repository.namespace,
            "sha": commit["oid"],
            "lastModified": commit["date"],
            "createdAt": repository.data["createdAt"],
            "private": repository.data["private"],
            "gated": repository.data["gated"],
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": (data or {}).get("tags") or [],
            "cardData": data,
            "sdk": repository.data["sdk"],
            "siblings": [_sibling(path, entry, detailed) for path, entry in sorted(commit["files"].items())],
        }
    )


def _sibling(path: str, entry: dict, detailed: bool) -> dict:
    sibling = {"rfilename": path}
    if detailed:
        sibling |= {"size": entry["size"], "blobId": entry["oid"]}
        if entry["lfs"]:
            sibling["lfs"] = {"sha256": entry["sha256"], "size": entry["size"], "pointerSize": 134}
    return sibling


# Files and history -----------------------------------------------------------------------------------------------


def _listed(path: str, entry: dict | None) -> dict:
    """An entry of a tree: a file, or a folder for `None`."""
    if entry is None:
        return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
    listed = {"type": "file", "path": path, "size": entry["size"], "oid": entry["oid"]}
    if entry["lfs"]:
        listed["lfs"] = {"oid": entry["sha256"], "size": entry["size"], "pointerSize": 134}
    return listed


def _folders(files: dict[str, dict]) -> set[str]:
    return {parent.as_posix() for path in files for parent in Path(path).parents} - {"."}


@route("GET", f"{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?")
def list_tree(handler: Handler, kind: str, repo_id: str, revision: str, folder: str | None) -> None:
    repository = handler.repository(kind, repo_id)
    files = repository.files(revision)
    start = f"{folder}/" if folder else ""
    everything: dict[str, dict | None] = {**dict.fromkeys(_folders(files)), **files}
    inside = {path: entry for path, entry in everything.items() if path.startswith(start)}
    if folder and not inside:
        raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    if handler.query.get("recursive", "").lower() not in ("true", "1"):
        inside = {path: entry for path, entry in inside.items() if "/" not in path.removeprefix(start)}
    rows = [_listed(path, entry) for path, entry in sorted(inside.items())]
    if handler.query.get("expand", "").lower() in ("true", "1"):
        commit = repository.commit(repository.resolve(revision))
        last = {"id": commit["oid"], "title": commit["title"], "date": commit["date"]}
        rows = [{**row, "lastCommit": last} for row in rows]
    first = int(handler.query.get("cursor", 0))
    headers = {}
    if len(rows) > first + PAGE_SIZE:
        query = "&".join(f"{name}={quote(value)}" for name, value in handler.query.items() if name != "cursor")
        path = urlsplit(handler.path).path
        headers["Link"] = f'<{handler.hub.url}{path}?{query}&cursor={first + PAGE_SIZE}>; rel="next"'
    handler.send_json(rows[first : first + PAGE_SIZE], headers=headers)


@route("POST", f"{_REPO}/paths-info/(?P<revision>[^/]+)")
def paths_info(handler: Handler, kind: str, repo_id: str, revision: str) -> None:
    body = handler.read_body().decode()
    files = handler.repository(kind, repo_id).files(revision)
    is_form = "json" not in handler.headers.get("Content-Type", "")
    paths = parse_qs(body).get("paths", []) if is_form else json.loads(body)["paths"]
    everything = {**dict.fromkeys(_folders(files)), **files}
    handler.send_json([_listed(path, everything[path]) for path in paths if path in everything])


@route("GET", f"{_REPO}/commits/(?P<revision>[^/]+)")
def list_commits(handler: Handler, kind: str, repo_id: str, revision: str) -> None:
    handler.send_json(
        [
            {
                "id": commit["oid"],
                "title": commit["title"],
                "message": commit["message"],
                "authors": [{"user": commit["author"]}],
                "date": commit["date"],
            }
            for commit in handler.repository(kind, repo_id).history(revision)
        ]
    )


@route("GET", f"{_REPO}/refs")
def list_references(handler: Handler, kind: str, repo_id: str) -> None:
    repository = handler.repository(kind, repo_id)

    def named(start: str, references: dict[str, str]) -> list[dict]:
        return [{"name": name, "ref": start + name, "targetCommit": oid} for name, oid in references.items()]

    pulls = {name: oid for name, oid in repository.references().items() if name.startswith("refs/pr/")}
    handler.send_json(
        {
            "branches": named("refs/heads/", repository.data["branches"]),
            "tags": named("refs/tags/", repository.data["tags"]),
            "converts": [],
            "pullRequests": named("", pulls),
        }
    )


@route("POST", f"{_REPO}/branch/(?P<branch>[^/]+)")
def create_branch(handler: Handler, kind: str, repo_id: str, branch: str) -> None:
    repository, asked = handler.writable_repository(kind, repo_id), handler.read_json()
    if branch.startswith("refs/"):
        raise HubError(400, f"Invalid reference for a branch: {branch}")
    if branch in repository.data["branches"]:
        raise HubError(409, f"Reference already exists: {branch}")
    repository.move(branch, repository.resolve(asked.get("startingPoint") or "main"))
    handler.send_json({})


@route("DELETE", f"{_REPO}/branch/(?P<branch>[^/]+)")
def delete_branch(handler: Handler, kind: str, repo_id: str, branch: str) -> None:
    repository = handler.writable_repository(kind, repo_id)
    if branch == "main":
        raise HubError(403, "main cannot be deleted")
    if repository.data["branches"].pop(branch, None) is None:
        raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    repository.save()
    handler.send_json({})


@route("POST", f"{_REPO}/tag/(?P<revision>[^/]+)")
def create_tag(handler: Handler, kind: str, repo_id: str, revision: str) -> None:
    repository, asked = handler.writable_repository(kind, repo_id), handler.read_json()
    if asked["tag"] in repository.data["tags"]:
        raise HubError(409, f"Tag reference exists already: {asked['tag']}")
    repository.data["tags"][asked["tag"]] = repository.resolve(revision)
    repository.save()
    handler.send_json({})


@route("DELETE", f"{_REPO}/tag/(?P<tag>[^/]+)")
def delete_tag(handler: Handler, kind: str, repo_id: str, tag: str) -> None:
    repository = handler.writable_repository(kind, repo_id)
    if repository.data["tags"].pop(tag, None) is None:
        raise HubError(404, f"Invalid rev id: {tag}", "RevisionNotFound")
    repository.save()
    handler.send_json({})


# Uploads ---------------------------------------------------------------------------------------------------------


def _is_large(path: str, size: int, sample: bytes) -> bool:
    return size > LARGE_SIZE or Path(path).suffix in LARGE_SUFFIXES or b"\0" in sample


@route("POST", f"{_REPO}/preupload/(?P<revision>[^/]+)")
def preupload(handler: Handler, kind: str, repo_id: str, revision: str) -> None:
    wants_pull_request = "create_pr" in handler.query
    find = handler.repository if wants_pull_request else handler.writable_repository
    handler.known_account()
    files = find(kind, repo_id).files(revision)
    answers = []
    for asked in handler.read_json()["files"]:
        answer = {"path": asked["path"], "shouldIgnore": False}
        large = _is_large(asked["path"], asked["size"], base64.b64decode(asked["sample"]))
        answer["uploadMode"] = "lfs" if large else "regular"
        if asked["path"] in files:
            entry = files[asked["path"]]
            answer["oid"] = entry["sha256"] if entry["lfs"] else entry["oid"]
        answers.append(answer)
    handler.send_json({"files": answers})


@route("POST", rf"{_PLAIN_REPO}\.git/info/lfs/objects/batch")
def lfs_batch(handler: Handler, kind: str | None, repo_id: str) -> None:
    handler.known_account()
    handler.repository(kind, repo_id)
    asked = handler.read_json()
    handler.send_json({"transfer": "basic", "objects": [_lfs_actions(handler.hub, each) for each in asked["objects"]]})


def _lfs_actions(hub: Hub, asked: dict) -> dict:
    oid, size = asked["oid"], asked["size"]
    answer = {"oid": oid, "size": size}
    if hub.storage.object_path(oid).exists():
        return answer
    signature = secrets.token_hex(8)
    place = f"{hub.storage_url}/upload/{oid}"
    if size > hub.part_size:
        count = math.ceil(size / hub.part_size)
        parts = {str(part): f"{place}?part={part}&signature={signature}" for part in range(1, count + 1)}
        upload = {"href": f"{hub.url}/api/complete/{oid}", "header": {"chunk_size": str(hub.part_size), **parts}}
    else:
        upload = {"href": f"{place}?signature={signature}"}
    return {**answer, "actions": {"upload": upload, "verify": {"href": f"{hub.url}/api/verify/{oid}"}}}


def _store_checked(hub: Hub, oid: str, content: bytes) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != oid:
        raise HubError(400, f"BadDigest: the content has the sha256 {found}, but {oid} was announced")
    hub.storage.put(content)


@route("PUT", "/upload/(?P<oid>[0-9a-f]{64})")
def upload(handler: Handler, oid: str) -> None:
    content = handler.read_body()
    if handler.fault.corrupt:
        handler.fault = Fault(handler.command, handler.path)
        content = bytes([content[0] ^ 1]) + content[1:]
    if "part" in handler.query:
        handler.hub.parts[oid, int(handler.query["part"])] = content
    else:
        _store_checked(handler.hub, oid, content)
    handler.send(b"", headers={"ETag": f'"{hashlib.md5(content).hexdigest()}"'})


@route("POST", "/api/complete/(?P<oid>[0-9a-f]{64})")
def complete_upload(handler: Handler, oid: str) -> None:
    numbers = [part["partNumber"] for part in handler.read_json()["parts"]]
    missing = [number for number in numbers if (oid, number) not in handler.hub.parts]
    if missing:
        raise HubError(400, f"The parts {missing} of {oid} were not uploaded")
    _store_checked(handler.hub, oid, b"".join(handler.hub.parts.pop((oid, number)) for number in numbers))
    handler.send_json({"success": True})


@route("POST", "/api/verify/(?P<oid>[0-9a-f]{64})")
def verify_upload(handler: Handler, oid: str) -> None:
    handler.known_account()
    if not handler.hub.storage.object_path(oid).exists():
        raise HubError(404, f"{oid} was not uploaded")
    handler.send_json({})


@route("POST", f"{_REPO}/commit/(?P<revision>[^/]+)")
def commit(handler: Handler, kind: str, repo_id: str, revision: str) -> None:
    wants_pull_request = "create_pr" in handler.query
    account = handler.known_account()
    repository = (handler.repository if wants_pull_request else handler.writable_repository)(kind, repo_id)
    if not account.can_write:
        raise HubError(403, "Forbidden: this token may only read")
    lines = [json.loads(line) for line in handler.read_body().splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    with handler.hub.storage.lock:
        repository = handler.hub.storage.repository(repository.data["type"], repo_id)
        parent = repository.resolve(revision)
        if header.get("parentCommit", parent) != parent:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.files(parent))
        for line in lines:
            _apply(handler.hub.storage, files, line["key"], line["value"], repository.data["type"])
        oid = repository.add_commit(parent, files, header["summary"], header.get("description", ""), account.name)
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{handler.url_of(repository)}/commit/{oid}"}
        if wants_pull_request:
            number = repository.open_discussion(header["summary"], account.name, oid)["num"]
            answer["pullRequestUrl"] = f"{handler.url_of(repository)}/discussions/{number}"
        else:
            repository.move(revision, oid)
    handler.send_json(answer)


def _apply(storage: Storage, files: dict[str, dict], key: str, value: dict, repo_type: str) -> None:
    """One line of a commit. Nothing is published before all of them have passed."""
    path = value.get("path", "")
    if path.startswith("/") or ".." in path.split("/"):
        raise HubError(400, f"Invalid path: {path}")
    if key == "file":
        content = base64.b64decode(value["content"])
        problems = card_problems(content, repo_type) if path == "README.md" else []
        if problems:
            raise HubError(400, problems[0])
        files[path] = storage.entry(content)
    elif key == "lfsFile":
        oid = value["oid"]
        if not storage.object_path(oid).exists():
            raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path} ({oid})")
        size = storage.object_path(oid).stat().st_size
        pointer = git_hash(lfs_pointer(oid, size))
        files[path] = {"sha256": oid, "size": size, "oid": pointer, "lfs": True}
    elif key == "deletedFile":
        if files.pop(path, None) is None:
            raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
    elif key == "deletedFolder":
        inside = [name for name in files if name.startswith(f"{path.rstrip('/')}/")]
        if not inside:
            raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for name in inside:
            del files[name]
    elif key != "header":
        raise HubError(400, f"Unknown operation {key!r}")


# Downloads -------------------------------------------------------------------------------------------------------


def resolve(handler: Handler, kind: str | None, repo_id: str, revision: str, path: str) -> None:
    repository = handler.repository(kind, repo_id)
    oid = repository.resolve(revision)
    commit_header = {"X-Repo-Commit": oid}
    entry = repository.commit(oid)["files"].get(path)
    if entry is None:
        handler.fault.headers = commit_header
        raise HubError(404, "Entry not found", "EntryNotFound")
    if not entry["lfs"]:
        headers = {**commit_header, "ETag": f'"{entry["oid"]}"', "Content-Type": "text/plain; charset=utf-8"}
        send_ranged(handler, handler.hub.storage.get(entry["sha256"]), headers)
        return
    place = f"{handler.hub.storage_url}/download/{entry['sha256']}?signature={secrets.token_hex(8)}"
    linked = {"X-Linked-Etag": f'"{entry["sha256"]}"', "X-Linked-Size": str(entry["size"])}
    handler.send(b"", 302, {**commit_header, **linked, "Location": place})


def download(handler: Handler, oid: str) -> None:
    if not handler.hub.storage.object_path(oid).exists():
        raise HubError(404, f"There is no object {oid}")
    send_ranged(handler, handler.hub.storage.get(oid), {"ETag": f'"{oid}"'})


for _method in ("GET", "HEAD"):
    route(_method, rf"{_PLAIN_REPO}/(?:resolve|raw)/(?P<revision>[^/]+)/(?P<path>.+)")(resolve)
    route(_method, "/download/(?P<oid>[0-9a-f]{64})")(download)


def send_ranged(handler: Handler, content: bytes, headers: dict[str, str]) -> None:
    headers = {"Accept-Ranges": "bytes", **headers}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", handler.headers.get("Range", ""))
    if asked is None:
        handler.send(content, headers=headers)
        return
    size = len(content)
    if asked[1] == "":
        first, last = max(size - int(asked[2]), 0), size - 1
    else:
        first, last = int(asked[1]), min(int(asked[2] or size - 1), size - 1)
    if first > last:
        handler.send(b"", 416, {**headers, "Content-Range": f"bytes */{size}"})
        return
    handler.send(content[first : last + 1], 206, {**headers, "Content-Range": f"bytes {first}-{last}/{size}"})


# Discussions and pull requests -----------------------------------------------------------------------------------


def _described(repository: Repository, discussion: dict) -> dict:
    data = repository.data
    return {
        "num": discussion["num"],
        "title": discussion["title"],
        "author": {"name": discussion["author"]},
        "createdAt": discussion["createdAt"],
        "status": discussion["status"],
        "repo": {"name": data["id"], "type": data["type"]},
        "isPullRequest": discussion["head"] is not None,
    }


@route("GET", f"{_REPO}/discussions")
def list_discussions(handler: Handler, kind: str, repo_id: str) -> None:
    repository = handler.repository(kind, repo_id)
    found = [_described(repository, each) for each in reversed(repository.data["discussions"])]
    if handler.query.get("type") == "pull_request":
        found = [each for each in found if each["isPullRequest"]]
    if (status := handler.query.get("status")) not in (None, "all"):
        found = [each for each in found if (each["status"] in ("open", "draft")) == (status == "open")]
    if author := handler.query.get("author"):
        found = [each for each in found if each["author"]["name"] == author]
    first = int(handler.query.get("p", 0)) * 10
    handler.send_json({"count": len(found), "start": first, "discussions": found[first : first + 10]})


@route("POST", f"{_REPO}/discussions")
def create_discussion(handler: Handler, kind: str, repo_id: str) -> None:
    account, repository, asked = handler.known_account(), handler.repository(kind, repo_id), handler.read_json()
    head = repository.resolve("main") if asked.get("pullRequest") else None
    status = "draft" if asked.get("pullRequest") else "open"
    handler.send_json({"num": repository.open_discussion(asked["title"], account.name, head, status)["num"]})


@route("GET", rf"{_REPO}/discussions/(?P<number>\d+)")
def discussion_details(handler: Handler, kind: str, repo_id: str, number: str) -> None:
    repository = handler.repository(kind, repo_id)
    discussion = repository.discussion(int(number))
    changes = {"base": "refs/heads/main", "mergeCommitId": discussion["mergedAs"]}
    described = _described(repository, discussion)
    handler.send_json({**described, "events": [], "filesWithConflicts": [], "changes": changes, "diff": ""})


@route("POST", rf"{_REPO}/discussions/(?P<number>\d+)/merge")
def merge_pull_request(handler: Handler, kind: str, repo_id: str, number: str) -> None:
    repository = handler.writable_repository(kind, repo_id)
    discussion = repository.discussion(int(number))
    title = f"{discussion['title']} (#{number})"
    files = {**repository.files("main"), **repository.files(discussion["head"])}
    oid = repository.add_commit(repository.resolve("main"), files, title, "", discussion["author"])
    discussion.update(status="merged", mergedAs=oid)
    repository.move("main", oid)
    handler.send_json({})


@route("POST", rf"{_REPO}/discussions/(?P<number>\d+)/status")
def change_status(handler: Handler, kind: str, repo_id: str, number: str) -> None:
    repository = handler.writable_repository(kind, repo_id)
    repository.discussion(int(number))["status"] = handler.read_json()["status"]
    repository.save()
    handler.send_json({})


# By itself -------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="A small Hub on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--root", default=None, help="the folder for everything that is kept; default: a temporary one"
    )
    parser.add_argument(
        "--token", action="append", default=[], metavar="NAME=SECRET", help="an account that may write"
    )
    options = parser.parse_args()
    tokens = {secret: Account(name) for name, secret in (each.split("=", 1) for each in options.token)}
    with tempfile.TemporaryDirectory() as temporary:
        with Hub(options.root or temporary, tokens, port=options.port) as hub:
            print(hub.url, flush=True)
            threading.Event().wait()


if __name__ == "__main__":
    main()
