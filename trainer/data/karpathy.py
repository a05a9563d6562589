# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The splits in which COCO and Flickr30k are compared: one JSON file beside a folder of images."""

import os
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List, Value

from ..paths import is_inside, read_json
from .pairs import clean_captions


# Of COCO, images of the validation set that nobody validates with: everyone trains with them.
_ALSO_TRAIN = "restval"

KARPATHY_SPLITS = ("train", "val", "test")


def load_karpathy(
    annotations: str | os.PathLike,
    image_dir: str | os.PathLike,
    split: str = "test",
    *,
    max_captions: int | None = None,
) -> Dataset:
    r"""
    Reads a split of COCO, Flickr30k or Flickr8k in the format of Karpathy & Fei-Fei, "Deep Visual-Semantic Alignments
    for Generating Image Descriptions", CVPR 2015 ([arXiv 1412.2306](https://huggingface.co/papers/1412.2306)), whose
    `dataset_coco.json` and `dataset_flickr30k.json` define what papers report. No image is opened here.

    Args:
        annotations (`str` or `os.PathLike`):
            The JSON file: `{"images": [{"filename", "filepath" (optional), "imgid", "split", "sentences": [{"raw"},
            ...]}, ...]}`.
        image_dir (`str` or `os.PathLike`):
            The folder in which `filepath/filename`, or `filename` alone, is found.
        split (`str`, *optional*, defaults to `"test"`):
            `"train"`, `"val"` or `"test"`. `"train"` includes COCO's `"restval"`.
        max_captions (`int`, *optional*):
            Uses only the first so many captions of an image. By default all are used, as ALBEF and SACL do: 25,010
            for the 5,000 test images of COCO.

    Returns:
        [`~datasets.Dataset`]: one row for each image with `image`, `captions` (a list) and `pair_id` (`imgid`).

    Raises:
        FileNotFoundError: if the file, the folder, or an image does not exist; the message names the first.
        ValueError: if the file is no such JSON, has no such split, or an image has no caption.

    Example:

    ```python
    >>> dataset = load_karpathy("dataset_coco.json", "coco/images", split="test")
    >>> metrics = evaluate_retrieval(model, dataset, processor, rerank_top_k=256)
    ```
    """
    entries = _read_entries(Path(annotations))
    splits = {entry["split"] for entry in entries}
    wanted = {split, _ALSO_TRAIN} if split == "train" else {split}
    if not splits & wanted:
        raise ValueError(f"{annotations} has no split {split!r}, only {', '.join(sorted(map(repr, splits)))}.")
    if max_captions is not None and max_captions < 1:
        raise ValueError(f"`max_captions` must be at least 1, got {max_captions}.")
    if not Path(image_dir).is_dir():
        raise FileNotFoundError(f"The folder of images {os.fspath(image_dir)!r} does not exist.")
    rows = [_read_row(entry, Path(image_dir), max_captions) for entry in entries if entry["split"] in wanted]
    features = Features({"image": Image(), "captions": List(Value("string")), "pair_id": Value("int64")})
    return Dataset.from_list(rows, features=features)


def karpathy_splits(annotations: str | os.PathLike) -> set[str]:
    """The splits that a file in Karpathy's format has."""
    splits = {entry["split"] for entry in _read_entries(Path(annotations))}
    return {"train" if split == _ALSO_TRAIN else split for split in splits}


def _read_entries(annotations: Path) -> list[dict[str, Any]]:
    if not annotations.is_file():
        raise FileNotFoundError(f"The annotations {str(annotations)!r} do not exist.")
    content = read_json(annotations)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or not entries:
        raise ValueError(
            f'{annotations} is not in Karpathy\'s format: a JSON object with a list "images" is expected. Other '
            "formats are read by `load_pairs`."
        )
    for entry in entries:
        if not isinstance(entry.get("split"), str):
            raise ValueError(f"An image in the annotations lacks `split`: {entry!r:.200}")
    return entries


def _read_row(entry: dict[str, Any], image_dir: Path, max_captions: int | None) -> dict[str, Any]:
    try:
        folder, name, image_id = entry.get("filepath", ""), entry["filename"], int(entry["imgid"])
        captions = clean_captions([sentence["raw"] for sentence in entry["sentences"]])
        if not isinstance(folder, str) or not isinstance(name, str) or not -(2**63) <= image_id < 2**63:
            raise TypeError("names are strings, and numbers have 64 bits")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"An image in the annotations lacks `filename`, `imgid` or `sentences` with `raw`: {entry!r:.200}"
        ) from error
    if not captions:
        raise ValueError(f"The image {name!r} has no caption.")
    return {
        "image": _find_image(image_dir, folder, name),
        "captions": captions[:max_captions],
        "pair_id": image_id,
    }


def _find_image(image_dir: Path, folder: str, name: str) -> str:
    """The image below its folder, and never outside of it, whatever the annotations say."""
    root = image_dir.resolve()
    for path in (root / folder / name, root / name):
        if is_inside(path, root) and path.is_file():
            return str(path)
    raise FileNotFoundError(f"The image {os.path.join(folder, name)!r} is not in {str(image_dir)!r}.")
