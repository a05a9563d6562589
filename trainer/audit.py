# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""An audit of image-text pairs: which of them a model takes for duplicates and false negatives of one another.

Nothing is compared with a constant. What is as alike as the data set's own pairs is likely a false negative; what is
as alike as a picture and the same picture saved once more is likely a duplicate. All is compared block by block.
"""

import io
import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import datasets
import numpy as np
import PIL.Image
import torch
from torch import nn

from modeling_sacl.loss_sacl import regulation_weights

from .audit_report import FALSE_NEGATIVE, SIMILAR_IMAGES, SIMILAR_TEXTS, AuditReport, Finding
from .data import clean_captions, decode_image, pair_ids_tensor, undecoded
from .evaluation import embed_pairs
from .evaluation.pair_embeddings import progress
from .evaluation.ranking import grid_similarities, grid_steps
from .guide import Guide, add_guide_features
from .search.embed import Embedder


# Of an image with very many captions so many are looked at for the distribution of positives.
_POSITIVES_PER_IMAGE = 16
# So many images or texts are embedded a second time, slightly changed, and so many negatives are drawn.
_VARIANTS, _SAMPLED_NEGATIVES = 256, 65_536
# Nearer to 1 than this is 1 but for the rounding of float32: what is identical is always a duplicate.
_IDENTICAL = 1 - 2.0**-18
# The strengths of regulation that the summary says something about.
_STRENGTHS = (1.0, 2.0, 4.0)


def audit_pairs(
    dataset: datasets.Dataset,
    model: nn.Module | Guide,
    processor: Any = None,
    *,
    positive_quantile: float = 0.5,
    duplicate_quantile: float = 0.25,
    top_k: int = 1000,
    batch_sizes: Sequence[int] = (64, 256, 1024, 4096),
    image_column: str = "image",
    caption_column: str | None = None,
    pair_id_column: str | None = "pair_id",
    max_length: int | None = None,
    batch_size: int = 64,
    block_size: int = 1024,
    show_progress: bool = True,
) -> AuditReport:
    r"""
    Looks for likely false negatives and duplicates in a data set: rows with different pair ids that a model takes for
    the same. What it finds is the model's opinion; look at the gallery before you act on it.

    - An image and a text of different pairs are a **likely false negative** if they are more alike than
      `positive_quantile` of the data set's true pairs, images with their own texts.
    - Two images of different pairs are **similar** if they are more alike than `duplicate_quantile` of images are with
      their harmless variants: the same image, cut by 2 % on every side, brought back to its size, and saved as JPEG.
      Two texts, likewise, with texts written with another capital letter and full stop. So the model's own blindness
      to what does not matter sets the mark. A sample of 256, evenly spaced, is embedded again for it.

    Rows of one pair id are positives of one another and never reported. Embeddings are all that is held, `dim` float32
    numbers for each distinct image and text; they are compared `block_size` by `block_size`, so memory does not grow
    with the square of the data set. Similarities are rounded to a grid as in [`compute_retrieval_metrics`], so that
    blocks change nothing.

    Args:
        dataset ([`~datasets.Dataset`]):
            Pairs as [`load_pairs`] gives them.
        model ([`~transformers.PreTrainedModel`] or [`Guide`]):
            Any model with `get_image_features` and `get_text_features`, or a guide. A guide that embeds only texts, or
            only images, finds duplicates among these, and no false negatives.
        processor ([`~transformers.ProcessorMixin`], *optional*):
            The model's processor. A guide has its own.
        positive_quantile (`float`, *optional*, defaults to 0.5):
            In [0, 1]. Higher: fewer and surer false negatives.
        duplicate_quantile (`float`, *optional*, defaults to 0.25):
            In [0, 1]. Higher: fewer and surer duplicates.
        top_k (`int`, *optional*, defaults to 1000):
            How many findings of each kind are listed, the most alike first. The summary counts all.
        batch_sizes (sequence of `int`, *optional*, defaults to `(64, 256, 1024, 4096)`):
            Batch sizes of training for which the summary says how many false negatives to expect; those that exceed
            the number of pairs are left out.
        image_column (`str`, *optional*, defaults to `"image"`):
            Name of the image column.
        caption_column (`str`, *optional*):
            Name of the caption column. By default `"captions"` if there is one, else `"caption"`.
        pair_id_column (`str`, *optional*, defaults to `"pair_id"`):
            Name of the column that says what belongs together. With `None`, or if there is no column `"pair_id"`,
            every row is a pair of its own.
        max_length (`int`, *optional*):
            Longer captions are cut to so many tokens. By default what the processor, tokenizer or model allows.
        batch_size (`int`, *optional*, defaults to 64):
            Images or captions per forward pass.
        block_size (`int`, *optional*, defaults to 1024):
            Side of the largest block of similarities held in memory.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show progress bars.

    Returns:
        [`AuditReport`]

    Raises:
        `ValueError`: if the data set is none of rows, has fewer than two pairs, lacks a column, or a value is out of
        its range.
        `TypeError`: if the model embeds neither images nor texts.

    Example:

    ```python
    >>> report = audit_pairs(load_pairs("user/catalogue", split="train"), model, processor)
    >>> report.summary["pairs_with_false_negative"], round(report.expected_per_batch(256), 1)
    (1204, 38.2)
    >>> report.of_kind("false_negative")[0].second_caption
    'Red bus in the rain'
    ```
    """
    _check_arguments(dataset, positive_quantile, duplicate_quantile, top_k, batch_sizes, block_size)
    columns = _Columns.of(dataset, image_column, caption_column, pair_id_column)
    if isinstance(model, Guide) and model.kind != "image_text":
        sides = _sides_of_guide(dataset, model, columns, batch_size, show_progress)
    else:
        model, processor = (model.model, model.processor) if isinstance(model, Guide) else (model, processor)
        if processor is None:
            raise ValueError("Pass the model's `processor`: images and captions have to be prepared for it.")
        sides = _sides_of_dual_encoder(
            dataset,
            model,
            processor,
            columns,
            batch_size=batch_size,
            max_length=max_length,
            show_progress=show_progress,
        )
    compare = partial(_compare, top_k=top_k, block_size=block_size, show_progress=show_progress)

    summary: dict[str, Any] = {"rows": len(dataset)}
    summary["pairs"] = len(torch.cat([side.ids for side in sides.values()]).unique())
    if summary["pairs"] < 2:
        raise ValueError(
            f"All {len(dataset)} rows have one pair id, so nothing in them is a negative of anything: set "
            "`pair_id_column`."
        )
    summary.update({"counts": {}, "thresholds": {}})
    findings: list[Finding] = []
    for kind, reference, found in _comparisons(
        sides, positive_quantile, duplicate_quantile, dataset, columns, compare
    ):
        summary["counts"][kind], summary["thresholds"][kind] = found.total, found.threshold
        findings += _findings(kind, found, reference, sides, dataset, columns)
        if kind == FALSE_NEGATIVE:
            summary.update(_false_negative_summary(found, reference, sides, batch_sizes))
    settings = {"positive_quantile": positive_quantile, "duplicate_quantile": duplicate_quantile, "top_k": top_k}
    return AuditReport(findings, {**summary, **settings}, dataset, columns.image)


def _check_arguments(
    dataset: Any,
    positive_quantile: float,
    duplicate_quantile: float,
    top_k: int,
    batch_sizes: Sequence[int],
    block_size: int,
) -> None:
    if not isinstance(dataset, datasets.Dataset):
        raise ValueError(f"An audit reads rows by number: pass one split, a `datasets.Dataset`, got {type(dataset)}.")
    if len(dataset) == 0:
        raise ValueError("The data set has no rows: there is nothing to audit.")
    for name, value in (("positive_quantile", positive_quantile), ("duplicate_quantile", duplicate_quantile)):
        if not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be from 0 to 1, got {value}.")
    for name, value in (
        ("top_k", top_k),
        ("block_size", block_size),
        *(("batch_sizes", size) for size in batch_sizes),
    ):
        if operator.index(value) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")


# ------------------------------------------------------------------------------------------------------- what is read


class _Columns(NamedTuple):
    """Where images, captions and pair ids are; the ids may be row numbers (`None`)."""

    image: str
    caption: str
    pair_id: str | None

    @classmethod
    def of(cls, dataset: datasets.Dataset, image: str, caption: str | None, pair_id: str | None) -> "_Columns":
        there = dataset.column_names
        caption = caption or ("captions" if "captions" in there else "caption")
        pair_id = None if pair_id == "pair_id" and "pair_id" not in there else pair_id
        for argument, column in (("image_column", image), ("caption_column", caption), ("pair_id_column", pair_id)):
            if column is not None and column not in there:
                raise ValueError(f"The data set has no column {column!r}, only {sorted(there)}: set `{argument}`.")
        return cls(image, caption, pair_id)


class _Side(NamedTuple):
    """The distinct images, or texts: embeddings on the CPU, ids, first rows, the words, and how to embed more."""

    embeds: torch.Tensor
    ids: torch.Tensor
    rows: torch.Tensor
    texts: tuple[str, ...] | None
    encode: Callable[[list[Any]], torch.Tensor]


_Sides = dict[str, _Side]


def _sides_of_dual_encoder(
    dataset: datasets.Dataset,
    model: nn.Module,
    processor: Any,
    columns: _Columns,
    *,
    batch_size: int,
    max_length: int | None,
    show_progress: bool,
) -> _Sides:
    embedder = Embedder(model, processor, max_length)
    found = embed_pairs(
        model,
        undecoded(dataset.with_format(None), columns.image),
        processor,
        batch_size=batch_size,
        image_column=columns.image,
        caption_column=columns.caption,
        pair_id_column=columns.pair_id,
        max_length=max_length,
        show_progress=show_progress,
    )
    return {
        "image": _Side(found.image_embeds, found.image_ids, found.image_rows, None, embedder.images),
        "text": _Side(found.text_embeds, found.text_ids, found.text_rows, found.texts, embedder.texts),
    }


def _sides_of_guide(
    dataset: datasets.Dataset, guide: Guide, columns: _Columns, batch_size: int, show_progress: bool
) -> _Sides:
    """The one side that a guide of one modality embeds, row by row."""
    wanted = {columns.image: "image", columns.caption: "captions" if columns.caption == "captions" else "caption"}
    rows = dataset.with_format(None).select_columns(list(wanted))
    rows = rows.rename_columns({old: new for old, new in wanted.items() if old != new})
    features = add_guide_features(rows, guide, batch_size=batch_size, show_progress=show_progress)
    ids = range(len(dataset)) if columns.pair_id is None else dataset[columns.pair_id]
    (column,) = guide.columns
    embeds = features.select_columns([column]).with_format("torch")[:][column].float()
    if not embeds.isfinite().all():
        row = int((~embeds.isfinite()).any(dim=1).nonzero()[0])
        raise ValueError(f"The image of row {row} cannot be read: leave it out first.")
    if guide.kind == "image":
        encode = lambda pictures: guide.encode([{"image": picture} for picture in pictures])[column]  # noqa: E731
        return {"image": _Side(embeds, pair_ids_tensor(ids), torch.arange(len(dataset)), None, encode)}
    texts = tuple((clean_captions(value) or [""])[0] for value in dataset[columns.caption])
    encode = lambda words: guide.encode([{"caption": text} for text in words])[column]  # noqa: E731
    return {"text": _Side(embeds, pair_ids_tensor(ids), torch.arange(len(dataset)), texts, encode)}


# -------------------------------------------------------------------------------------------------- what is compared


class _Found(NamedTuple):
    """All that is above a threshold, counted; and the first of it, the most alike first."""

    threshold: float
    total: int
    hit_first: torch.Tensor
    hit_second: torch.Tensor
    first: np.ndarray
    second: np.ndarray
    cosines: np.ndarray


class _Reference(NamedTuple):
    """The similarities that a finding is held against, rising; and that of each image with its own text."""

    cosines: torch.Tensor
    own: torch.Tensor | None = None

    def percentile(self, cosines: np.ndarray) -> np.ndarray:
        """Share, in percent, that is lower."""
        return 100 * np.searchsorted(self.cosines.numpy(), cosines) / len(self.cosines)


def _comparisons(
    sides: _Sides,
    positive_quantile: float,
    duplicate_quantile: float,
    dataset: datasets.Dataset,
    columns: _Columns,
    compare: Callable[..., _Found],
) -> Any:
    """Each kind of finding with its reference and what was found, one after another."""
    if len(sides) == 2:
        reference = _positives(sides["image"], sides["text"])
        threshold = _quantile(reference.cosines, positive_quantile)
        yield FALSE_NEGATIVE, reference, compare(sides["image"], sides["text"], threshold)
    for name, kind in (("image", SIMILAR_IMAGES), ("text", SIMILAR_TEXTS)):
        if name in sides:
            reference = _Reference(_variant_cosines(sides[name], dataset, columns))
            threshold = min(_IDENTICAL, _quantile(reference.cosines, duplicate_quantile))
            yield kind, reference, compare(sides[name], sides[name], threshold)


def _quantile(rising: torch.Tensor, share: float) -> float:
    """One of the values themselves, so that it is met by what equals it."""
    return float(rising[min(len(rising) - 1, math.floor(share * len(rising)))])


def _rowwise(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Cosines of rows with rows, on the grid on which blocks are compared."""
    steps = grid_steps(first, second)
    return ((first.double() * second.double()).sum(dim=-1) * steps).round() / steps


def _positives(images: _Side, texts: _Side) -> _Reference:
    """Images with their own texts, and for each image the best of them."""
    order = texts.ids.argsort(stable=True)
    ids = texts.ids[order]
    start, stop = torch.searchsorted(ids, images.ids), torch.searchsorted(ids, images.ids, right=True)
    own = torch.full((len(images.ids),), -torch.inf, dtype=torch.float64, device=ids.device)
    cosines = []
    for number in range(min(_POSITIVES_PER_IMAGE, int((stop - start).max()))):
        rows = (start + number < stop).nonzero()[:, 0]
        found = _rowwise(images.embeds[rows], texts.embeds[order[start[rows] + number]])
        own[rows] = own[rows].maximum(found)
        cosines.append(found)
    if not cosines:
        raise ValueError("No image has a text with its own pair id, so nothing can be called as alike as a true pair.")
    return _Reference(torch.cat(cosines).cpu().sort().values, own.cpu())


def _variant_cosines(side: _Side, dataset: datasets.Dataset, columns: _Columns) -> torch.Tensor:
    """How alike things and their harmless variants are, for a sample of them, rising."""
    sample = np.unique(np.linspace(0, len(side.rows) - 1, _VARIANTS).astype(int))
    if side.texts is None:
        rows = undecoded(dataset.with_format(None), columns.image).select(side.rows[sample].tolist())
        things: list[Any] = [decode_image(row[columns.image]) for row in rows]
        variants: list[Any] = [_saved_again(image) for image in things]
    else:
        things = [side.texts[number] for number in sample]
        variants = [_written_again(text) for text in things]
    # Both are embedded here, in batches of one shape: what is stored may come from another.
    parts = [
        _rowwise(side.encode(things[start : start + 32]), side.encode(variants[start : start + 32]))
        for start in range(0, len(things), 32)
    ]
    return torch.cat(parts).cpu().sort().values


def _saved_again(image: PIL.Image.Image) -> PIL.Image.Image:
    """The same image, cut by 2 % on every side, brought back to its size, and saved as JPEG."""
    width, height = image.size
    left, top = (min(max(1, round(0.02 * side)), (side - 1) // 2) for side in image.size)
    cut = image.crop((left, top, width - left, height - top)).resize(image.size, PIL.Image.Resampling.BICUBIC)
    file = io.BytesIO()
    cut.save(file, "JPEG", quality=75)
    return PIL.Image.open(file).convert("RGB")


def _written_again(text: str) -> str:
    """The same words, with the other case at the beginning, and a full stop more or less."""
    text = text[:1].swapcase() + text[1:]
    return text[:-1] if text.endswith(".") and len(text) > 1 else text + "."


@torch.no_grad()
def _compare(
    first: _Side, second: _Side, threshold: float, *, top_k: int, block_size: int, show_progress: bool
) -> _Found:
    """All of the first with all of the second (each two of a side once), where ids differ and the threshold is met."""
    # MPS has no float64.
    device = torch.device("cpu") if first.embeds.device.type == "mps" else first.embeds.device
    one_side = first is second
    a, a_ids, b, b_ids = (part.to(device) for part in (first.embeds, first.ids, second.embeds, second.ids))
    steps = grid_steps(a, b)
    hits = torch.zeros(len(a), dtype=torch.bool), torch.zeros(len(b), dtype=torch.bool)
    best = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0)
    total = 0
    for start in progress(range(0, len(a), block_size), "Comparing", show_progress):
        rows = slice(start, start + block_size)
        for other in range(start if one_side else 0, len(b), block_size):
            columns = slice(other, other + block_size)
            similarity = grid_similarities(a[rows], b[columns])
            met = (similarity >= round(threshold * steps)) & (a_ids[rows, None] != b_ids[None, columns])
            if one_side and start == other:
                met.triu_(diagonal=1)
            where = met.nonzero()
            if not len(where):
                continue
            total += len(where)
            cosines = similarity[met].cpu().numpy() / steps
            found = where.cpu().numpy() + (start, other)
            hits[0][found[:, 0]] = True
            hits[1][found[:, 1]] = True
            best = _most_alike(best, (found[:, 0], found[:, 1], cosines), top_k)
    return _Found(threshold, total, *hits, *best)


_Listed = tuple[np.ndarray, np.ndarray, np.ndarray]


def _most_alike(best: _Listed, found: _Listed, top_k: int) -> _Listed:
    """The first of both lists in one order of everything, so that it does not matter in which blocks they came."""
    first, second, cosines = (np.concatenate(parts) for parts in zip(best, found, strict=True))
    order = np.lexsort((second, first, -cosines))[:top_k]
    return first[order], second[order], cosines[order]


# ---------------------------------------------------------------------------------------------------- what is reported


def _findings(
    kind: str, found: _Found, reference: _Reference, sides: _Sides, dataset: datasets.Dataset, columns: _Columns
) -> list[Finding]:
    names = {FALSE_NEGATIVE: ("image", "text"), SIMILAR_IMAGES: ("image", "image"), SIMILAR_TEXTS: ("text", "text")}
    first, second = (sides[name] for name in names[kind])
    needed = [columns.caption] if columns.pair_id is None else [columns.caption, columns.pair_id]
    content = dataset.with_format(None).select_columns(needed)
    percentiles = reference.percentile(found.cosines)

    def described(side: _Side, number: int) -> tuple[int, int | str, str]:
        row = int(side.rows[number])
        values = content[row]
        caption = (clean_captions(values[columns.caption]) or [""])[0] if side.texts is None else side.texts[number]
        return row, row if columns.pair_id is None else values[columns.pair_id], caption

    findings = []
    for a, b, cosine, percentile in zip(found.first, found.second, found.cosines, percentiles, strict=True):
        (row_a, id_a, caption_a), (row_b, id_b, caption_b) = described(first, a), described(second, b)
        margin = None if reference.own is None or kind != FALSE_NEGATIVE else float(cosine - reference.own[a])
        margin = margin if margin is None or math.isfinite(margin) else None
        shared = (row_a, row_b, id_a, id_b, caption_a, caption_b)
        findings.append(Finding(kind, *shared, float(cosine), float(percentile), margin))
    return findings


def _false_negative_summary(
    found: _Found, reference: _Reference, sides: _Sides, batch_sizes: Sequence[int]
) -> dict[str, Any]:
    """What the false negatives, listed or not, mean for training."""
    images, texts = sides["image"], sides["text"]
    image_ids, text_ids = images.ids.cpu(), texts.ids.cpu()
    involved = torch.cat([image_ids[found.hit_first], text_ids[found.hit_second]]).unique()
    sorted_ids = text_ids.sort().values
    positives = torch.searchsorted(sorted_ids, image_ids, right=True) - torch.searchsorted(sorted_ids, image_ids)
    negatives = len(image_ids) * len(text_ids) - int(positives.sum())
    rate = found.total / negatives if negatives else 0.0

    sampled = _sampled_negatives(images, texts)
    weights = {}
    if len(sampled):
        both = torch.cat([torch.tensor([found.threshold], dtype=sampled.dtype), sampled])[None]
        everything = torch.ones_like(both, dtype=torch.bool)
        for strength in _STRENGTHS:
            weights[str(strength)] = float(regulation_weights(both, strength=strength, negative_mask=everything)[0, 0])
    pairs = len(torch.cat([image_ids, text_ids]).unique())
    sizes = [size for size in batch_sizes if size <= pairs] or [pairs]
    less_alike = np.searchsorted(sampled.sort().values.numpy(), reference.cosines.numpy()) / max(1, len(sampled))
    return {
        "images": len(image_ids),
        "texts": len(text_ids),
        "negatives": negatives,
        "false_negative_rate": rate,
        "pairs_with_false_negative": len(involved),
        "separation": float(less_alike.mean()) if len(sampled) else None,
        "expected_per_batch": {str(size): size * (size - 1) * rate for size in sizes},
        "weight_at_threshold": weights,
    }


def _sampled_negatives(images: _Side, texts: _Side) -> torch.Tensor:
    """Cosines of images with texts of other pairs, drawn at random, the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    image_ids, text_ids = images.ids.cpu(), texts.ids.cpu()
    rows = torch.randint(len(image_ids), (_SAMPLED_NEGATIVES,), generator=generator)
    columns = torch.randint(len(text_ids), (_SAMPLED_NEGATIVES,), generator=generator)
    differ = image_ids[rows] != text_ids[columns]
    parts = zip(rows[differ].split(4096), columns[differ].split(4096), strict=True)
    cosines = [_rowwise(images.embeds.cpu()[a], texts.embeds.cpu()[b]) for a, b in parts]
    return torch.cat(cosines) if len(cosines) else torch.empty(0, dtype=torch.float64)
