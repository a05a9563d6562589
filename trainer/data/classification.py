# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""From rows with a label to a batch: one image and a text, or two images and a statement about them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from .collator import ImageTextCollator, check_columns
from .usable import UnusablePair


NO_TEXT = "no text"

# A class; a number to predict; or for each class whether it holds.
Label: TypeAlias = int | float | list[float]


@dataclass
class ImageTextClassificationCollator(ImageTextCollator):
    """
    Turns rows of an image, a text and a label into a batch for [`SaclForImageTextClassification`] and the stock
    [`Trainer`] (with `remove_unused_columns=False`).

    A row has `image` (a picture, or undecoded as [`undecoded`] leaves it), `text` or `sentence`, and `label`: a number
    of a class or, with `label2id`, its name; a float for regression; a list of numbers, one for each class, where
    several can hold at once. The batch has

    - `pixel_values`: float32, `[batch, channels, height, width]`;
    - `input_ids` and, if the tokenizer names it among its `model_input_names`, `attention_mask`: int64,
      `[batch, length]`;
    - `labels`: int64, `[batch]`, for classes; float32, `[batch]` for regression and `[batch, classes]` for several.

    A row whose image cannot be read or whose text is blank is left out, counted in `skipped`, and logged the first
    time each reason occurs. A label that cannot be meant raises.

    Args:
        processor ([`~transformers.ProcessorMixin`]):
            Anything with a `tokenizer` and an `image_processor`: `SaclProcessor`, `CLIPProcessor`, ...
        image_transform (callable, *optional*):
            Augmentation, see [`PairCollator`]; `for_training` sets it.
        label2id (`dict[str, int]`, *optional*):
            The classes, as in `model.config.label2id`. With it, labels can be names, and those that are out of range
            raise; with a single class, integers are numbers to predict.
        with_labels (`bool`, *optional*, defaults to `True`):
            Whether rows have a `label`; `False` for those that are to be predicted.
        max_length (`int`, *optional*):
            Longest text in tokens; longer ones are cut. If unset, what the processor declares or the tokenizer says.
        pad_to_multiple_of (`int`, *optional*):
            Pads the texts to a multiple of this length.

    Raises:
        ValueError: At construction, if an argument is out of its range or the processor lacks what is needed; when
            called, if a row lacks a column, a label is none of the above, or no row is usable.

    Example:

    ```python
    >>> from trainer.data import ImageTextClassificationCollator

    >>> collator = ImageTextClassificationCollator(processor, label2id=model.config.label2id)
    >>> batch = collator([{"image": image, "text": "two dogs run", "label": "entailment"}])
    >>> train_collator = collator.for_training()  # with augmentation
    ```
    """

    label2id: Mapping[str, int] | None = None
    with_labels: bool = True

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Args:
            rows (sequence of mappings):
                Rows of a data set.

        Returns:
            `dict[str, torch.Tensor]`: The batch described above, of at most `len(rows)` rows.
        """
        images, texts, labels = self._read_usable(rows)
        batch = {**self._image_inputs(images), **self._text_inputs(self._tokens(texts))}
        return {**batch, "labels": _as_tensor(labels)} if self.with_labels else batch

    def _read(self, row: Mapping[str, Any]) -> tuple[Any, str, Label | None]:
        needed = [(self._image_column,), ("text", "sentence"), *[("label",)] * self.with_labels]
        check_columns(row, *needed, hint="Rename those that mean the same")
        label = self._read_label(row["label"]) if self.with_labels else None
        text = row["text"] if "text" in row else row["sentence"]
        if text is not None and not isinstance(text, str):
            raise ValueError(f"A text has to be a string, got {type(text).__name__}.")
        if text is None or not text.strip():
            raise UnusablePair(NO_TEXT)
        return self._read_images(row[self._image_column]), text, label

    def _read_label(self, label: Any) -> Label:
        num_labels = None if self.label2id is None else len(self.label2id)
        if isinstance(label, str):
            if self.label2id is None or label not in self.label2id:
                known = "none are known" if self.label2id is None else f"known are {', '.join(self.label2id)}"
                raise ValueError(f"The label {label!r} is no class: {known}. Pass `label2id=model.config.label2id`.")
            return self.label2id[label]
        value = label.tolist() if hasattr(label, "tolist") else label  # of numpy and torch
        if isinstance(value, list | tuple) and all(_is_number(part) for part in value):
            if num_labels not in (None, len(value)):
                raise ValueError(f"A row has {len(value)} labels, {value}, for {num_labels} classes.")
            return [float(part) for part in value]
        if not _is_number(value):
            raise ValueError(
                f"A label has to be an integer, the name of a class, a finite float or a list of them, got {label!r}. "
                "Leave out rows without a label."
            )
        if num_labels == 1 or (num_labels is None and isinstance(value, float)):
            return float(value)
        if isinstance(value, float) or value < 0 or (num_labels is not None and value >= num_labels):
            allowed = "0 or more" if num_labels is None else f"an integer from 0 to {num_labels - 1}"
            raise ValueError(f"The label {value} is out of range: a class is {allowed}.")
        return int(value)

    # What is different with two images.

    _image_column = "image"

    def _read_images(self, image: Any) -> Any:
        return self._read_image(image)

    def _image_inputs(self, images: list[Any]) -> dict[str, torch.Tensor]:
        return self._pixels(images)


@dataclass
class ImagesAndTextClassificationCollator(ImageTextClassificationCollator):
    """
    Turns rows of two images, a text and a label into a batch for [`SaclForImagesAndTextClassification`]: as
    [`ImageTextClassificationCollator`], but a row has `images`, a list of two, and `pixel_values` are float32 of shape
    `[batch, 2, channels, height, width]`. In training each image is augmented by itself.

    Args:
        processor ([`~transformers.ProcessorMixin`]):
            Anything with a `tokenizer` and an `image_processor`: `SaclProcessor`, `CLIPProcessor`, ...
        image_transform (callable, *optional*):
            Augmentation, see [`PairCollator`]; `for_training` sets it.
        label2id (`dict[str, int]`, *optional*):
            The classes, as in `model.config.label2id`.
        with_labels (`bool`, *optional*, defaults to `True`):
            Whether rows have a `label`; `False` for those that are to be predicted.
        max_length (`int`, *optional*):
            Longest text in tokens; longer ones are cut. If unset, what the processor declares or the tokenizer says.
        pad_to_multiple_of (`int`, *optional*):
            Pads the texts to a multiple of this length.

    Raises:
        ValueError: As [`ImageTextClassificationCollator`], and if a row has not two images.

    Example:

    ```python
    >>> from trainer.data import ImagesAndTextClassificationCollator

    >>> collator = ImagesAndTextClassificationCollator(processor)
    >>> batch = collator([{"images": [left, right], "sentence": "both show a dog", "label": 1}])
    >>> batch["pixel_values"].shape
    torch.Size([1, 2, 3, 256, 256])
    ```
    """

    _image_column = "images"

    def _read_images(self, images: Any) -> Any:
        if not isinstance(images, list | tuple) or len(images) != 2:
            found = len(images) if isinstance(images, list | tuple) else type(images).__name__
            raise ValueError(f"A row needs two `images` in a list, got {found}.")
        return [self._read_image(image) for image in images]

    def _image_inputs(self, images: list[Any]) -> dict[str, torch.Tensor]:
        inputs = self._pixels([image for pair in images for image in pair])
        return {name: value.unflatten(0, (-1, 2)) for name, value in inputs.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _as_tensor(labels: list[Label]) -> torch.Tensor:
    if len({(type(label), len(label) if isinstance(label, list) else 0) for label in labels}) > 1:
        raise ValueError(f"The labels of a batch have to be of one kind and length, got {labels}.")
    return torch.tensor(labels, dtype=torch.int64 if isinstance(labels[0], int) else torch.float32)
