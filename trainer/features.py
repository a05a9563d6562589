# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Features of what does not learn, kept beside the pairs: computed once, written as they come, read in every epoch."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import datasets
import PIL.Image
import pyarrow as pa
import torch
from torch import nn
from transformers.utils import logging

from .data.pairs import undecoded
from .data.transforms import ImageDecodingError, decode_image
from .distributed import rank, world_size


logger = logging.get_logger(__name__)

# Rows whose features are written at a time: what an interruption can cost.
_ROWS_PER_FILE = 4096


class PairEncoder(Protocol):
    """
    What gives features of pairs, and always the same ones: `columns` are their names, `encode` turns rows into one
    float32 tensor of shape `(len(rows), dim)` for each of them, `fingerprint` tells encoders apart that differ.
    """

    @property
    def columns(self) -> tuple[str, ...]: ...

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]: ...

    def fingerprint(self) -> str: ...


def add_features(
    dataset: datasets.Dataset,
    encoder: PairEncoder,
    *,
    name: str,
    batch_size: int = 64,
    cache_dir: str | os.PathLike | None = None,
    show_progress: bool = True,
) -> datasets.Dataset:
    """
    Writes what an encoder says of every pair as columns of the data set.

    Features are written to disk a few thousand rows at a time. An interrupted call goes on where it stopped, and a
    repeated one reads what is there, as long as data set and encoder are the same. Several processes share the work
    where they share the folder.

    Args:
        dataset ([`~datasets.Dataset`]):
            Pairs as [`load_pairs`] gives them.
        encoder ([`PairEncoder`]):
            What embeds them.
        name (`str`):
            What the features are called, in messages and as a folder: `"guide features"`.
        batch_size (`int`, *optional*, defaults to 64):
            Pairs per forward pass.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where features are kept. Defaults to a folder in the cache of `datasets`.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        [`~datasets.Dataset`]: the data set with the encoder's columns, lists of float32. One that has them already is
        returned as it is.

    Raises:
        ValueError: if the data set has no length (features of a stream cannot be kept) or no rows.
    """
    if not isinstance(dataset, datasets.Dataset):
        raise ValueError(
            f"{name.capitalize()} are kept beside a `datasets.Dataset`, not a `{type(dataset).__name__}`: save the "
            f"stream to disk first, or train without {name}."
        )
    if len(dataset) == 0:
        raise ValueError("The data set has no rows: nothing can be embedded.")
    if set(encoder.columns) <= set(dataset.column_names):
        return dataset
    root = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / name.replace(" ", "_"))
    folder = root / f"{dataset._fingerprint}-{encoder.fingerprint()}"
    folder.mkdir(parents=True, exist_ok=True)

    rows = undecoded(dataset)
    starts = range(0, len(dataset), _ROWS_PER_FILE)
    parts = {start: range(start, min(start + _ROWS_PER_FILE, len(dataset))) for start in starts}
    files = {start: folder / f"{part.start:012d}-{part.stop:012d}.arrow" for start, part in parts.items()}
    # Each process begins elsewhere and leaves out what another has written in the meantime.
    first = rank() * len(starts) // world_size()
    with logging.tqdm(total=len(dataset), desc=name.capitalize(), disable=not show_progress) as bar:
        for start in [*starts[first:], *starts[:first]]:
            if files[start].exists():
                bar.update(len(parts[start]))
            else:
                _write_features(files[start], rows, parts[start], encoder, batch_size, bar)
    features = datasets.concatenate_datasets([datasets.Dataset.from_file(str(files[start])) for start in starts])
    return datasets.concatenate_datasets([dataset, features], axis=1)


def _write_features(
    file: Path, rows: datasets.Dataset, numbers: range, encoder: PairEncoder, batch_size: int, bar: Any
) -> None:
    """Embeds some rows and writes them under a name that exists only when they are complete."""
    parts: dict[str, list[torch.Tensor]] = {column: [] for column in encoder.columns}
    for start in range(numbers.start, numbers.stop, batch_size):
        batch = [rows[number] for number in range(start, min(start + batch_size, numbers.stop))]
        for column, embeds in encoder.encode(batch).items():
            parts[column].append(embeds)
        bar.update(len(batch))
    columns = {}
    for column, batches in parts.items():
        matrix = torch.cat(batches).numpy()
        offsets = pa.array(range(0, matrix.size + 1, matrix.shape[1]), type=pa.int32())
        columns[column] = pa.ListArray.from_arrays(offsets, pa.array(matrix.ravel(), type=pa.float32()))
    table = pa.table(columns)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    os.replace(partial, file)


def encode_readable(
    images: Sequence[Any], encode: Callable[[list[PIL.Image.Image]], torch.Tensor], user: str
) -> torch.Tensor:
    """
    Features of the images that can be read.

    Args:
        images (sequence):
            Images as [`decode_image`] takes them.
        encode (`Callable`):
            From pictures to features of shape `(len(pictures), dim)`.
        user (`str`):
            Who reads them, for messages.

    Returns:
        `torch.Tensor` of shape `(len(images), dim)`, float32, on the CPU: NaN for an image that cannot be read, whose
        pair the collator then skips and counts.

    Raises:
        ValueError: if none of the images can be read.
    """
    pictures, readable = [], []
    for number, image in enumerate(images):
        try:
            pictures.append(decode_image(image))
            readable.append(number)
        except ImageDecodingError as error:
            logger.warning_once(f"{user} cannot read an image ({error}); such pairs are skipped in training.")
    if not pictures:
        raise ValueError(f"None of {len(images)} images can be read. Are the paths right?")
    embeds = encode(pictures).float().cpu()
    features = torch.full((len(images), embeds.shape[1]), torch.nan)
    features[torch.tensor(readable)] = embeds
    return features


def fingerprint_of(model: nn.Module, *settings: Any) -> str:
    """A hash of the weights, and of how what stands beside them prints: the same model, the same features."""
    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for setting in settings:
        digest.update(repr(setting).encode())
    return digest.hexdigest()
