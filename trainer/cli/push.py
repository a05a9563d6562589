# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Puts a folder on the Hub in one commit: a model, a data set or a Space.

Of a model go: weights as safetensors, configuration, processor, code, card and licence. Pickles, training state and
hidden files never go, whatever the folder is. The token is that of `hf auth login`, or HF_TOKEN."""

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..text import size_in_words
from .arguments import option
from .errors import CommandError, UsageError
from .output import Output


EXAMPLES = """
  # See what would go, then let it go.
  sacl push clip-catalogue user/clip-catalogue --dry_run
  sacl push clip-catalogue user/clip-catalogue --private

  # A pull request to somebody's repository; a branch of one's own, with a tag.
  sacl push clip-catalogue team/clip-catalogue --create_pr --message "Trained on the spring catalogue"
  sacl push clip-catalogue user/clip-catalogue --revision spring --tag v1.1

  # A data set; a Space that `sacl demo --write_space` wrote.
  sacl push photos user/photos --type dataset
  sacl push page user/photos-page --type space
"""

# Whoever unpickles a file runs the code in it.
_PICKLES = ("*.pkl", "*.pickle", "*.pt", "*.pth", "*.bin", "*.ckpt", "*.joblib", "*.dill", "*.h5", "*.msgpack")
_UNWANTED = (*_PICKLES, "*.pyc", "*.lock", "*.incomplete")


@dataclass
class PushArguments:
    """What to push, and where to."""

    _argument_group_name = "push"

    folder: str = option("the folder", positional=True)
    repo_id: str = option("the repository, user/name; it is made if there is none", positional=True)
    type: str = option("what it is", "auto", choices=["auto", "model", "dataset", "space"])
    private: bool | None = option("whether a new repository is private (default: as the account has it)", None)
    revision: str | None = option("branch to push to, made if there is none (default: main)", None)
    create_pr: bool = option("open a pull request instead of writing to main", False)
    tag: str | None = option("tag to put on the commit", None)
    message: str | None = option("title of the commit", None)
    dry_run: bool = option("say what would be pushed, and push nothing", False)


def arguments() -> tuple[type, ...]:
    """The dataclasses of this command."""
    return (PushArguments,)


def run(output: Output, options: PushArguments) -> None:
    """Pushes, or says what would be pushed."""
    from ..sharing import check_options

    folder = Path(options.folder).expanduser()
    if not folder.is_dir():
        raise CommandError(f"There is no folder {options.folder!r}.")
    check_options(options.revision, options.create_pr, options.tag)
    kind = _kind(folder) if options.type == "auto" else options.type
    files = _files(folder, kind)
    left = sorted({str(path.relative_to(folder)) for path in _everything(folder)} - set(files))
    for problem in _card_problems(folder, kind):
        output.say(f"The card: {problem}")
    document = {
        "repo_id": options.repo_id,
        "type": kind,
        "files": {name: path.stat().st_size for name, path in files.items()},
        "left_out": left,
        "url": None,
    }
    if not options.dry_run:
        document["url"] = _push(options, folder, kind, files)
    output.result(_text(document), document)


def _kind(folder: Path) -> str:
    """What the folder looks like."""
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        return "model"
    if (folder / "app.py").is_file():
        return "space"
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")) or any(
        path.suffix in (".parquet", ".jsonl", ".csv", ".arrow", ".tar")
        for path in (*folder.glob("*"), *folder.glob("data/*"))
    ):
        return "dataset"
    raise UsageError(f"It cannot be seen what {str(folder)!r} is: say --type model, dataset or space.")


def _everything(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _files(folder: Path, kind: str) -> dict[str, Path]:
    """What goes, by its path in the repository."""
    if kind == "model":
        from ..sharing import files_to_share

        files = files_to_share(folder)
        if not any(name.endswith(".safetensors") for name in files):
            raise CommandError(
                f"{str(folder)!r} has no weights as safetensors; others are pickles, which are not pushed. Load the "
                "model and `save_pretrained` it first."
            )
        return files
    names = {path.relative_to(folder): path for path in _everything(folder)}
    files = {
        str(name): path
        for name, path in names.items()
        if not any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        and not any(fnmatch(name.name.lower(), pattern) for pattern in _UNWANTED)
    }
    if not files:
        raise CommandError(f"There is nothing in {str(folder)!r} that can be pushed.")
    if kind == "dataset" and ("state.json" in files or "dataset_dict.json" in files):
        raise CommandError(
            f"{str(folder)!r} was written by `save_to_disk`, which `load_dataset` does not read from the Hub. In "
            f'Python: `datasets.load_from_disk("{folder}").push_to_hub("user/name")`.'
        )
    return files


def _card_problems(folder: Path, kind: str) -> list[str]:
    """A card is no condition, but somebody will want to read one."""
    from hub_cards import validate_card

    try:
        return validate_card(folder, repo_type=kind)
    except FileNotFoundError:
        return [f"there is none; write it with `sacl card {folder}`."]


def _push(options: PushArguments, folder: Path, kind: str, files: dict[str, Path]) -> str:
    if kind == "model":
        from ..sharing import HubRepository, stage

        repository = HubRepository(options.repo_id, private=options.private)
        commit: Any = repository.push(
            stage(folder),
            options.message or "Upload model",
            revision=options.revision,
            create_pr=options.create_pr,
            tag=options.tag,
        )
        return commit.pr_url or commit.commit_url
    return _push_files(options, kind, files)


def _push_files(options: PushArguments, kind: str, files: dict[str, Path]) -> str:
    """Files as they are, in one commit."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(library_name="sacl")
    repo_id = api.create_repo(
        options.repo_id,
        repo_type=kind,
        private=options.private,
        exist_ok=True,
        space_sdk="gradio" if kind == "space" else None,
    ).repo_id
    if options.revision is not None and not options.revision.startswith("refs/"):
        api.create_branch(repo_id, branch=options.revision, repo_type=kind, exist_ok=True)
    commit = api.create_commit(
        repo_id,
        [CommitOperationAdd(name, str(path)) for name, path in files.items()],
        commit_message=options.message or f"Upload {kind}",
        repo_type=kind,
        revision=options.revision,
        create_pr=options.create_pr,
    )
    if options.tag is not None:
        api.create_tag(repo_id, tag=options.tag, revision=commit.oid, repo_type=kind)
    return commit.pr_url or commit.commit_url


def _text(document: dict[str, Any]) -> str:
    files, left = document["files"], document["left_out"]
    size = sum(files.values())
    lines = [f"  {size_in_words(number):>10}  {name}" for name, number in files.items()]
    if left:
        shown = ", ".join(left[:5]) + (f" and {len(left) - 5:,} more" if len(left) > 5 else "")
        lines.append(f"Left out: {shown}")
    done = f"Pushed: {document['url']}" if document["url"] else "Nothing was pushed (--dry_run)."
    head = f"{document['type']} {document['repo_id']}: {len(files)} files, {size_in_words(size)}"
    return "\n".join([head, *lines, done])
