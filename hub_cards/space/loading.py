# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A model and a data set by their names, as the page takes them."""

import os

import datasets
import torch
from datasets import Dataset, DatasetDict, load_dataset
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

import modeling_sacl
from trainer import load_pairs
from trainer.paths import check_links


logger = logging.get_logger(__name__)

# What can look twice and point. Every other checkpoint is taken for the dual encoder in it.
_WITH_MATCHING_HEAD = ("SaclForPreTraining", "SaclForImageTextRetrieval")
# Where a data set has several splits and none is named: the first of these, which the model should not have seen.
_PREFERRED_SPLITS = ("test", "validation")


def load_model(
    name: str | os.PathLike, *, revision: str | None = None, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """
    Loads a dual encoder and its processor; a SACL checkpoint with its matching head, if it was saved with one.

    Args:
        name (`str` or `os.PathLike`):
            A folder, or the id of a model on the Hub: SACL, CLIP, SigLIP ...
        revision (`str`, *optional*):
            Branch, tag or commit on the Hub.
        device (`str` or `torch.device`, *optional*):
            Where the model goes. Defaults to a GPU if there is one.

    Returns:
        `tuple`: the model, in evaluation mode, and its processor.

    Example:

    ```python
    >>> model, processor = load_model("user/sacl-model")
    ```
    """
    options = {"revision": revision, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(name, **options)
    architecture = next(iter(getattr(config, "architectures", None) or []), "")
    model_class = getattr(modeling_sacl, architecture) if architecture in _WITH_MATCHING_HEAD else AutoModel
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model_class.from_pretrained(name, **options).to(device).eval()
    return model, AutoProcessor.from_pretrained(name, **options)


def open_dataset(
    source: str | os.PathLike,
    *,
    split: str | None = None,
    image_column: str = "image",
    caption_columns: str | list[str] | None = None,
    revision: str | None = None,
    max_rows: int | None = None,
) -> Dataset:
    """
    Opens what the page searches: pairs as [`load_pairs`] finds them, or a folder of images without captions.

    Args:
        source (`str` or `os.PathLike`):
            The id of a data set on the Hub, a folder or a file.
        split (`str`, *optional*):
            Which split. By default `"test"`, else `"validation"`, else the first.
        image_column (`str`, *optional*, defaults to `"image"`):
            The column with the images.
        caption_columns (`str` or `list[str]`, *optional*):
            The columns with captions, as for [`load_pairs`].
        revision (`str`, *optional*):
            Branch, tag or commit on the Hub.
        max_rows (`int`, *optional*):
            Only so many rows, drawn at random but always the same, so that a large data set is indexed in time.

    Returns:
        [`~datasets.Dataset`]: one split with `image`, and with `caption` or `captions` and `pair_id` if there are
        captions.

    Raises:
        `ValueError`: if there is no such split, there are neither pairs nor images, or `max_rows` is below 1.

    Example:

    ```python
    >>> photos = open_dataset("holiday-photos", max_rows=1000)
    ```
    """
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"`max_rows` must be at least 1, got {max_rows}.")
    try:
        dataset = load_pairs(
            source, split=split, image_column=image_column, caption_columns=caption_columns, revision=revision
        )
    except ValueError:
        dataset = None if caption_columns is not None else _open_images(source, split)
        if dataset is None:
            raise
    if isinstance(dataset, DatasetDict):
        chosen = next((name for name in _PREFERRED_SPLITS if name in dataset), next(iter(dataset)))
        logger.info(f"{os.fspath(source)!r} has the splits {', '.join(dataset)}: {chosen!r} is shown.")
        dataset = dataset[chosen]
    if max_rows is not None and max_rows < len(dataset):
        dataset = dataset.shuffle(seed=0).select(range(max_rows)).flatten_indices()
    return dataset


def _open_images(source: str | os.PathLike, split: str | None) -> Dataset | DatasetDict | None:
    """A folder of images that nobody has described, if it is one."""
    if not os.path.isdir(source):
        return None
    check_links(source)
    try:
        dataset = load_dataset("imagefolder", data_dir=os.fspath(source), split=split)
    except (datasets.exceptions.DatasetGenerationError, datasets.data_files.EmptyDatasetError, ValueError):
        return None
    columns = dataset.column_names if isinstance(dataset, Dataset) else next(iter(dataset.values())).column_names
    return dataset.select_columns(["image"]) if "image" in columns else None
