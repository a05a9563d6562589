# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Grounding: which patches of an image each word of a text is about, by a model that has never seen a box.

Grad-CAM (Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV
2017, [arXiv 1610.02391](https://huggingface.co/papers/1610.02391)) on the cross-attention of one layer of the fusion
encoder, as in ALBEF (Li et al., NeurIPS 2021, section 6.5,
[arXiv 2107.07651](https://huggingface.co/papers/2107.07651)). With the attention `A` of the words to the patches in
that layer, and the score `s` that the matching head gives to "match",

    map = mean over heads of  A * relu(ds / dA)

so that a patch counts where it is looked at and where looking at it says that image and text belong together.

From maps to numbers: [`best_point`] for the pointing game (Zhang et al., "Top-down Neural Attention by Excitation
Backprop", ECCV 2016, [arXiv 1608.00507](https://huggingface.co/papers/1608.00507)), [`score_boxes`] to choose among
proposed boxes as ALBEF does on RefCOCO+, and [`evaluate_grounding`] for a data set. `chance_grounding_metrics` says
what a choice at random would score.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torchvision.ops import box_iou
from transformers import BatchEncoding
from transformers.utils import logging

from ..data.transforms import decode_image
from ..embedding import dual_encoder, evaluation_mode, text_options
from .pair_embeddings import _rgb_image, batched, progress


logger = logging.get_logger(__name__)

# A chosen box is right from this overlap (intersection over union) on.
MIN_OVERLAP = 0.5
# Of resampling, relative to the highest value: what differs by less is the same.
_ROUNDING = 1e-5


class Grounding(NamedTuple):
    """
    Where in an image a text is, and each of its words. Maps are on the grid of patches, of no scale that means
    anything: what counts is where one is high, and how high beside the others of the same text.

    Args:
        words (`list[str]`):
            The words of the text, as they are written there. What a word is says the tokenizer: for BERT's, a
            punctuation mark is one too.
        word_maps (`torch.FloatTensor` of shape `(num_words, grid_height, grid_width)`):
            For each word its map, at least 0: the mean over its word pieces.
        text_map (`torch.FloatTensor` of shape `(grid_height, grid_width)`):
            The map of the whole text: the mean over all its tokens, those included that mark its beginning and its
            end, as ALBEF takes it to choose a box.
        match_probability (`float`):
            What the matching head says of image and text as a whole.
    """

    words: list[str]
    word_maps: torch.Tensor
    text_map: torch.Tensor
    match_probability: float


# --------------------------------------------------------------------------------------------------------------------
# Maps
# --------------------------------------------------------------------------------------------------------------------


def ground_text(
    model: nn.Module, processor: Callable[..., Any], image: Any, text: str, *, layer: int | None = None
) -> Grounding:
    r"""
    Finds the words of a text in an image. [`ground_texts`] does it for several, and says how.

    Args:
        model ([`SaclForPreTraining`] or another with a matching head):
            The model. A matching head that was not trained gives maps that mean nothing.
        processor ([`SaclProcessor`]):
            Its processor.
        image (`PIL.Image.Image`, `dict`, `str` or `os.PathLike`):
            A picture, or the path or URL of a file.
        text (`str`):
            What to look for.
        layer (`int`, *optional*):
            The layer of the fusion encoder, counted from 1. By default the one in the middle: ALBEF's 3rd of 6.

    Returns:
        [`Grounding`]

    Raises:
        `TypeError`: if the model has no fusion encoder or no matching head.
        `ValueError`: for a layer that is not there, and a text without a word or with too many tokens.

    Example:

    ```python
    >>> grounding = ground_text(model, processor, image, "a red bus near a house")
    >>> grounding.words
    ['a', 'red', 'bus', 'near', 'a', 'house']
    >>> heat = heat_map(grounding.word_maps[2], (image.height, image.width))
    ```
    """
    return ground_texts(model, processor, [image], [text], layer=layer)[0]


def ground_texts(
    model: nn.Module,
    processor: Callable[..., Any],
    images: Sequence[Any],
    texts: Sequence[str],
    *,
    layer: int | None = None,
) -> list[Grounding]:
    r"""
    Finds the words of each text in its image, all of them in one pass.

    The model runs in evaluation mode, and its fusion encoder with eager attention, since other implementations keep no
    probabilities; afterwards both are as they were. Weights need not require gradients, and none of them gets one.
    Images may have another size than the configured one, as far as the processor leaves it to them: positions are
    resampled.

    Where the model drops patches, these have 0, and so has what is fused of them: the fused token has no place.

    The matching head reads the first token of the last layer, and all other words reach it only through the layers
    between. In the last layer, which is the only one of a model with one, words have maps of 0, and only the map of
    the whole text says something.

    Args:
        model ([`SaclForPreTraining`] or another with a matching head):
            The model. A matching head that was not trained gives maps that mean nothing.
        processor ([`SaclProcessor`]):
            Its processor, whose tokenizer must be a fast one, that knows which piece belongs to which word.
        images (`list`):
            Images as [`ground_text`] takes them.
        texts (`list[str]`):
            Text i is looked for in image i.
        layer (`int`, *optional*):
            The layer of the fusion encoder, counted from 1. By default the one in the middle: ALBEF's 3rd of 6.

    Returns:
        `list` of [`Grounding`]: one for each text, with maps in float32 on the model's device.

    Raises:
        `TypeError`: if the model has no fusion encoder or no matching head.
        `ValueError`: for a layer that is not there, images and texts that are not equally many, and a text without a
            word or with more tokens than the model reads.

    Example:

    ```python
    >>> here, there = ground_texts(model, processor, [image, image], ["a red bus", "a house"])
    >>> best_point(there.text_map, (image.height, image.width))
    (57.5, 20.5)
    ```
    """
    layer, num_layers = _resolve_layer(model, layer)
    if layer == num_layers:
        logger.warning_once(
            f"Layer {layer} is the last of the fusion encoder, where only the first token reaches the matching head: "
            "the maps of words are 0, and only that of the whole text says something."
        )
    return _ground(model, processor, images, texts, layer)


# No gradient but one, and that one inside of somebody's inference mode too.
@torch.inference_mode(False)
@torch.no_grad()
def _ground(
    model: nn.Module, processor: Callable[..., Any], images: Sequence[Any], texts: Sequence[str], layer: int
) -> list[Grounding]:
    if len(images) != len(texts):
        raise ValueError(
            f"Text i is looked for in image i, but there are {len(texts)} texts and {len(images)} images."
        )
    if not texts:
        return []
    sacl, head = _fusion_and_head(model)
    tokens = _tokenize(model, processor, texts)
    words = [_word_positions(tokens, row, text) for row, text in enumerate(texts)]
    rgb_images = [decode_image(image) for image in images]
    pixel_values = processor(images=rgb_images, return_tensors="pt")["pixel_values"]

    device, patch_size = sacl.vision_model.device, sacl.config.vision_config.patch_size
    rows, columns = pixel_values.shape[-2] // patch_size, pixel_values.shape[-1] // patch_size
    mask = tokens["attention_mask"].to(device)
    with evaluation_mode(model), _eager_attention(sacl.fusion_model):
        token_maps, places, probabilities = _token_maps(
            sacl, head, tokens["input_ids"].to(device), mask, pixel_values.to(device), layer
        )
    maps = _on_the_grid(token_maps, places, rows * columns).unflatten(2, (rows, columns))
    weights = mask.to(maps.dtype) / mask.sum(dim=1, keepdim=True)
    text_maps = torch.einsum("bt,bthw->bhw", weights, maps)
    return [
        Grounding(
            words=written,
            word_maps=torch.stack([maps[row, positions].mean(dim=0) for positions in pieces]),
            text_map=text_maps[row],
            match_probability=probability,
        )
        for row, ((written, pieces), probability) in enumerate(zip(words, probabilities.tolist(), strict=True))
    ]


def _token_maps(
    sacl: Any,
    head: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    pixel_values: torch.Tensor,
    layer: int,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """
    Grad-CAM of each text token over the image tokens without the class token, `(batch_size, length, num_tokens)`; the
    places in the image that the first of these come from, if some are dropped; and the probabilities of "match".
    """
    text_tokens = sacl.get_text_features(input_ids, attention_mask=attention_mask).last_hidden_state
    # The patches that the fusion encoder will see, and with them their places.
    guide = {"text_states": text_tokens[:, 0]} if sacl.config.vision_config.selects_patches_by_text else {}
    vision_outputs = sacl.vision_model(pixel_values, interpolate_pos_encoding=True, return_dict=True, **guide)
    with torch.enable_grad():
        # The graph begins here, whether or not a weight requires a gradient.
        text_tokens = text_tokens.requires_grad_()
        fused = sacl.fuse(text_tokens, vision_outputs, attention_mask, output_attentions=True, return_dict=True)
        logits = head(fused.last_hidden_state[:, 0]).float()
        attention = fused.cross_attentions[layer - 1]
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), attention)
    maps = (attention.detach().float() * gradient.float().clamp(min=0)).mean(dim=1)
    places = None if vision_outputs.kept_patches is None else vision_outputs.kept_patches[-1]
    return maps[:, :, 1:], places, logits.detach().softmax(dim=-1)[:, 1]


def _on_the_grid(token_maps: torch.Tensor, places: torch.Tensor | None, num_patches: int) -> torch.Tensor:
    """What each text token has for each patch of the image: 0 for those dropped. Fused tokens are left out."""
    if places is None:
        return token_maps
    # After the tokens kept there may be one more, fused of those dropped last; -1 are fused ones of earlier layers.
    token_maps = token_maps[:, :, : places.shape[1]]
    places = places.to(token_maps.device)
    columns = places.where(places >= 0, num_patches)
    grid = token_maps.new_zeros(*token_maps.shape[:2], num_patches + 1)
    return grid.scatter_(2, columns[:, None].expand_as(token_maps), token_maps)[:, :, :num_patches]


@contextmanager
def _eager_attention(model: Any) -> Iterator[None]:
    """Attention that keeps its probabilities inside; outside the implementation is the one that was there."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)


def _fusion_and_head(model: nn.Module) -> tuple[Any, Any]:
    sacl, head = dual_encoder(model), getattr(model, "itm_head", None)
    if head is None or not hasattr(sacl, "fusion_model"):
        raise TypeError(
            f"A text is found by what a matching head says of it, and `{type(model).__name__}` has no fusion encoder "
            "with such a head: load the checkpoint with `SaclForPreTraining.from_pretrained`."
        )
    return sacl, head


def _resolve_layer(model: nn.Module, layer: int | None) -> tuple[int, int]:
    """The layer meant, and how many there are."""
    num_layers = len(_fusion_and_head(model)[0].fusion_model.layers)
    if layer is None:
        return max(1, num_layers // 2), num_layers
    if not 1 <= layer <= num_layers:
        raise ValueError(f"The fusion encoder has the layers 1 to {num_layers}: there is no `layer` {layer}.")
    return layer, num_layers


def _tokenize(model: nn.Module, processor: Any, texts: Sequence[str]) -> BatchEncoding:
    tokenizer = getattr(processor, "tokenizer", processor)
    if not tokenizer.is_fast:
        raise TypeError(
            f"`{type(tokenizer).__name__}` does not know which piece belongs to which word: take a fast tokenizer."
        )
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"A text must be a string, got {text!r}.")
    limit = text_options(model, processor, None).get("max_length")
    tokens = tokenizer(list(texts), padding=True, return_attention_mask=True, return_tensors="pt")
    lengths = tokens["attention_mask"].sum(dim=1).tolist()
    for text, length in zip(texts, lengths, strict=True):
        if limit is not None and length > limit:
            raise ValueError(f"The text {text!r} has {length} tokens, but the model reads {limit}: shorten it.")
    return tokens


def _word_positions(tokens: BatchEncoding, row: int, text: str) -> tuple[list[str], list[list[int]]]:
    """The words of a text as they are written there, and which tokens each consists of."""
    pieces: dict[int, list[int]] = {}
    for position, word in enumerate(tokens.word_ids(row)):
        if word is not None:  # as it is of special tokens and padding
            pieces.setdefault(word, []).append(position)
    if not pieces:
        raise ValueError(f"The text {text!r} has no word: nothing can be looked for.")
    spans = [tokens.word_to_chars(row, word) for word in pieces]
    return [text[span.start : span.end].strip() for span in spans], list(pieces.values())


# --------------------------------------------------------------------------------------------------------------------
# From maps to pixels, points and boxes
# --------------------------------------------------------------------------------------------------------------------


def heat_map(map: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    r"""
    A map at the size of an image, to be laid over it.

    Args:
        map (`torch.Tensor` of shape `(grid_height, grid_width)`):
            A map of [`Grounding`].
        size (`tuple[int, int]`):
            Height and width of the image in pixels.

    Returns:
        `torch.FloatTensor` of shape `size`: resampled (bicubic), from 0 where it is lowest to 1 where it is highest.
        A map that is the same everywhere becomes 0.

    Example:

    ```python
    >>> heat_map(torch.eye(4), (64, 96)).shape
    torch.Size([64, 96])
    ```
    """
    heat = _resample(map, size)
    lowest, highest = heat.min(), heat.max()
    if highest - lowest <= _ROUNDING * highest.abs():
        return torch.zeros_like(heat)
    return (heat - lowest) / (highest - lowest)


def best_point(map: torch.Tensor, image_size: tuple[int, int]) -> tuple[float, float]:
    r"""
    Where a map is highest: the model's answer in the pointing game, which is won inside of the box.

    Args:
        map (`torch.Tensor` of shape `(grid_height, grid_width)`):
            A map of [`Grounding`].
        image_size (`tuple[int, int]`):
            Height and width of the image in pixels.

    Returns:
        `tuple[float, float]`: x and y of the middle of a pixel, in pixels from the upper left corner. Of several that
        are equally high, the first in the order of reading.

    Example:

    ```python
    >>> best_point(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), (2, 2))
    (1.5, 1.5)
    ```
    """
    x, y = _peaks(_resample(map, image_size))[0].tolist()
    return x, y


def score_boxes(map: torch.Tensor, boxes: Any, image_size: tuple[int, int]) -> torch.Tensor:
    r"""
    How well each box holds what a map shows, by ALBEF's formula: the sum of the map inside of the box, at the size of
    the image, over the square root of the box's area. The sum alone would choose the largest box, the mean the
    smallest.

    Args:
        map (`torch.Tensor` of shape `(grid_height, grid_width)`):
            A map of [`Grounding`].
        boxes (`torch.Tensor` or nested `list` of shape `(num_boxes, 4)`):
            Left, upper, right and lower edge of each box in pixels. Of a box that reaches beyond the image, the part
            inside is summed, but the whole area counts.
        image_size (`tuple[int, int]`):
            Height and width of the image in pixels.

    Returns:
        `torch.FloatTensor` of shape `(num_boxes,)`

    Raises:
        `ValueError`: if a box has another form, or its right or lower edge is not beyond its left or upper one.

    Example:

    ```python
    >>> score_boxes(torch.ones(2, 2), [[0, 0, 4, 4], [0, 0, 2, 8]], (8, 8)).tolist()
    [4.0, 4.0]
    ```
    """
    boxes = _check_boxes(boxes, "`boxes`")
    pixels = _resample(map, image_size)
    # Cut to whole pixels, like ALBEF's. Below 0 an index would count from the other end.
    edges = boxes.to(torch.int64).clamp(min=0).tolist()
    sums = [pixels[upper:lower, left:right].sum() for left, upper, right, lower in edges]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return torch.stack(sums) / areas.to(pixels.device, pixels.dtype).sqrt() if sums else pixels.new_zeros(0)


def _resample(map: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if map.ndim != 2:
        raise ValueError(f"`map` must have the shape (grid_height, grid_width), got {tuple(map.shape)}.")
    height, width = size
    return nn.functional.interpolate(map.float()[None, None], size=(height, width), mode="bicubic")[0, 0]


def _peaks(pixels: torch.Tensor) -> torch.Tensor:
    """x and y of the middle of each pixel where the map is highest."""
    highest = pixels.max()
    return (pixels >= highest - _ROUNDING * highest.abs()).nonzero().flip(1) + 0.5


def _check_boxes(boxes: Any, name: str) -> torch.Tensor:
    try:
        found = torch.as_tensor(boxes, dtype=torch.float64).cpu() if len(boxes) else torch.zeros(0, 4)
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(0)
    if found.ndim != 2 or found.shape[1] != 4:
        raise ValueError(f"{name} must be a list of boxes [left, upper, right, lower], got {boxes!r}.")
    bad = ~((found[:, 2:] > found[:, :2]) & found.isfinite().all(dim=1, keepdim=True)).all(dim=1)
    if bad.any():
        raise ValueError(
            f"{name} must be [left, upper, right, lower] in pixels, the right edge beyond the left one and the lower "
            f"beyond the upper one, got {found[bad][0].tolist()}. Boxes of left, upper, width and height have to be "
            "converted."
        )
    return found


# --------------------------------------------------------------------------------------------------------------------
# Data sets
# --------------------------------------------------------------------------------------------------------------------


class _Example(NamedTuple):
    image: Any
    phrase: str
    boxes: torch.Tensor
    candidates: torch.Tensor | None


def evaluate_grounding(
    model: nn.Module,
    dataset: Iterable[Mapping[str, Any]],
    processor: Callable[..., Any],
    *,
    layer: int | None = None,
    batch_size: int = 16,
    image_column: str = "image",
    caption_column: str = "caption",
    boxes_column: str = "boxes",
    candidates_column: str | None = None,
    show_progress: bool = True,
) -> dict[str, float]:
    r"""
    How often a model finds what a phrase speaks of, by the map of the whole phrase.

    - `pointing_accuracy`: percent of the phrases for which the map is highest inside of a box (the pointing game).
    - `box_accuracy`: where candidates are given, percent of the phrases whose best candidate by [`score_boxes`]
      overlaps a box by at least half (intersection over union). That is the protocol of RefCOCO+ with detected boxes
      (Yu et al., "MAttNet", CVPR 2018, [arXiv 1801.08186](https://huggingface.co/papers/1801.08186)) in which ALBEF
      reports weakly supervised grounding. A phrase without candidates is not found.

    Ties never flatter: where several points or candidates are the best, as all are in a map of zeros, every one of
    them must be right.

    Args:
        model ([`SaclForPreTraining`] or another with a matching head):
            The model.
        dataset (`Iterable[Mapping[str, Any]]`):
            A [`~datasets.Dataset`] or anything that yields rows: one for each phrase.
        processor ([`SaclProcessor`]):
            Its processor. It may resize images but not crop them, or boxes and maps would not meet.
        layer (`int`, *optional*):
            The layer of the fusion encoder, counted from 1. By default the one in the middle.
        batch_size (`int`, *optional*, defaults to 16):
            Phrases per pass. It must be 1 where the processor gives images of different sizes.
        image_column (`str`, *optional*, defaults to `"image"`):
            Name of the image column.
        caption_column (`str`, *optional*, defaults to `"caption"`):
            Name of the column with the phrase, one string.
        boxes_column (`str`, *optional*, defaults to `"boxes"`):
            Name of the column with the boxes of what the phrase speaks of, any of which is right: left, upper, right
            and lower edge in pixels of the image.
        candidates_column (`str`, *optional*):
            Name of the column with the boxes to choose from. By default `"candidates"` if there is one.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        `dict[str, float]`: `pointing_accuracy` and, with candidates, `box_accuracy`, in percent.

    Raises:
        `TypeError`: if the model has no fusion encoder or no matching head.
        `ValueError`: if the data set is empty, a column is missing or holds something else than described, or the
            processor crops.

    Example:

    ```python
    >>> dataset = [{"image": image, "caption": "the red bus", "boxes": [[8, 40, 200, 120]]}]
    >>> evaluate_grounding(model, dataset, processor)
    {'pointing_accuracy': 100.0}
    >>> chance_grounding_metrics(dataset)
    {'pointing_accuracy': 23.4375}
    ```
    """
    layer, _ = _resolve_layer(model, layer)
    if operator.index(batch_size) < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if getattr(getattr(processor, "image_processor", processor), "do_center_crop", False):
        raise ValueError(
            "The processor crops images, so that boxes and maps would not meet: set "
            "`processor.image_processor.do_center_crop = False` and a `size` of height and width."
        )
    columns = image_column, caption_column, boxes_column, candidates_column
    examples = _read(progress(dataset, "Grounding phrases", show_progress), *columns)
    pointed: list[bool] = []
    chosen: list[bool] = []
    for batch in batched(examples, batch_size):
        groundings = _ground(model, processor, [row.image for row in batch], [row.phrase for row in batch], layer)
        for row, grounding in zip(batch, groundings, strict=True):
            size = row.image.height, row.image.width
            map = grounding.text_map.cpu()
            pointed.append(bool(_inside(_peaks(_resample(map, size)), row.boxes).all()))
            if row.candidates is not None:
                scores = score_boxes(map, row.candidates, size)
                best = row.candidates[scores == scores.max()] if len(scores) else row.candidates
                chosen.append(bool(len(best)) and bool(_overlaps(best, row.boxes).all()))
    return _percentages(pointed, chosen)


def chance_grounding_metrics(
    dataset: Iterable[Mapping[str, Any]],
    *,
    image_column: str = "image",
    boxes_column: str = "boxes",
    candidates_column: str | None = None,
) -> dict[str, float]:
    r"""
    What [`evaluate_grounding`] would give on average for a point and a candidate that are drawn at random: the share
    of the image that lies in a box, and the share of the candidates that are right.

    Args:
        dataset (`Iterable[Mapping[str, Any]]`):
            The rows.
        image_column (`str`, *optional*, defaults to `"image"`):
            Name of the image column.
        boxes_column (`str`, *optional*, defaults to `"boxes"`):
            Name of the column with the boxes.
        candidates_column (`str`, *optional*):
            Name of the column with the boxes to choose from. By default `"candidates"` if there is one.

    Returns:
        `dict[str, float]`: `pointing_accuracy` and, with candidates, `box_accuracy`, in percent.

    Raises:
        `ValueError`: if the data set is empty, or a column is missing or holds something else than described.
    """
    pointed: list[float] = []
    chosen: list[float] = []
    for row in _read(dataset, image_column, None, boxes_column, candidates_column):
        points = _peaks(torch.zeros(row.image.height, row.image.width))
        pointed.append(_inside(points, row.boxes).double().mean().item())
        if row.candidates is not None:
            right = _overlaps(row.candidates, row.boxes).double()
            chosen.append(right.mean().item() if len(right) else 0.0)
    return _percentages(pointed, chosen)


def _read(
    dataset: Iterable[Mapping[str, Any]],
    image_column: str,
    caption_column: str | None,
    boxes_column: str,
    candidates_column: str | None,
) -> Iterator[_Example]:
    number = -1
    for number, row in enumerate(dataset):
        if number == 0:
            if candidates_column is None and "candidates" in row:
                candidates_column = "candidates"
            for argument, column in (
                ("image_column", image_column),
                ("caption_column", caption_column),
                ("boxes_column", boxes_column),
                ("candidates_column", candidates_column),
            ):
                if column is not None and column not in row:
                    raise ValueError(f"The data set has no column {column!r}, only {sorted(row)}: set `{argument}`.")
        phrase = "" if caption_column is None else row[caption_column]
        if not isinstance(phrase, str):
            raise ValueError(f"The phrase of row {number} must be a string, got {phrase!r}: one row for each phrase.")
        boxes = _check_boxes(row[boxes_column], f"The {boxes_column} of row {number}")
        if not len(boxes):
            raise ValueError(f"Row {number} has no box: leave out phrases of what is not in the image.")
        candidates = None
        if candidates_column is not None:
            candidates = _check_boxes(row[candidates_column], f"The {candidates_column} of row {number}")
        yield _Example(_rgb_image(row[image_column], number, image_column), phrase, boxes, candidates)
    if number < 0:
        raise ValueError("The data set has no rows: nothing can be looked for.")


def _inside(points: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """For each point, whether it lies in any of the boxes."""
    upper_left, lower_right = boxes[:, None, :2], boxes[:, None, 2:]
    return ((points >= upper_left) & (points <= lower_right)).all(dim=2).any(dim=0)


def _overlaps(candidates: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """For each candidate, whether it is one of the boxes, as far as boxes are ever the same."""
    return (box_iou(candidates.double(), boxes.double()) >= MIN_OVERLAP).any(dim=1)


def _percentages(pointed: list, chosen: list) -> dict[str, float]:
    metrics = {"pointing_accuracy": 100.0 * sum(pointed) / len(pointed)}
    return {**metrics, "box_accuracy": 100.0 * sum(chosen) / len(chosen)} if chosen else metrics
