# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""
What is pushed to the Hub and how: the model and what explains it, in one commit or none, never a pickle.

`huggingface_hub.upload_folder` takes whatever lies in a folder, and may spread it over several commits. Here a push is
a list of known kinds of files, copied aside (by hard links) so that training may go on, and published by a single
commit that is tried again where that can help.
"""

import json
import os
import re
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import MISSING, Field, dataclass, fields
from enum import Enum
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from .checkpoints import MANIFEST_NAME
from .retries import with_retries
from .sacl_config import SaclTrainingArguments
from .shared_checkpoints import LAST_CHECKPOINT, without_pickles


logger = logging.get_logger(__name__)

ARGUMENTS_NAME = "training_arguments.yaml"
CARD_NAME = "README.md"
STAGING_PREFIX = "_push-"
# What the card said when it was pushed, to tell later what people have changed, here or there.
PUSHED_CARD_NAME = "_pushed_card.md"
# Of which step the checkpoint was that was pushed last.
PUSHED_STEP_NAME = "_pushed_step.txt"

# Models, processors, their code, the card and its pictures. Nothing else that lies about in a folder is shared.
_SHARED_SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".spm", ".tiktoken", ".jinja", ".md"}
_SHARED_SUFFIXES |= {".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg"}
_SHARED_NAMES = {ARGUMENTS_NAME, "LICENSE", "NOTICE", "CITATION.cff"}
_TRAINING_STATE = {TRAINER_STATE_NAME, TRAINING_ARGS_NAME, MANIFEST_NAME, "sacl_training_state.safetensors"}
_PRIVATE_FOLDERS = re.compile(rf"[._].*|runs|{LAST_CHECKPOINT}|{PREFIX_CHECKPOINT_DIR}-\d+")
_WEIGHTS = re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|adapter_config\.json")

_NOTICE = """The Python files in this repository are part of SACL for Hugging Face
Copyright 2026 The SACL for Hugging Face authors
Licensed under the Apache License, Version 2.0 (see LICENSE).

The licence of the weights, and of the data they were trained on, is named in README.md.
"""


# Training arguments ----------------------------------------------------------------------------------------------

# Of the machine and the person, not of the training: where it writes, whom it tells, who may push.
_OF_THE_MACHINE = {
    *("output_dir", "push_to_hub", "resume_from_checkpoint", "local_rank", "use_cpu", "disable_tqdm", "report_to"),
    *("run_name", "project", "log_level", "log_level_replica", "log_on_each_node", "ddp_backend", "ddp_timeout"),
    *("do_train", "do_eval", "do_predict", "enable_jit_checkpoint", "save_on_each_node", "dataloader_timeout"),
}
_OF_THE_MACHINE_PREFIXES = ("hub_", "trackio_")


def save_training_arguments(args: SaclTrainingArguments, folder: str | os.PathLike) -> Path:
    """
    Writes `training_arguments.yaml`: what a training can be repeated with, readable, and loaded without unpickling.

    It holds every argument of the method, and those of [`~transformers.TrainingArguments`] that differ from their
    defaults. Tokens, repositories, folders and other things of one machine are left out.

    Args:
        args ([`SaclTrainingArguments`]): The arguments.
        folder (`str` or `os.PathLike`): Where to write.

    Returns:
        `Path`: The file.

    Example:

    ```python
    >>> from trainer import load_training_arguments, save_training_arguments

    >>> save_training_arguments(trainer.args, "sacl-emoji")
    >>> args = load_training_arguments("sacl-emoji", output_dir="sacl-emoji-again")
    ```
    """
    versions = ", ".join(f"{name} {version(name)}" for name in ("transformers", "torch", "accelerate"))
    lines = [
        "# What this model was trained with; loads by `trainer.load_training_arguments`.",
        f"# {versions}. What is not named here is at its default.",
        *(f"# {name}: a path of the machine it ran on, left out" for name in _local_paths(args)),
        yaml.safe_dump(shareable_arguments(args), sort_keys=False, allow_unicode=True),
    ]
    path = Path(folder, ARGUMENTS_NAME)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def load_training_arguments(
    source: str | os.PathLike, output_dir: str | os.PathLike, **changes: Any
) -> SaclTrainingArguments:
    """
    The arguments that [`save_training_arguments`] wrote.

    Args:
        source (`str` or `os.PathLike`): The file, or the folder that it is in.
        output_dir (`str` or `os.PathLike`): Where the new training writes.
        changes (`Any`): Arguments that are to be others, by name.

    Raises:
        ValueError: if the file is no YAML or no mapping, or names an argument that does not exist.
    """
    path = Path(source, ARGUMENTS_NAME) if Path(source).is_dir() else Path(source)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must be a mapping of arguments to values, got a {type(values).__name__}.")
    known = {field.name for field in fields(SaclTrainingArguments) if field.init}
    unknown = sorted(str(name) for name in set(values) - known)
    if unknown:
        raise ValueError(
            f"{path} names arguments that the installed versions do not have: {', '.join(unknown)}. Its first lines "
            "say which versions it was written with; or delete these arguments."
        )
    return SaclTrainingArguments(**{**values, "output_dir": os.fspath(output_dir), **changes})


def shareable_arguments(args: SaclTrainingArguments) -> dict[str, Any]:
    """The arguments that [`save_training_arguments`] writes, as plain values."""
    own = set(SaclTrainingArguments.__annotations__)
    given = {name: _plain(value) for name, value in args.to_dict().items()}
    return {
        field.name: given[field.name]
        for field in sorted(_shareable_fields(), key=lambda field: field.name not in own)
        if (field.name in own or given[field.name] != _plain(_default(field))) and not _is_path(given[field.name])
    }


def _shareable_fields() -> Iterator[Field]:
    for field in fields(SaclTrainingArguments):
        if field.init and field.name not in _OF_THE_MACHINE and not field.name.startswith(_OF_THE_MACHINE_PREFIXES):
            yield field


def _local_paths(args: SaclTrainingArguments) -> list[str]:
    return [field.name for field in _shareable_fields() if _is_path(getattr(args, field.name))]


def _is_path(value: Any) -> bool:
    return isinstance(value, os.PathLike) or isinstance(value, str) and (value.startswith("~") or os.path.isabs(value))


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _plain(value: Any) -> Any:
    """A value as YAML knows it."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


# What is shared --------------------------------------------------------------------------------------------------


def files_to_share(folder: str | os.PathLike) -> dict[str, Path]:
    """
    The files of a saved model's folder that are pushed, by their path in the repository.

    These are weights as safetensors, configuration, processor, the model's own code, the card with its pictures,
    `training_arguments.yaml` and the licence. Pickles, training state, logs, checkpoints, whatever is hidden or begins
    with `_`, and files of other kinds stay at home.

    Args:
        folder (`str` or `os.PathLike`): The folder.
    """
    folder = Path(folder)
    found = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _PRIVATE_FOLDERS.fullmatch(name))
        for name in sorted(names):
            path = Path(parent, name)
            if (path.suffix in _SHARED_SUFFIXES or name in _SHARED_NAMES) and _is_public(name):
                found[path.relative_to(folder).as_posix()] = path
    return {**found, **_code(folder)}


def _is_public(name: str) -> bool:
    return name not in _TRAINING_STATE and not name.startswith((".", "_"))


def _code(folder: Path) -> dict[str, Path]:
    """The Python files that a configuration names in its `auto_map`, and what these import."""
    modules = set()
    for path in folder.glob("*config.json"):
        for place in (_read_json(path).get("auto_map") or {}).values():
            places = place if isinstance(place, (list, tuple)) else [place]
            modules |= {each.split("--")[-1].split(".")[0] for each in places if each}
    files = {folder / f"{module}.py" for module in modules if (folder / f"{module}.py").is_file()}
    if (folder / "configuration_sacl.py").is_file():
        # Heads without an Auto class are named by no `auto_map`.
        files |= set(folder.glob("*_sacl.py"))
    imported = {Path(path) for file in files for path in get_relative_import_files(file)}
    return {path.name: path for path in sorted(files | imported) if path.is_file()}


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has no such thing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _add_licence(folder: Path) -> None:
    """The licence of the code that travels with the weights, unless the folder has one, or has no such code."""
    if not any(folder.glob("*_sacl.py")) or (folder / "LICENSE").exists():
        return
    text = _licence_text()
    if text is None:
        logger.warning("The text of the Apache License was not found, and is not pushed: only the files name it.")
        return
    (folder / "LICENSE").write_text(text, encoding="utf-8")
    if not (folder / "NOTICE").exists():
        (folder / "NOTICE").write_text(_NOTICE, encoding="utf-8")


def _licence_text() -> str | None:
    beside = Path(__file__).parent.parent / "LICENSE"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    try:
        found = [file for file in distribution("sacl").files or () if file.name == "LICENSE"]
    except PackageNotFoundError:
        return None
    return found[0].read_text(encoding="utf-8") if found else None


@dataclass(frozen=True)
class Staged:
    """
    A push that is ready: its files under their names in the repository, in a folder of its own.

    Args:
        folder (`Path`): The folder.
        checkpoint (`str`, *optional*): The name of the training checkpoint in it, if there is one.
    """

    folder: Path
    checkpoint: str | None = None

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def stage(
    output_dir: str | os.PathLike,
    *,
    saved: str | os.PathLike | None = None,
    checkpoint: str | None = None,
) -> Staged:
    """
    Puts aside what is pushed, so that neither the next save nor the deletion of old checkpoints touches it. Hard links
    take no time and no space.

    Args:
        output_dir (`str` or `os.PathLike`):
            The folder of the run, which has the card.
        saved (`str` or `os.PathLike`, *optional*):
            The folder of a checkpoint, whose model is pushed then instead of the one in `output_dir`.
        checkpoint (`str`, *optional*):
            The name under which this checkpoint itself is pushed as well, to resume from.
    """
    staged = Staged(Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=output_dir)), checkpoint)
    files = files_to_share(output_dir)
    if saved is not None:
        kept = {name: path for name, path in files.items() if _WEIGHTS.fullmatch(name) is None}
        # PEFT puts a card of its own beside its adapters.
        card = {CARD_NAME: files[CARD_NAME]} if CARD_NAME in files else {}
        files = {**kept, **files_to_share(saved), **card}
    try:
        for name, path in files.items():
            _link(path, staged.folder / name)
        _add_licence(staged.folder)
        if saved is not None and checkpoint is not None:
            for path in (path for path in Path(saved).rglob("*") if path.is_file()):
                _link(path, staged.folder / checkpoint / path.relative_to(saved))
    except BaseException:
        staged.discard()
        raise
    return staged


def discard_leftovers(output_dir: str | os.PathLike) -> None:
    """Removes what was put aside by a process that was stopped while pushing."""
    for folder in Path(output_dir).glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


# How it is shared ------------------------------------------------------------------------------------------------


class HubRepository:
    """
    A model repository on the Hub, as a training run sees it.

    Args:
        repo_id (`str`):
            Its name; without a namespace, that of whom the token belongs to.
        token (`str` or `bool`, *optional*):
            A token that may write. Defaults to the one that is logged in.
        private (`bool`, *optional*):
            Whether it is private, if it does not exist yet.

    Raises:
        HfHubHTTPError: if it can neither be created nor found.
    """

    def __init__(self, repo_id: str, token: str | bool | None = None, private: bool | None = None):
        self.api = HfApi(library_name="sacl", token=token)
        url = self._ask(
            lambda: self.api.create_repo(repo_id, private=private, exist_ok=True), f"Creating the repository {repo_id}"
        )
        self.repo_id = url.repo_id

    def push(
        self,
        staged: Staged,
        commit_message: str,
        *,
        revision: str | None = None,
        create_pr: bool = False,
        tag: str | None = None,
    ) -> CommitInfo:
        """
        Publishes what was put aside: one commit, or none.

        Args:
            staged ([`Staged`]): What to push; removed afterwards, however it ends.
            commit_message (`str`): The title of the commit.
            revision (`str`, *optional*): The branch, made if there is none of that name; or `refs/pr/1`.
            create_pr (`bool`, *optional*, defaults to `False`): Whether to open a pull request instead.
            tag (`str`, *optional*): A tag to put on the commit.

        Raises:
            ValueError: if the options exclude each other, or the tag exists.
            HfHubHTTPError: if the Hub refuses, or does not recover. Nothing is published then.
        """
        try:
            check_options(revision, create_pr, tag)
            self._prepare(revision, tag)
            if staged.checkpoint is not None:
                without_pickles(staged.folder / staged.checkpoint)
            publish = self._propose if create_pr else partial(self._commit, revision=revision)
            commit = self._ask(publish(staged, commit_message), f"Pushing to {self.repo_id}")
            if not create_pr and (staged.folder / CARD_NAME).exists():
                shutil.copyfile(staged.folder / CARD_NAME, staged.folder.parent / PUSHED_CARD_NAME)
            if tag is not None:
                make_tag = partial(self.api.create_tag, self.repo_id, tag=tag, revision=commit.oid, exist_ok=True)
                self._ask(
                    make_tag, f"Tagging {self.repo_id}", f"The commit {commit.oid} is published, without its tag."
                )
            return commit
        finally:
            staged.discard()

    def fetch_card(self, folder: str | os.PathLike, revision: str | None = None) -> None:
        """
        Brings the card home if someone has changed it on the Hub since it was pushed, so that writing it anew starts
        from theirs. What was changed here as well stays, with a warning. If the Hub does not answer, nothing happens.
        """
        path, pushed = Path(folder, CARD_NAME), _text_of(Path(folder, PUSHED_CARD_NAME))
        try:
            theirs = self._card_on_the_hub(revision)
        except (HTTPError, OSError) as error:
            logger.info(f"The card of {self.repo_id} could not be compared with the one here: {error}")
            return
        ours = _text_of(path)
        if theirs in (None, pushed, ours):
            return
        if ours in (None, pushed):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(theirs, encoding="utf-8")
        else:
            logger.warning(f"{path} takes the place of a card on the Hub that someone has changed too.")

    def _card_on_the_hub(self, revision: str | None) -> str | None:
        url = hf_hub_url(self.repo_id, CARD_NAME, revision=revision, endpoint=self.api.endpoint)
        response = get_session().get(url, headers=build_hf_headers(token=self.api.token), timeout=10)
        if response.status_code == 404:
            return None
        hf_raise_for_status(response)
        return response.text

    def _prepare(self, revision: str | None, tag: str | None) -> None:
        """Everything that can be refused is, before the first file is sent."""
        if tag is not None:
            tags = self._ask(
                lambda: self.api.list_repo_refs(self.repo_id), f"Asking for the tags of {self.repo_id}"
            ).tags
            if any(each.name == tag for each in tags):
                raise ValueError(
                    f"{self.repo_id} has a tag {tag!r} already: choose another, or delete that one first."
                )
        if revision is not None and not revision.startswith("refs/"):
            make_branch = partial(self.api.create_branch, self.repo_id, branch=revision, exist_ok=True)
            self._ask(make_branch, f"Making the branch {revision} of {self.repo_id}")

    def _commit(self, staged: Staged, message: str, revision: str | None) -> Callable[[], CommitInfo]:
        def commit() -> CommitInfo:
            # Asked for anew at each attempt: one whose answer was lost has changed it, and is not repeated then.
            present = set(self.api.list_repo_files(self.repo_id, revision=revision))
            operations = _operations(staged, present)
            return self.api.create_commit(self.repo_id, operations, commit_message=message, revision=revision)

        return commit

    def _propose(self, staged: Staged, message: str) -> Callable[[], CommitInfo]:
        before = None

        def propose() -> CommitInfo:
            nonlocal before
            opened = self._pull_requests(message)
            if before is not None and (new := sorted(opened - before)):
                return self._opened(new[-1], message)
            before = opened if before is None else before
            operations = _operations(staged, set(self.api.list_repo_files(self.repo_id)))
            return self.api.create_commit(self.repo_id, operations, commit_message=message, create_pr=True)

        return propose

    def _pull_requests(self, title: str) -> set[int]:
        discussions = self.api.get_repo_discussions(self.repo_id, discussion_type="pull_request")
        return {each.num for each in discussions if each.title == title}

    def _opened(self, number: int, message: str) -> CommitInfo:
        """The commit of a pull request that was opened, though the answer was lost."""
        commit = str(self.api.repo_info(self.repo_id, revision=f"refs/pr/{number}").sha)
        url = f"{self.api.endpoint}/{self.repo_id}"
        return CommitInfo(
            commit_url=f"{url}/commit/{commit}",
            commit_message=message,
            commit_description="",
            oid=commit,
            pr_url=f"{url}/discussions/{number}",
            _endpoint=self.api.endpoint,
        )

    def _ask(self, ask: Callable[[], Any], what: str, consequence: str = "Nothing was published.") -> Any:
        try:
            return with_retries(ask, what)
        except HfHubHTTPError as error:
            error.append_to_message(f"\n{_way_out(error.response.status_code, consequence)}")
            raise
        except RuntimeError as error:  # That of a single file's upload.
            raise RuntimeError(f"{error} {consequence}") from error.__cause__


def check_options(revision: str | None, create_pr: bool, tag: str | None) -> None:
    """Refuses what cannot be had together, before anything is saved or sent."""
    if create_pr and revision not in (None, "main"):
        raise ValueError(
            f"`create_pr=True` opens a pull request against main, so `revision={revision!r}` cannot be given too: "
            "leave one of them out."
        )
    if create_pr and tag is not None:
        raise ValueError(f"`tag={tag!r}` marks what is published, and a pull request is not yet: tag it when merged.")


def _operations(staged: Staged, present: set[str]) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What a commit does: adds the staged files, and removes those of an older push that would be mixed with them."""
    files = {path.relative_to(staged.folder).as_posix(): path for path in staged.folder.rglob("*") if path.is_file()}
    has_weights = any(_WEIGHTS.fullmatch(name) for name in files)
    stale = {name for name in present if has_weights and _WEIGHTS.fullmatch(name)}
    if staged.checkpoint is not None:
        stale |= {name for name in present if name.startswith(f"{staged.checkpoint}/")}
    additions = [CommitOperationAdd(name, str(path)) for name, path in sorted(files.items())]
    return [*additions, *(CommitOperationDelete(name, is_folder=False) for name in sorted(stale - set(files)))]


def _text_of(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _way_out(status: int, consequence: str) -> str:
    if status >= 500:
        # It may have carried out what it did not answer.
        return (
            "The Hub did not recover in time. The commit is there as a whole or not at all: push again later. What "
            "has arrived is not sent twice."
        )
    ways_out = {
        401: "Log in with `hf auth login`, or pass a token (`hub_token`).",
        403: "The token needs the right to write there: take another, or propose the change with `create_pr=True`.",
        404: "Check the name of the repository, and that the token may see it.",
        429: "The Hub wants fewer requests: wait, or save less often.",
    }
    return f"{consequence} {ways_out.get(status, '')}".rstrip()


# In the background -----------------------------------------------------------------------------------------------


class BackgroundPushes:
    """
    Pushes beside the training, one after the other, in a thread that ends with the process and not after it.

    What goes wrong is logged when it happens: a push is no reason to stop a training. If one is still going on, the
    next waits, and of several that wait only the newest is pushed, so that the last one is never skipped.

    Args:
        keep_all (`bool`, *optional*, defaults to `False`):
            Whether each one that waits is pushed (`hub_always_push`).
    """

    def __init__(self, keep_all: bool = False):
        self.keep_all = keep_all
        self.last_error: Exception | None = None
        self._waiting: deque[tuple[str, Callable[[], CommitInfo], Staged, Future]] = deque()
        self._changed = threading.Condition()
        self._is_working = False

    def submit(self, name: str, push: Callable[[], CommitInfo], staged: Staged) -> Future:
        """
        Queues a push.

        Args:
            name (`str`): What it is, for the log.
            push (`Callable`): What pushes, and discards what was staged.
            staged ([`Staged`]): What was staged, discarded if a newer push takes this one's place.
        """
        future: Future = Future()
        with self._changed:
            while self._waiting and not self.keep_all:
                _, _, replaced, cancelled = self._waiting.popleft()
                cancelled.cancel()
                replaced.discard()
            self._waiting.append((name, push, staged, future))
            if not self._is_working:
                self._is_working = True
                threading.Thread(target=self._work, name="push-to-hub", daemon=True).start()
        return future

    def is_done(self) -> bool:
        """Whether nothing is being pushed, and nothing waits."""
        with self._changed:
            return not self._is_working

    def wait_until_done(self, timeout: float | None = None) -> bool:
        """
        Waits for everything that was submitted, and says whether it is done. Ctrl-C ends the waiting.

        Args:
            timeout (`float`, *optional*): For how many seconds at most.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._is_working, timeout)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._is_working = False
                    self._changed.notify_all()
                    return
                name, push, _, future = self._waiting.popleft()
            try:
                future.set_result(push())
                self.last_error = None
            except Exception as error:
                self.last_error = error
                logger.error(f"{name} could not be pushed to the Hub, and the training goes on. {error}")
                future.set_exception(error)
