# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A page on which a model can be tried: built from a model and a data set, or launched from their names."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from torch import nn

from .backend import Backend
from .loading import load_model, open_dataset


if TYPE_CHECKING:
    from gradio import Blocks


def build_app(
    model: nn.Module,
    processor: Any,
    dataset: Dataset,
    *,
    title: str = "Pictures and words",
    dataset_name: str | None = None,
    examples: Sequence[str] | None = None,
    image_column: str = "image",
    caption_column: str | None = None,
    batch_size: int = 64,
    cache_dir: str | os.PathLike | None = None,
    show_progress: bool = True,
) -> "Blocks":
    """
    Builds a page to try a model on: text-to-image, image-to-text and composed search over a data set, where in an
    image each word is, which patches are kept, and which negatives of a batch are likely false.

    Any dual encoder will do. A tab that needs more, such as a matching head, says what is missing. Nothing is sent
    anywhere: no analytics, no fonts from elsewhere, no share link.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            [`SaclForPreTraining`], [`SaclForImageTextRetrieval`], [`SaclModel`], [`~transformers.CLIPModel`] ...
        processor ([`~transformers.ProcessorMixin`]):
            Its processor.
        dataset ([`~datasets.Dataset`]):
            Rows with images, captions or both, with embeddings from [`embed_dataset`] or without: then they are made
            here, and rows that cannot be embedded are left out. A column `pair_id` says which rows are positives of
            one another.
        title (`str`, *optional*, defaults to `"Pictures and words"`):
            Heading of the page.
        dataset_name (`str`, *optional*):
            What the data set is called on the page.
        examples (sequence of `str`, *optional*):
            Texts to click on. By default a few short captions.
        image_column (`str`, *optional*, defaults to `"image"`):
            Name of the image column.
        caption_column (`str`, *optional*):
            Name of the caption column. By default `"captions"` if there is one, else `"caption"`.
        batch_size (`int`, *optional*, defaults to 64):
            Rows per forward pass.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where embeddings are kept. Defaults to a folder in the cache of `datasets`.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar while embedding.

    Returns:
        `gradio.Blocks`: the page, to be launched.

    Raises:
        `ImportError`: if Gradio or FAISS is not installed.
        `ValueError`: if the data set has no rows, or neither images nor captions.
        `TypeError`: if the model is no dual encoder.

    Example:

    ```python
    >>> page = build_app(model, processor, photos, title="My holidays")
    >>> page.launch(server_port=7860, inbrowser=True)
    ```
    """
    try:
        from .layout import build_page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ImportError("The page is made with Gradio, which is not installed: `pip install sacl[demo]`.") from error
    backend = Backend(
        model,
        processor,
        dataset,
        image_column=image_column,
        caption_column=caption_column,
        batch_size=batch_size,
        cache_dir=cache_dir,
        show_progress=show_progress,
    )
    return build_page(backend, title=title, subtitle=_subtitle(backend, dataset_name), examples=examples)


def launch(
    model_name: str | os.PathLike,
    dataset_name: str | os.PathLike,
    *,
    split: str | None = None,
    image_column: str = "image",
    caption_columns: str | list[str] | None = None,
    max_rows: int | None = None,
    model_revision: str | None = None,
    dataset_revision: str | None = None,
    title: str = "Pictures and words",
    examples: Sequence[str] | None = None,
    server_name: str | None = None,
    server_port: int | None = None,
    inbrowser: bool = False,
    prevent_thread_lock: bool = False,
) -> "Blocks":
    """
    Loads a model and a data set, and serves the page until it is interrupted.

    Args:
        model_name (`str` or `os.PathLike`):
            A folder, or the id of a model on the Hub.
        dataset_name (`str` or `os.PathLike`):
            The id of a data set on the Hub, a folder (of images, if need be) or a file, as for [`load_pairs`].
        split (`str`, *optional*):
            Which split. By default `"test"`, else `"validation"`, else the first.
        image_column (`str`, *optional*, defaults to `"image"`):
            The column with the images.
        caption_columns (`str` or `list[str]`, *optional*):
            The columns with captions, as for [`load_pairs`].
        max_rows (`int`, *optional*):
            Only so many rows, drawn at random but always the same.
        model_revision, dataset_revision (`str`, *optional*):
            Branch, tag or commit on the Hub.
        title (`str`, *optional*, defaults to `"Pictures and words"`):
            Heading of the page.
        examples (sequence of `str`, *optional*):
            Texts to click on. By default a few short captions.
        server_name (`str`, *optional*):
            The address to listen on. By default only this machine can open the page; `"0.0.0.0"` lets others.
        server_port (`int`, *optional*):
            The port. By default the first free one from 7860.
        inbrowser (`bool`, *optional*, defaults to `False`):
            Whether to open the page in a browser.
        prevent_thread_lock (`bool`, *optional*, defaults to `False`):
            Whether to return while the page is served, instead of when it ends.

    Returns:
        `gradio.Blocks`: the page.

    Example:

    ```python
    >>> launch("runs/demo/model", "examples/data/emoji", split="validation", inbrowser=True)
    ```
    """
    model, processor = load_model(model_name, revision=model_revision)
    dataset = open_dataset(
        dataset_name,
        split=split,
        image_column=image_column,
        caption_columns=caption_columns,
        revision=dataset_revision,
        max_rows=max_rows,
    )
    page = build_app(model, processor, dataset, title=title, dataset_name=_short(dataset_name), examples=examples)
    page.launch(
        server_name=server_name,
        server_port=server_port,
        inbrowser=inbrowser,
        prevent_thread_lock=prevent_thread_lock,
    )
    return page


def _subtitle(backend: Backend, dataset_name: str | None) -> str:
    model = _short(getattr(getattr(backend.model, "config", None), "name_or_path", ""))
    known = [name for name in (model or type(backend.model).__name__, dataset_name) if name]
    return f"{' on '.join(known)} · {len(backend):,} rows to search"


def _short(name: str | os.PathLike) -> str:
    """An id as it is; of a path its end, since the rest is nobody's business."""
    name = os.fspath(name)
    return "/".join(Path(name).parts[-2:]) if os.path.isabs(name) else name
