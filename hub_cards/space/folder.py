# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The page as a Space: a folder that runs by itself, with copies of the code that it needs, and pushing it."""

import os
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from string import Template

from huggingface_hub import HfApi, SpaceCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

import hub_cards
import modeling_sacl
import trainer


# The Gradio that a Space asks for where none is installed.
TESTED_GRADIO = "6.31.0"
# What the copied code imports. Gradio itself comes with the Space.
REQUIREMENTS = (
    "accelerate",
    "datasets",
    "evaluate",
    "filelock",
    "faiss-cpu",
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "numpy",
    "pillow",
    "pyyaml",
    "safetensors",
    "torch",
    "torchvision",
    "tqdm",
    "transformers",
    "xxhash",
)
_PACKAGES = (modeling_sacl, trainer, hub_cards)
# By its first line a folder is known for one that may be written over.
_MARK = "# Written by hub_cards.space.write_space: what is changed here is lost when it writes again."
_APP = Template(
    '''$mark
"""A page that searches a data set with a model."""

import os


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from hub_cards.space import launch  # noqa: E402


launch(
    # Variables of the Space, or of the shell, take the place of what was written.
    os.environ.get("SACL_MODEL", $model),
    os.environ.get("SACL_DATASET", $dataset),
    split=$split,
    image_column=$image_column,
    caption_columns=$caption_columns,
    max_rows=$max_rows,
    model_revision=$model_revision,
    dataset_revision=$dataset_revision,
    title=$title,
    examples=$examples,
)
'''
)
_README = """
# {title}

A page to try {model} on {dataset}: search by text, by image and by both, see where in an image a word is and which
patches the image tower keeps, and look at the weights of the negatives of a batch, the likely false ones first.

`modeling_sacl/`, `trainer/` and `hub_cards/` are copies of [SACL for Hugging Face](https://huggingface.co/papers/2305.04474)'s
code under the Apache License 2.0, so that nothing else has to be installed than what `requirements.txt` names. To run
the page on your machine:

```bash
pip install "gradio>={gradio}" -r requirements.txt
python app.py
```
"""


def write_space(
    folder: str | os.PathLike,
    model_id: str | os.PathLike,
    dataset_id: str | os.PathLike,
    *,
    title: str = "Pictures and words",
    split: str | None = None,
    image_column: str = "image",
    caption_columns: str | Sequence[str] | None = None,
    max_rows: int | None = None,
    model_revision: str | None = None,
    dataset_revision: str | None = None,
    examples: Sequence[str] | None = None,
    license: str = "apache-2.0",
) -> Path:
    """
    Writes a folder that is a Space: `README.md` with the settings of the Space, `app.py`, `requirements.txt`, and
    copies of this library's code, so that the page there is the page here. [`push_space`] uploads it, and
    `python app.py` runs it where it lies.

    A folder that was written before is written anew. The text of its `README.md` below the settings stays.

    Args:
        folder (`str` or `os.PathLike`):
            Where to. It may exist if it is empty or was written by this function.
        model_id (`str` or `os.PathLike`):
            The id of the model on the Hub. A local folder will do to try the page.
        dataset_id (`str` or `os.PathLike`):
            The id of the data set on the Hub. A local folder or file will do to try the page.
        title (`str`, *optional*, defaults to `"Pictures and words"`):
            Heading of the page and name of the Space.
        split (`str`, *optional*):
            Which split. By default `"test"`, else `"validation"`, else the first.
        image_column (`str`, *optional*, defaults to `"image"`):
            The column with the images.
        caption_columns (`str` or sequence of `str`, *optional*):
            The columns with captions, as for [`load_pairs`].
        max_rows (`int`, *optional*):
            Only so many rows, drawn at random but always the same: they are embedded when the Space starts.
        model_revision, dataset_revision (`str`, *optional*):
            Branch, tag or commit on the Hub, so that the page stays as it was tried.
        examples (sequence of `str`, *optional*):
            Texts to click on. By default a few short captions.
        license (`str`, *optional*, defaults to `"apache-2.0"`):
            Licence of the Space, as the Hub abbreviates it.

    Returns:
        `Path`: the folder.

    Raises:
        `ValueError`: if there is something else in the folder, or an id is neither one nor a path that exists.

    Example:

    ```python
    >>> folder = write_space("space", "user/sacl-model", "user/photos", title="My holidays", max_rows=2000)
    >>> push_space(folder, "user/holidays")
    'https://huggingface.co/spaces/user/holidays'
    ```
    """
    model_id, dataset_id, folder = os.fspath(model_id), os.fspath(dataset_id), Path(folder)
    for argument, name in (("model_id", model_id), ("dataset_id", dataset_id)):
        if not os.path.exists(name) and not _is_repo_id(name):
            raise ValueError(f"`{argument}` must be an id on the Hub or a path that exists, got {name!r}.")
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"`max_rows` must be at least 1, got {max_rows}.")
    _check_may_be_written(folder)

    folder.mkdir(parents=True, exist_ok=True)
    for package in _PACKAGES:
        _copy_package(Path(package.__path__[0]), folder / package.__name__)
    app = _APP.substitute(
        mark=_MARK,
        model=repr(model_id),
        dataset=repr(dataset_id),
        split=repr(split),
        image_column=repr(image_column),
        caption_columns=repr(list(caption_columns) if isinstance(caption_columns, (list, tuple)) else caption_columns),
        max_rows=repr(max_rows),
        model_revision=repr(model_revision),
        dataset_revision=repr(dataset_revision),
        title=repr(title),
        examples=repr(None if examples is None else list(examples)),
    )
    (folder / "app.py").write_text(app, encoding="utf-8")
    requirements = "".join(f"{name}>={_installed(name)}\n" for name in REQUIREMENTS)
    (folder / "requirements.txt").write_text(requirements, encoding="utf-8")
    settings = SpaceCardData(
        title=title,
        emoji="🔎",
        colorFrom="indigo",
        colorTo="blue",
        sdk="gradio",
        sdk_version=_gradio_version(),
        app_file="app.py",
        pinned=False,
        license=license,
        models=[model_id] if not os.path.exists(model_id) else None,
        datasets=[dataset_id] if not os.path.exists(dataset_id) else None,
        tags=["sacl", "image-text retrieval"],
        short_description="Search pictures by words and words by pictures",
    )
    text = _text_of(folder / "README.md") or _README.format(
        title=title, model=_linked(model_id, ""), dataset=_linked(dataset_id, "datasets/"), gradio=_gradio_version()
    )
    (folder / "README.md").write_text(f"---\n{settings.to_yaml()}\n---\n{text}", encoding="utf-8")
    return folder


def push_space(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload the page",
    create_pr: bool = False,
) -> str:
    """
    Uploads a folder that [`write_space`] wrote as a Space, in one commit. Code that the folder no longer has is
    deleted there; other files of the Space stay.

    Args:
        folder (`str` or `os.PathLike`):
            The folder.
        repo_id (`str`):
            The id of the Space, created if it is not there.
        private (`bool`, *optional*):
            Whether a new Space is private. By default as the organisation or user has it set.
        token (`str` or `bool`, *optional*):
            The token to write with. By default the one that was stored by `hf auth login`.
        commit_message (`str`, *optional*, defaults to `"Upload the page"`):
            Message of the commit.
        create_pr (`bool`, *optional*, defaults to `False`):
            Whether to open a pull request instead of writing to the main branch.

    Returns:
        `str`: the address of the Space, or of the pull request.

    Raises:
        `ValueError`: if the folder is no Space.
        `huggingface_hub.errors.HfHubHTTPError`: if the Hub refuses.

    Example:

    ```python
    >>> push_space("space", "user/holidays", private=True)
    'https://huggingface.co/spaces/user/holidays'
    ```
    """
    folder = Path(folder)
    for name in ("README.md", "app.py", "requirements.txt"):
        if not (folder / name).is_file():
            raise ValueError(f"There is no {name} in {folder}: write the Space with `write_space` first.")
    api = HfApi(token=token)
    space = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=space.repo_id,
        repo_type="space",
        folder_path=folder,
        commit_message=commit_message,
        ignore_patterns=["**/__pycache__/**", "*.pyc", ".gradio/**"],
        delete_patterns=[f"{package.__name__}/**" for package in _PACKAGES],
        create_pr=create_pr,
    )
    return commit.pr_url or str(space)


def _check_may_be_written(folder: Path) -> None:
    """A slip of the finger must not cost anybody a folder."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    app = folder / "app.py"
    if not app.is_file() or not app.read_text(encoding="utf-8").startswith(_MARK):
        raise ValueError(
            f"{folder} exists and is no Space that was written here: name another folder, or empty this one."
        )


def _copy_package(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"))


def _is_repo_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _installed(name: str) -> str:
    """The version that the page was tried with, without what marks a build."""
    return metadata.version(name).split("+")[0]


def _gradio_version() -> str:
    try:
        return _installed("gradio")
    except metadata.PackageNotFoundError:
        return TESTED_GRADIO


def _linked(name: str, kind: str) -> str:
    return f"`{name}`" if os.path.exists(name) else f"[{name}](https://huggingface.co/{kind}{name})"


def _text_of(readme: Path) -> str:
    """What is below the settings of a card; empty if there is none."""
    parts = readme.read_text(encoding="utf-8").split("---\n", 2) if readme.is_file() else []
    return parts[2] if len(parts) == 3 and not parts[0] else ""
