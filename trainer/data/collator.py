# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""From rows to a batch: pixels, tokens, identities, and a masked copy of the text."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import cycle, islice
from typing import Any, Self

import PIL.Image
import torch
from torch.utils.data import default_collate
from torchvision.transforms.v2 import functional as F
from transformers.utils import logging

from ..embedding import text_options
from .pairs import NO_CAPTION, NO_IMAGE, clean_captions, content_pair_id, hash_63_bits, pair_ids_tensor
from .pixels import PixelSteps
from .remote import fetched
from .seeding import ROW_SEED, seeded
from .transforms import ImageDecodingError, decode_image, pair_augmentation, to_rgb
from .usable import SKIPPED_PAIRS, ReadRow, UnusablePair, skipped_in
from .views import second_text


logger = logging.get_logger(__name__)

NOT_UNICODE = "caption that is not Unicode"
NO_FEATURES = "no features"
NOT_FINITE = "features that are not finite"

# Words are shorter. Tokens beyond the longest text are thrown away, so that those of a whole book need not be made.
_CHARACTERS_PER_TOKEN = 100

# The columns of a guide's features, see [`add_guide_features`].
GUIDE_COLUMNS = ("guide_image_embeds", "guide_text_embeds")

# The columns of what locked towers say of a pair, see [`add_tower_features`].
TOWER_COLUMNS = {"vision": "vision_tower_features", "text": "text_tower_features"}

_FEATURE_COLUMNS = (*GUIDE_COLUMNS, *TOWER_COLUMNS.values())

# BERT (Devlin et al., 2019, section 3.1): of the tokens to predict, 80 % are replaced by the mask token, 10 % by a
# random token, and 10 % stay.
_MASK_SHARE, _RANDOM_SHARE = 0.8, 0.1


def _caption_id(caption: str) -> int:
    return hash_63_bits(" ".join(caption.casefold().split()).encode())


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} of shape {list(value.shape)}"
    return type(value).__name__


def _name_of(row: Mapping[str, Any]) -> str:
    return repr(row.get("pair_id", "(without id)"))


def _is_unicode(text: str) -> bool:
    """Whether the text can be encoded: JSON may hold halves of characters, at which tokenizers fail."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stacked(name: str, features: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
    shapes = {tuple(row[name].shape) if name in row else None for row in features}
    if len(shapes) > 1:
        raise ValueError(
            f"The column `{name}` needs features of one length in all rows, got the shapes "
            f"{sorted(map(str, shapes))} in one batch. Compute them anew for all rows, with one model."
        )
    return torch.stack([row[name] for row in features])


def _columns_of(row: Mapping[str, Any]) -> list[str]:
    return [name for name in row if name != ROW_SEED]


def check_columns(row: Mapping[str, Any], *alternatives: Sequence[str], hint: str) -> None:
    """Raises a ValueError unless the row has a column of each group of names."""
    for names in alternatives:
        if not any(name in row for name in names):
            raise ValueError(
                f"A row needs {' or '.join(map(repr, names))}; this one has {', '.join(map(repr, _columns_of(row)))}. "
                f"{hint}, and "
                "`Trainer` drops columns unless `remove_unused_columns=False`."
            )


@dataclass
class ImageTextCollator:
    """
    The part of a collator that reads images and texts; what becomes of them is up to the subclass, which adds
    `__call__`.

    A pair whose image cannot be read or whose text is blank is left out, counted in `skipped`, and logged the first
    time each reason occurs. (In a worker of a data loader the counts stay in the worker; the log line still appears.)
    In a data set of [`UsablePairs`] another takes its place.

    Args:
        processor ([`~transformers.ProcessorMixin`]):
            Anything with a `tokenizer` and an `image_processor`: `SaclProcessor`, `CLIPProcessor`, ...
        image_transform (callable, *optional*):
            Augmentation, for instance [`pair_augmentation`]: takes an RGB picture and returns a uint8 tensor of shape
            `[3, height, width]` in the size that the image processor produces. The image processor then only rescales
            and normalises. (One that gives each image a shape of its own, such as SigLIP 2's, does all that it does.)
        max_length (`int`, *optional*):
            Longest text in tokens; longer ones are cut. If unset, what the processor declares or the tokenizer says.
        pad_to_multiple_of (`int`, *optional*):
            Pads the texts to a multiple of this length. With the value of `max_length`, all batches have one shape,
            which compiled models like and models such as SigLIP were trained on (see `for_model`).
        max_pixels (`int`, *optional*):
            Largest image, as width times height; a pair with a larger one is left out. If unset,
            `PIL.Image.MAX_IMAGE_PIXELS`.

    Raises:
        ValueError: At construction, if an argument is out of its range or the processor lacks what is needed; when
            called, if `image_transform` returns the wrong thing, or no pair is usable.
    """

    processor: Any
    image_transform: Callable[[PIL.Image.Image], torch.Tensor] | None = None
    _: KW_ONLY
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    max_pixels: int | None = None
    skipped: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("tokenizer", "image_processor"):
            if getattr(self.processor, name, None) is None:
                raise ValueError(
                    f"`processor` needs a `tokenizer` and an `image_processor`; {type(self.processor).__name__} has "
                    f"no `{name}`."
                )
        tokenizer = self.processor.tokenizer
        for name in ("max_length", "pad_to_multiple_of", "max_pixels"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"`{name}` has to be a positive integer or `None`, got {value!r}.")
        if tokenizer.pad_token_id is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no padding token, so texts of different lengths fit into no batch. "
                "Set one first, for instance `tokenizer.pad_token = tokenizer.eos_token`."
            )
        if self.image_transform is not None and getattr(self.processor.image_processor, "do_resize", None) is None:
            raise ValueError(
                f"{type(self.processor.image_processor).__name__} has no `do_resize` to switch off, so it would crop "
                "and resize what `image_transform` has cropped and resized. Take an image processor that has one, "
                "such as `ViTImageProcessor(size=..., image_mean=..., image_std=...)`, or no transform."
            )
        self._image_size = None if self.image_transform is None else self.image_size()
        # What the processor declares for its image processor (SigLIP 2: the number of patches) only it can pass.
        declared = getattr(self.processor, "images_kwargs", None)
        is_standard = not declared and PixelSteps.are_those_of(self.processor.image_processor)
        self._steps = PixelSteps(self.processor.image_processor) if is_standard else None

    def for_training(self, **augmentation: Any) -> Self:
        """
        The same collator with [`pair_augmentation`] at the size that the image processor produces.

        Args:
            augmentation:
                Options of [`pair_augmentation`].

        Returns:
            A copy with counts of its own.

        Raises:
            ValueError: The image processor keeps the shape of each image, so that no one size can be given.
        """
        size = self.image_size()
        if size is None:
            raise ValueError(
                f"{type(self.processor.image_processor).__name__} gives images of different shapes; set it to one "
                "size, or pass an `image_transform` of your own."
            )
        return replace(self, image_transform=pair_augmentation(size, **augmentation))

    def for_evaluation(self) -> Self:
        """
        The same collator without chance: no augmentation.

        Returns:
            A copy with counts of its own.
        """
        return replace(self, image_transform=None)

    def for_model(self, model: torch.nn.Module) -> Self:
        """
        The same collator with texts as long as a model needs them: SigLIP, whose text embedding is read off the last
        position, was trained with all texts padded to one length.

        Args:
            model (`nn.Module`):
                The model in training.

        Returns:
            A copy with counts of its own; this very collator if its texts suit the model, or if it has a
            `pad_to_multiple_of` already.
        """
        needed = text_options(model, self.processor, self.max_length)
        if self.pad_to_multiple_of is not None or needed == text_options(None, self.processor, self.max_length):
            return self
        length = needed["max_length"]
        full_length = needed["padding"] == "max_length"
        return replace(self, max_length=length, pad_to_multiple_of=length if full_length else None)

    # Reading rows

    def read(self, row: Mapping[str, Any]) -> ReadRow:
        """
        Reads a row: everything of a batch that concerns this row alone.

        Args:
            row (mapping):
                A row of a data set.

        Returns:
            [`ReadRow`]: the row, which the collator will not read again.

        Raises:
            UnusablePair: the row has to be left out. It is counted in `skipped`.
            ValueError, TypeError: the row is not what was asked for. The message names it, and the column.
        """
        if isinstance(row, ReadRow) and row.is_current():
            return row
        try:
            with seeded(row.get(ROW_SEED)):
                return ReadRow(row, self._read(row))
        except UnusablePair as problem:
            if not self.skipped[problem.reason]:
                logger.warning(
                    f"Left out the pair {_name_of(row)}: {problem}. More pairs with this problem are left out "
                    f"silently; `{type(self).__name__}.skipped` counts them."
                )
            self.skipped[problem.reason] += 1
            raise
        except (ValueError, TypeError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"In the pair {_name_of(row)}: {error}") from error

    def _read(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """The parts of a row."""
        raise NotImplementedError

    def _read_usable(self, rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """What `_read` makes of the rows, a list for each part, without those that it finds unusable."""
        found: list[tuple[Any, ...]] = []
        reasons: Counter[str] = Counter()
        # What a locked tower has seen already is not fetched.
        for row in rows if rows and TOWER_COLUMNS["vision"] in rows[0] else fetched(rows):
            try:
                found.append(self.read(row).parts)
            except UnusablePair as problem:
                reasons[problem.reason] += 1
        if not found:
            why = ", ".join(f"{count} with {reason}" for reason, count in reasons.items()) or "the batch is empty"
            raise ValueError(f"Of {len(rows)} pairs none is usable: {why}. Are the paths and the column names right?")
        return [list(part) for part in zip(*found, strict=True)]

    def _read_image(self, image: Any) -> PIL.Image.Image | torch.Tensor:
        """The picture, transformed if there is a transform."""
        if image is None or (isinstance(image, Mapping) and image.get("bytes") is None and image.get("path") is None):
            raise UnusablePair(NO_IMAGE)
        try:
            decoded = decode_image(
                image, max_pixels=self.max_pixels, enough=getattr(self.image_transform, "enough", None)
            )
        except ImageDecodingError as error:
            raise UnusablePair(error.reason, str(error)) from error
        if self.image_transform is not None:
            return self._transformed(decoded)
        return decoded if self._steps is None else self._steps.resize(decoded)

    # Images

    def image_size(self) -> tuple[int, int] | None:
        """Height and width that the image processor gives every image, or `None` if they depend on the image."""
        sides = ((96, 64), (64, 96))
        wide, tall = (self._process([PIL.Image.new("RGB", size)])["pixel_values"] for size in sides)
        # Patches in a row, three dimensions with the batch, are of an image of any shape.
        return (wide.shape[-2], wide.shape[-1]) if wide.shape == tall.shape and wide.ndim == 4 else None

    def _transformed(self, image: PIL.Image.Image) -> torch.Tensor:
        assert self.image_transform is not None
        result = self.image_transform(image)
        if isinstance(result, PIL.Image.Image):
            result = F.pil_to_tensor(to_rgb(result))
        if not isinstance(result, torch.Tensor) or result.dtype != torch.uint8 or result.ndim != 3 or len(result) != 3:
            raise ValueError(
                f"`image_transform` has to return a uint8 tensor of shape [3, height, width], got "
                f"{_describe(result)}. Leave rescaling and normalising to the image processor."
            )
        if self._image_size is not None and tuple(result.shape[-2:]) != self._image_size:
            raise ValueError(
                f"`image_transform` returned an image of {result.shape[-2]} x {result.shape[-1]}, but the image "
                f"processor makes {self._image_size[0]} x {self._image_size[1]}; give the transform that size, for "
                f"instance `pair_augmentation({self._image_size})`, or set the size of the image processor."
            )
        return result

    def _pixels(self, images: list[Any]) -> dict[str, torch.Tensor]:
        is_resized = self.image_transform is None or self._image_size is not None
        if self._steps is not None and is_resized and len({image.shape for image in images}) == 1:
            return {"pixel_values": self._stacked(images)}
        if self.image_transform is None or self._image_size is None:
            return self._process(images)
        # The transform has cropped and resized; the image processor only rescales and normalises, a batch at a time.
        names = ("do_resize", "do_center_crop", "do_convert_rgb", "do_pad")
        off = {name: False for name in names if getattr(self.processor.image_processor, name, None)}
        return self._process(torch.stack(images), **off)

    def _stacked(self, images: list[torch.Tensor]) -> torch.Tensor:
        assert self._steps is not None
        return self._steps.normalize(images)

    def _process(self, images: Any, **arguments: Any) -> dict[str, torch.Tensor]:
        # What the processor declares for its image processor (SigLIP 2: the number of patches) it would pass itself.
        arguments = {**(getattr(self.processor, "images_kwargs", None) or {}), **arguments}
        processed = self.processor.image_processor(images, return_tensors="pt", **arguments)
        pixels = processed["pixel_values"]
        if not isinstance(pixels, torch.Tensor) or pixels.ndim not in (3, 4):
            raise ValueError(
                f"{type(self.processor.image_processor).__name__} has to return `pixel_values` of shape [batch, "
                f"channels, height, width] or [batch, patches, values], got {_describe(pixels)}."
            )
        batch = {name: value for name, value in processed.items() if isinstance(value, torch.Tensor)}
        return {**batch, "pixel_values": pixels.to(torch.float32)}

    # Text

    def _tokens(self, texts: list[str]) -> dict[str, torch.Tensor]:
        options = text_options(None, self.processor, self.max_length)
        if "max_length" in options:
            texts = [text[: _CHARACTERS_PER_TOKEN * options["max_length"]] for text in texts]
        tokens = self.processor.tokenizer(
            texts,
            **options,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_token_type_ids=False,
            return_attention_mask=True,
            return_special_tokens_mask=True,
        )
        # Which the tokenizer would do, too, after it has looked at every number by itself.
        return {
            name: torch.tensor(tokens[name], dtype=torch.int64)
            for name in ("input_ids", "attention_mask", "special_tokens_mask")
        }

    def _text_inputs(self, tokens: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What of the tokens goes into the model: a mask only if the tokenizer names it."""
        masked = "attention_mask" in self.processor.tokenizer.model_input_names
        return {name: tokens[name] for name in ("input_ids", *["attention_mask"] * masked)}


@dataclass
class PairCollator(ImageTextCollator):
    """
    Turns rows of image-text pairs into a batch for contrastive pre-training with masked language modelling.

    A row has `image` (a picture, or undecoded as [`undecoded`] leaves it), `caption` (a string) or `captions` (a list,
    of which one is used), and `pair_id` (an integer or a string; if it is missing, a hash of the pair stands in). The
    batch has

    - `pixel_values`: float32 (uint8 with `normalize=False`), `[batch, channels, height, width]`, and whatever else the
      image processor returns with them (SigLIP 2: patches, `pixel_attention_mask` and `spatial_shapes`);
    - `input_ids` and, if the tokenizer names it among its `model_input_names`, `attention_mask`: int64,
      `[batch, length]`;
    - `pair_ids`: int64, `[batch]`, see [`pair_ids_tensor`];
    - with `captions_per_image` K above 1, `further_input_ids` and `further_attention_mask`: `[batch, K - 1, length]`;
    - with `negative_caption`, `negative_input_ids` and `negative_attention_mask` of the captions that it makes:
      `[batch, length]`; and `caption_ids` and `negative_caption_ids`: int64, `[batch]`, which are equal where the
      texts are, up to case and spaces. A caption that nothing can be made of is its own negative, and so one that the
      row has as another of its captions; [`SaclTrainer`] leaves them out.

    and with `mlm_probability` above 0

    - `mlm_input_ids`: int64, `[batch, length]`: a copy of `input_ids` with some tokens replaced;
    - `mlm_positions`: int64, `[batch, masked]`: the positions to predict, in order, padded with 0;
    - `mlm_labels`: int64, `[batch, masked]`: the original tokens there, -100 at the padding.

    and with `second_views`

    - `view_pixel_values` (and what the image processor returns with them), `view_input_ids` and `view_attention_mask`:
      a second view of each image, which is the augmentation drawn again, and of each text, which is another caption of
      the pair, or the same with words left out or swapped; of the shapes of the first.

    Giving positions rather than labels of full length lets the language-modelling head run on these positions alone,
    without a device synchronisation. Special tokens, unknown ones among them, and padding are never predicted; if a
    row has any other token, at least one is.

    Features that rows carry become float32 of shape `[batch, dim]`: a guide's (`guide_image_embeds`,
    `guide_text_embeds`) and a locked tower's (`vision_tower_features`, `text_tower_features`). Where there are
    `vision_tower_features`, no image is decoded, transformed or even needed, and there are no `pixel_values`.

    A pair whose image cannot be read or whose captions are blank is left out, counted in `skipped`, and logged the
    first time each reason occurs. The batch gets smaller, unless the rows come from [`UsablePairs`] or
    [`UsableStream`], which [`SaclTrainer`] puts around its data: then another pair takes its place, and if any was
    left out, the batch has a list of them, `skipped_pairs`, which a model must not be given. (In a worker of a data
    loader the counts stay in the worker; the log line still appears.)

    Randomness comes from the seed that a row carries ([`SeededPairs`] or [`SeededStream`], which [`SaclTrainer`] puts
    around its data), so that a resumed run repeats it; without one, from torch's global generator, which torch seeds
    in every worker of a data loader.

    Args:
        processor ([`~transformers.ProcessorMixin`]):
            Anything with a `tokenizer` and an `image_processor`: `SaclProcessor`, `CLIPProcessor`, ...
        image_transform (callable, *optional*):
            Augmentation, for instance [`pair_augmentation`]: takes an RGB picture and returns a uint8 tensor of shape
            `[3, height, width]` in the size that the image processor produces. The image processor then only rescales
            and normalises. (One that gives each image a shape of its own, such as SigLIP 2's, does all that it does.)
        mlm_probability (`float`, *optional*, defaults to 0.15):
            Share of the tokens that is predicted; 0 for no masked language modelling.
        max_length (`int`, *optional*):
            Longest text in tokens; longer ones are cut. If unset, what the processor declares or the tokenizer says.
        pad_to_multiple_of (`int`, *optional*):
            Pads the texts to a multiple of this length. With the value of `max_length`, all batches have one shape,
            which compiled models like and models such as SigLIP were trained on (see `for_model`).
        max_pixels (`int`, *optional*):
            Largest image, as width times height; a pair with a larger one is left out before the image is decoded. If
            unset, `PIL.Image.MAX_IMAGE_PIXELS` (89,478,485 unless changed), which holds in any case.
        caption_sampling (`str`, *optional*, defaults to `"random"`):
            Which of several captions is used: `"random"` or `"first"`.
        deterministic_masking (`bool`, *optional*, defaults to `False`):
            Whether the mask of a text, and a negative made of it, depend on the text alone, so that evaluations are
            comparable.
        captions_per_image (`int`, *optional*, defaults to 1):
            How many captions of a row are in a batch, for `objective="one_to_k"`; a row with fewer repeats them.
        negative_caption (callable, *optional*):
            Makes of a caption one that does not fit to its image, or `None`: [`swap_words`], for
            `objective="negclip"`. It draws from torch's global generator.
        second_views (`bool`, *optional*, defaults to `False`):
            Whether to make second views, which `unimodal_self_supervision_weight` of [`SaclTrainingArguments`] needs.
            The first ones stay as they are. Images are read twice.
        view_transform (callable, *optional*):
            Augmentation of the second views, like `image_transform`, which is the default. With one of their own the
            first views may be without.
        normalize (`bool`, *optional*, defaults to `True`):
            Whether `pixel_values` are rescaled and normalised here. If not, they are uint8: a quarter of the bytes to
            carry from a worker of a data loader to the device, where [`SaclTrainer`] normalises them, to the same
            bits; whoever else reads such batches calls `normalized`.

    Raises:
        ValueError: At construction, if an argument is out of its range or the processor lacks what is needed; when
            called, if a row lacks a column, `image_transform` returns the wrong thing, or no pair is usable.

    Example:

    ```python
    >>> from transformers import AutoProcessor
    >>> from trainer.data import PairCollator, load_pairs, pair_augmentation

    >>> processor = AutoProcessor.from_pretrained("path/to/checkpoint")
    >>> dataset = load_pairs("path/to/image_folder", split="train")
    >>> collator = PairCollator(processor, image_transform=pair_augmentation(256), max_length=30)
    >>> batch = collator([dataset[0], dataset[1]])
    >>> batch["pixel_values"].shape
    torch.Size([2, 3, 256, 256])
    >>> eval_collator = collator.for_evaluation()
    ```
    """

    mlm_probability: float = 0.15
    caption_sampling: str = "random"
    deterministic_masking: bool = False
    captions_per_image: int = 1
    negative_caption: Callable[[str], str | None] | None = None
    second_views: bool = False
    view_transform: Callable[[PIL.Image.Image], torch.Tensor] | None = None
    normalize: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.normalize and not self.can_leave_normalizing:
            raise ValueError(
                f"{type(self.processor.image_processor).__name__} does more, or otherwise, than to resize, crop, "
                "rescale and normalise to one size, so the last step cannot be left to the device. Leave `normalize` "
                "at its default."
            )
        if not isinstance(self.captions_per_image, int) or self.captions_per_image < 1:
            raise ValueError(f"`captions_per_image` has to be a positive integer, got {self.captions_per_image!r}.")
        tokenizer = self.processor.tokenizer
        if self.second_views and self.image_transform is None and self.view_transform is None:
            raise ValueError(
                "`second_views` of images are made by an `image_transform` that draws anew each time: pass "
                "`image_transform=pair_augmentation(...)` or a `view_transform`, or take "
                "`replace(collator.for_training(), second_views=True)`."
            )
        self._viewer = self
        if self.second_views and self.view_transform is not None:
            self._viewer = replace(self, image_transform=self.view_transform, second_views=False)
        if not 0 <= self.mlm_probability <= 1:
            raise ValueError(f"`mlm_probability` is a share, from 0 to 1, got {self.mlm_probability!r}.")
        if self.caption_sampling not in ("random", "first"):
            raise ValueError(f"`caption_sampling` has to be 'random' or 'first', got {self.caption_sampling!r}.")
        special = {token for token in tokenizer.all_special_ids if token is not None}
        self._special_ids = torch.tensor(sorted(special), dtype=torch.int64)
        if self.mlm_probability:
            if tokenizer.mask_token_id is None:
                raise ValueError(
                    f"{type(tokenizer).__name__} has no mask token, which masked language modelling needs. Set "
                    "`mlm_probability=0` (and the weight of that loss to 0), or take a tokenizer that has one, such "
                    "as BERT's."
                )
            ordinary = set(tokenizer.get_vocab().values()) - special
            self._ordinary_ids = torch.tensor(sorted(ordinary), dtype=torch.int64)

    @property
    def can_leave_normalizing(self) -> bool:
        """Whether the image processor does nothing after resizing that could not be done on the device."""
        return self._steps is not None and (self.image_transform is None or self._image_size is not None)

    def for_evaluation(self) -> Self:
        """
        The same collator without chance: no augmentation, the first caption, masks that depend on the text alone.

        Returns:
            [`PairCollator`]: A copy with counts of its own.
        """
        return replace(
            self, image_transform=None, second_views=False, caption_sampling="first", deterministic_masking=True
        )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Args:
            rows (sequence of mappings):
                Rows of a data set of pairs.

        Returns:
            `dict[str, torch.Tensor]`: The batch described above, of at most `len(rows)` pairs.
        """
        images, texts, pair_ids, features, seeds, views = self._read_usable(rows)
        tokens, extra_texts = self._tokens_of_pairs(texts)
        batch: dict[str, Any] = {} if TOWER_COLUMNS["vision"] in features[0] else self._pixels(images)
        batch.update(self._text_inputs(tokens), **extra_texts)
        if self.second_views and TOWER_COLUMNS["vision"] not in features[0]:
            batch.update({f"view_{name}": tensor for name, tensor in self._viewer._pixels(views).items()})
        batch["pair_ids"] = torch.cat(pair_ids)
        batch.update({name: _stacked(name, features) for name in features[0]})
        if self.mlm_probability:
            with seeded(None if None in seeds else hash_63_bits(repr(seeds).encode())):
                batch.update(self._mask(**tokens))
        if skipped := skipped_in(rows):
            batch[SKIPPED_PAIRS] = skipped
        return batch

    def normalized(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """
        Makes up, on whichever device the batch is, for what `normalize=False` left out.

        Args:
            batch (mapping):
                As this collator makes it, with whatever `normalize`.

        Returns:
            `dict[str, Any]`: The batch as with `normalize=True`.
        """
        if self._steps is None:
            return dict(batch)
        given = {name: batch[name] for name in ("pixel_values", "view_pixel_values") if name in batch}
        left = {name: pixels for name, pixels in given.items() if pixels.dtype == torch.uint8}
        return {**batch, **{name: self._steps.normalize(pixels) for name, pixels in left.items()}}

    def _stacked(self, images: list[torch.Tensor]) -> torch.Tensor:
        # torch's own writes to where the main process will read it, if this is a worker of a data loader.
        return super()._stacked(images) if self.normalize else default_collate(images)

    # Reading rows

    def _read(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """
        Image (`None` where a locked tower has read it already), texts, pair id, features, seed, and the second view of
        the image if there is one.
        """
        check_columns(
            row,
            ("image", TOWER_COLUMNS["vision"]),
            ("caption", "captions"),
            hint="`load_pairs` gives a data set its standard columns",
        )
        captions = self._read_captions(row)
        texts = self._draw_texts(captions)
        image = None if TOWER_COLUMNS["vision"] in row else self._read_image(row["image"])
        identifier = content_pair_id(row) if row.get("pair_id") is None else row["pair_id"]
        features = {name: self._read_features(row, name) for name in _FEATURE_COLUMNS if name in row}
        view = None
        if self.second_views:
            # Drawn last, so that the first views are what they are without.
            view = None if image is None else self._viewer._read_image(row["image"])
            texts = [*texts, second_text(captions, texts[0])]
        return image, texts, pair_ids_tensor([identifier]), features, row.get(ROW_SEED), view

    @staticmethod
    def _read_captions(row: Mapping[str, Any]) -> list[str]:
        """The usable captions, of which there is at least one."""
        captions = clean_captions(row.get("captions"), row.get("caption"))
        usable = [caption for caption in captions if _is_unicode(caption)]
        if not usable:
            raise UnusablePair(NOT_UNICODE if captions else NO_CAPTION)
        return usable

    def _draw_texts(self, captions: list[str]) -> list[str]:
        """As many captions as are wanted, and behind them the negative that was made of the first."""
        random = self.caption_sampling == "random" and len(captions) > 1
        if self.captions_per_image == 1:
            texts = [captions[int(torch.randint(len(captions), ())) if random else 0]]
        else:
            order = torch.randperm(len(captions)).tolist() if random else range(len(captions))
            texts = [captions[index] for index in islice(cycle(order), self.captions_per_image)]
        if self.negative_caption is None:
            return texts
        with seeded(_caption_id(texts[0]) if self.deterministic_masking else None):
            negative = self.negative_caption(texts[0])
        # A caption is no negative, whichever of them was drawn.
        if negative is None or _caption_id(negative) in map(_caption_id, captions):
            negative = texts[0]
        return [*texts, negative]

    def _tokens_of_pairs(self, texts: list[list[str]]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Tokens of each row's first text; and what the batch has of the others, padded to the same length."""
        tokens = self._tokens([text for row in texts for text in row])
        tokens = {name: tensor.unflatten(0, (len(texts), -1)) for name, tensor in tokens.items()}
        inputs, extra_texts = self._text_inputs(tokens), {}
        if self.captions_per_image > 1:
            extra_texts = {f"further_{name}": ids[:, 1 : self.captions_per_image] for name, ids in inputs.items()}
        if self.second_views:
            extra_texts |= {f"view_{name}": tensor[:, -1] for name, tensor in inputs.items()}
        if self.negative_caption is not None:
            last = -2 if self.second_views else -1
            extra_texts |= {f"negative_{name}": tensor[:, last] for name, tensor in inputs.items()}
            for name, index in (("caption_ids", 0), ("negative_caption_ids", last)):
                extra_texts[name] = torch.tensor([_caption_id(row[index]) for row in texts])
        return {name: tensor[:, 0] for name, tensor in tokens.items()}, extra_texts

    @staticmethod
    def _read_features(row: Mapping[str, Any], name: str) -> torch.Tensor:
        if row[name] is None:
            raise UnusablePair(NO_FEATURES, name)
        features = torch.as_tensor(row[name], dtype=torch.float32)
        if not features.isfinite().all():
            raise UnusablePair(NOT_FINITE, name)
        return features

    # Masking

    def _mask(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, special_tokens_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        special = torch.isin(input_ids, self._special_ids) | special_tokens_mask.bool()
        maskable = attention_mask.bool() & ~special
        choice, fate, substitute = self._uniform(input_ids, attention_mask)

        # Where chance picks no token of a row, the row's smallest draw is taken.
        choice = choice.masked_fill(~maskable, 2.0)
        masked = choice < self.mlm_probability
        empty = maskable.any(dim=1) & ~masked.any(dim=1)
        masked[empty, choice.argmin(dim=1)[empty]] = True

        random_ids = self._ordinary_ids[(substitute * len(self._ordinary_ids)).long() % len(self._ordinary_ids)]
        replaced = torch.where(fate < _MASK_SHARE, self.processor.tokenizer.mask_token_id, random_ids)
        changed = masked & (fate < _MASK_SHARE + _RANDOM_SHARE)

        width = max(int(masked.sum(dim=1).max()), 1)
        positions = (~masked).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        chosen = masked.gather(1, positions)
        positions = positions.masked_fill(~chosen, 0)
        return {
            "mlm_input_ids": torch.where(changed, replaced, input_ids),
            "mlm_positions": positions,
            "mlm_labels": input_ids.gather(1, positions).masked_fill(~chosen, -100),
        }

    def _uniform(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Three uniform draws per token: `[3, batch, length]`."""
        if not self.deterministic_masking:
            return torch.rand(3, *input_ids.shape)
        draws = torch.zeros(3, *input_ids.shape)
        for row, (ids, real) in enumerate(zip(input_ids, attention_mask.bool(), strict=True)):
            text = ids[real].numpy().astype("<i8").tobytes()  # without padding, which depends on the other rows
            seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
            draws[:, row, real] = torch.rand(3, int(real.sum()), generator=torch.Generator().manual_seed(seed))
        return draws
