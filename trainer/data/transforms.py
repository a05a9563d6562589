# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""From an image file to pixels: reading, conversion to RGB, and the augmentation used for training."""

import functools
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import fsspec
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .locating import is_web_address


# By which `fsspec` would open any file of this machine.
_LOCAL_PROTOCOLS = ("file:", "local:")


# What data sets of pictures come in. Pillow reads thirty more, some by other programs (EPS by Ghostscript), and a file
# says by its content, not by its name, which of them reads it.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "MPO", "PPM", "ICO", "DIB")


# From the size of a picture to one that will do, both as width and height.
Enough: TypeAlias = Callable[[int, int], tuple[int, int]]


class ImageDecodingError(ValueError):
    """An image that cannot be turned into pixels: missing, truncated, not an image, or too large."""

    # Under which a pair with such an image is counted.
    reason = "unreadable image"


class MissingImageError(ImageDecodingError):
    """There is no such file."""

    reason = "missing image file"


class ImageTooLargeError(ImageDecodingError):
    """An image of more pixels than allowed, refused before any of them is decoded."""

    reason = "too large image"


# Reading ---------------------------------------------------------------------------------------------------------


def _check_size(image: PIL.Image.Image, max_pixels: int | None) -> None:
    limits = {"max_pixels": max_pixels, "PIL.Image.MAX_IMAGE_PIXELS": PIL.Image.MAX_IMAGE_PIXELS}
    for name, limit in limits.items():
        if limit is not None and image.width * image.height > limit:
            raise ImageTooLargeError(
                f"the image has {image.width} x {image.height} pixels, more than `{name}` ({limit})"
            )


def _to_8_bit(image: PIL.Image.Image) -> PIL.Image.Image:
    """Grey levels of 16 and 32 bits (`I;16*`, `I`, `F`) as `L`; Pillow would clip them at 255 instead."""
    levels = np.nan_to_num(np.asarray(image).astype(np.float32))
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        low, high = float(levels.min()), float(levels.max())
        if low >= 0 and high <= 1 and image.mode == "F":
            low, high = 0.0, 1.0
        elif low >= 0 and high <= 255:
            low, high = 0.0, 255.0
    levels = (levels - low) * (255.0 / ((high - low) or 1.0))
    return PIL.Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """
    Brings an image of any mode into the one form that every later step expects: upright, 8 bits, RGB.

    The EXIF orientation is applied, transparent pixels are composed on white (a plain `convert("RGB")` shows whatever
    colour hides behind them, mostly black), and 16-bit grey levels are scaled instead of clipped.

    Args:
        image (`PIL.Image.Image`):
            An image of any mode; for an animation, the current frame. Returned as it is when nothing has to be done.

    Returns:
        `PIL.Image.Image`: The same picture in mode `"RGB"`.
    """
    if image.getexif().get(PIL.ExifTags.Base.Orientation, 1) != 1:
        image = PIL.ImageOps.exif_transpose(image)
    transparent = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    if image.mode == "RGB" and not transparent:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _to_8_bit(image).convert("RGB")
    if transparent:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        return PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _reduce(image: PIL.Image.Image, enough: Enough) -> None:
    """Has a JPEG file that is not decoded yet be decoded to fewer pixels; other formats cannot."""
    if image.format == "JPEG":
        turned = image.getexif().get(PIL.ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        size = enough(*image.size[::-1])[::-1] if turned else enough(*image.size)
        image.draft(None, size)


def _read(path: str | os.PathLike) -> bytes:
    path = os.fspath(path)
    if is_web_address(path):
        from .remote import fetch_image  # which knows the error that is raised here

        return fetch_image(path)
    if any(protocol in path.lower() for protocol in _LOCAL_PROTOCOLS):
        raise ImageDecodingError(f"{path!r:.200} is no path: data do not open files of this machine by URL")
    if "://" in path or "::" in path:
        with fsspec.open(path, "rb") as file:
            return file.read()
    with open(path, "rb") as file:
        return file.read()


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `IMAGE_FORMATS` that this Pillow was built with."""
    PIL.Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in PIL.Image.OPEN)


def open_image(content: bytes) -> PIL.Image.Image:
    """
    Opens an encoded image without decoding it yet. Only the formats of `IMAGE_FORMATS` are read, whatever else Pillow
    knows.

    Args:
        content (`bytes`):
            The file.

    Raises:
        ImageDecodingError: It is no image of these formats.
    """
    try:
        return PIL.Image.open(io.BytesIO(content), formats=_formats())
    except PIL.UnidentifiedImageError as error:
        raise ImageDecodingError(f"it is no image of a format that is read ({', '.join(_formats())})") from error


def decode_image(image: Any, *, max_pixels: int | None = None, enough: Enough | None = None) -> PIL.Image.Image:
    """
    Reads one image in any of the forms in which a row of a data set may hold it.

    Args:
        image (`PIL.Image.Image`, `dict`, `str` or `os.PathLike`):
            A picture; the undecoded form of the `datasets.Image` feature, `{"bytes": ..., "path": ...}`; or the path
            or URL of a file.
        max_pixels (`int`, *optional*):
            Largest width times height; a larger image is refused before it is decoded. `PIL.Image.MAX_IMAGE_PIXELS`
            (89,478,485 unless changed) holds in any case.
        enough (callable, *optional*):
            Takes width and height of the picture, returns a width and a height that will do for what comes next. A
            JPEG file of at least twice these sides is then decoded to a half, a quarter or an eighth of them, which
            takes less time. If unset, all pixels are decoded.

    Returns:
        `PIL.Image.Image`: The picture, upright and in mode `"RGB"` (see [`to_rgb`]).

    Raises:
        ImageDecodingError: The file is missing, is no image of `IMAGE_FORMATS`, ends too early, or has more pixels
            than `max_pixels` or `PIL.Image.MAX_IMAGE_PIXELS`, for which Pillow itself only warns. Its `reason` says
            which.
        TypeError: `image` is none of the forms above.

    Example:

    ```python
    >>> from trainer.data import decode_image

    >>> decode_image({"bytes": open("cat.png", "rb").read(), "path": None}).mode
    'RGB'
    ```
    """
    content: bytes | None = None
    path: str | os.PathLike | None = None
    if isinstance(image, ImageDecodingError):  # From where the file should have come.
        raise image
    if isinstance(image, Mapping) and ("bytes" in image or "path" in image):
        content, path = image.get("bytes"), image.get("path")
    elif isinstance(image, (str, os.PathLike)):
        path = image
    elif not isinstance(image, PIL.Image.Image):
        raise TypeError(
            f"An image has to be a `PIL.Image.Image`, a dictionary with `bytes` or `path`, or a path, got "
            f"{type(image).__name__}. A data set with an output format returns something else: remove it with "
            "`dataset.with_format(None)`."
        )
    # A decoder may raise nearly anything on a broken file (OSError, SyntaxError, struct.error, zlib.error, ...), and
    # one broken file among millions must cost one pair, not the run.
    try:
        if not isinstance(image, PIL.Image.Image):
            if content is None:
                if path is None:
                    raise ImageDecodingError("the image has neither bytes nor a path")
                content = _read(path)
            image = open_image(content)
        _check_size(image, max_pixels)
        # A picture that was open before belongs to someone else, who may want all of it.
        if enough is not None and content is not None:
            _reduce(image, enough)
        image.load()
        return to_rgb(image)
    except ImageDecodingError:
        raise
    except Exception as error:
        kinds = {PIL.Image.DecompressionBombError: ImageTooLargeError, FileNotFoundError: MissingImageError}
        kind = next((kinds[cause] for cause in kinds if isinstance(error, cause)), ImageDecodingError)
        raise kind(f"{type(error).__name__}: {error}") from error


# Augmentation ----------------------------------------------------------------------------------------------------

# Magnitudes run from 0 to this, as in ALBEF, where 7 is used.
MAX_MAGNITUDE = 10

# Above this many pixels torchvision's uint8 resize is faster than Pillow's, conversions included.
_PILLOW_RESIZE_PIXELS = 96 * 96


class PairRandAugment(v2.RandAugment):
    """
    RandAugment with the operations that leave a caption true: no operation here changes which colour, how many or
    which object an image shows.

    Of the operations of `torchvision.transforms.v2.RandAugment`, `Color`, `Contrast`, `Posterize` and `Solarize` are
    left out, as in ALBEF (Li et al., 2021, section 3.5). The strengths are ALBEF's too: magnitudes run from 0 to 10,
    and 7 is a shear of 0.21, a rotation of 21 degrees, a shift of 2.7 % of the image side, and a brightness or
    sharpness between 0.65 and 1.35. The sign is drawn at random.

    Args:
        num_ops (`int`, *optional*, defaults to 2):
            Number of operations, applied one after another.
        magnitude (`int`, *optional*, defaults to 7):
            Strength of every operation, from 0 to 10.
        interpolation (`str` or `InterpolationMode`, *optional*, defaults to `"bilinear"`):
            Interpolation of the geometric operations.
        fill (`int` or sequence of `int`, *optional*):
            Value of the pixels that a geometric operation leaves empty; black if unset.
    """

    _AUGMENTATION_SPACE = {
        "Identity": (lambda num_bins, height, width: None, False),
        "AutoContrast": (lambda num_bins, height, width: None, False),
        "Equalize": (lambda num_bins, height, width: None, False),
        "Brightness": (lambda num_bins, height, width: torch.linspace(0.0, 0.5, num_bins), True),
        "Sharpness": (lambda num_bins, height, width: torch.linspace(0.0, 0.5, num_bins), True),
        "ShearX": (lambda num_bins, height, width: torch.linspace(0.0, 0.3, num_bins), True),
        "ShearY": (lambda num_bins, height, width: torch.linspace(0.0, 0.3, num_bins), True),
        "TranslateX": (lambda num_bins, height, width: torch.linspace(0.0, 10 / 256 * width, num_bins), True),
        "TranslateY": (lambda num_bins, height, width: torch.linspace(0.0, 10 / 256 * height, num_bins), True),
        "Rotate": (lambda num_bins, height, width: torch.linspace(0.0, 30.0, num_bins), True),
    }

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: int = 7,
        interpolation: str | v2.InterpolationMode = "bilinear",
        fill: int | Sequence[int] | None = None,
    ) -> None:
        if not isinstance(magnitude, int) or not 0 <= magnitude <= MAX_MAGNITUDE:
            raise ValueError(f"`magnitude` has to be an integer from 0 to {MAX_MAGNITUDE}, got {magnitude!r}.")
        super().__init__(
            num_ops=num_ops,
            magnitude=magnitude,
            num_magnitude_bins=MAX_MAGNITUDE + 1,
            interpolation=v2.InterpolationMode(interpolation),
            fill=fill,
        )


class _Crop(v2.RandomResizedCrop):
    """`RandomResizedCrop` of a picture in any mode or a tensor to RGB, whichever way of resizing is the faster."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> PIL.Image.Image | torch.Tensor:
        if isinstance(inpt, torch.Tensor):
            if inpt.dtype != torch.uint8 or inpt.ndim != 3 or inpt.shape[0] not in (1, 3):
                raise ValueError(
                    "An image tensor has to be uint8 of shape [3, height, width] or [1, height, width], got "
                    f"{inpt.dtype} of shape {list(inpt.shape)}."
                )
            pixels = F.crop(inpt.expand(3, -1, -1), **params)
        elif params["height"] * params["width"] <= _PILLOW_RESIZE_PIXELS:
            return super().transform(to_rgb(inpt), params)
        else:
            pixels = F.pil_to_tensor(to_rgb(F.crop(inpt, **params)))
        # Pixel after pixel in memory, as decoders leave them: so the resize needs no copy of its own.
        pixels = pixels[None].contiguous(memory_format=torch.channels_last)
        return F.resize(pixels, self.size, interpolation=self.interpolation, antialias=self.antialias)[0]

    def smallest(self, width: int, height: int) -> tuple[float, float]:
        """Width and height that no crop of an image falls below; of a long one it may be cut from the middle."""
        area = width * height * self.scale[0]
        narrowest, widest = self.ratio
        return (
            min(width, math.sqrt(area * narrowest), height * widest),
            min(height, math.sqrt(area / widest), width / narrowest),
        )


class PairAugmentation(v2.Compose):
    """
    The transform that [`pair_augmentation`] returns. It knows how large the pictures have to be that it is given.

    Args:
        transforms (sequence of `Callable`):
            One after another; the first makes the crop.
        reduced_decoding (`bool`, *optional*, defaults to `True`):
            Whether fewer pixels than a file has may be enough.
    """

    def __init__(self, transforms: Sequence[Callable], reduced_decoding: bool = True):
        super().__init__(transforms)
        self.reduced_decoding = reduced_decoding

    def enough(self, width: int, height: int) -> tuple[int, int]:
        """
        How large an image has to be for no crop to be enlarged that would not be enlarged anyway.

        Args:
            width (`int`): Of the image as it is.
            height (`int`): Of the image as it is.

        Returns:
            `tuple[int, int]`: Width and height.
        """
        if not self.reduced_decoding:
            return width, height
        crop = self.transforms[0]
        narrowest, lowest = crop.smallest(width, height)
        return math.ceil(width * crop.size[1] / narrowest), math.ceil(height * crop.size[0] / lowest)


def pair_augmentation(
    image_size: int | tuple[int, int],
    *,
    min_scale: float = 0.5,
    horizontal_flip: float = 0.0,
    num_ops: int = 2,
    op_probability: float = 0.5,
    magnitude: int = 7,
    interpolation: str | v2.InterpolationMode = "bicubic",
    fill: int | Sequence[int] = 128,
    reduced_decoding: bool = True,
) -> PairAugmentation:
    """
    The augmentation of images for training on image-text pairs, after ALBEF (Li et al., 2021): a random crop, resized
    to the size of the model, then operations drawn from [`PairRandAugment`].

    It differs from ALBEF in one point: images are not mirrored unless asked for, because captions speak of left and
    right, and mirrored writing says nothing.

    Randomness comes from torch's global generator alone, so that a seeded or resumed run repeats it.

    Args:
        image_size (`int` or `tuple[int, int]`):
            Side, or height and width, of the result: the size that the model's image processor produces.
        min_scale (`float`, *optional*, defaults to 0.5):
            Smallest share of the image area that a crop keeps. ALBEF takes 0.2 for pre-training on web data and 0.5
            for fine-tuning; small crops lose what the caption names.
        horizontal_flip (`float`, *optional*, defaults to 0.0):
            Probability of mirroring the image.
        num_ops (`int`, *optional*, defaults to 2):
            Number of operations that are drawn; 0 for the crop alone.
        op_probability (`float`, *optional*, defaults to 0.5):
            Probability with which each drawn operation is applied.
        magnitude (`int`, *optional*, defaults to 7):
            Strength of the operations, from 0 to 10.
        interpolation (`str` or `InterpolationMode`, *optional*, defaults to `"bicubic"`):
            Interpolation of the resize.
        fill (`int` or sequence of 3 `int`, *optional*, defaults to 128):
            Value, or red, green and blue, of the pixels that shear, shift and rotation leave empty. Grey is near zero
            after normalisation; 255 suits drawings and catalogue pictures on white.
        reduced_decoding (`bool`, *optional*, defaults to `True`):
            Whether [`PairCollator`] decodes a JPEG file to a half, a quarter or an eighth of its sides where even the
            smallest crop then has the pixels that it is resized to. The result differs from that of a whole decoding
            about as much as bilinear resizing does from bicubic.

    Returns:
        [`PairAugmentation`]: A `torchvision.transforms.v2.Compose` that takes a `PIL.Image.Image` or a uint8 tensor of
        shape `[3, height, width]`, and returns a uint8 tensor of shape `[3, *image_size]`.

    Raises:
        ValueError: An argument is out of its range.

    Example:

    ```python
    >>> from trainer.data import PairCollator, pair_augmentation

    >>> collator = PairCollator(processor, image_transform=pair_augmentation(256, fill=255))
    ```
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 1:
        raise ValueError(f"`image_size` has to be positive, got {image_size!r}.")
    if not 0 < min_scale <= 1:
        raise ValueError(f"`min_scale` is a share of the image area, above 0 and at most 1, got {min_scale!r}.")
    for name, probability in (("horizontal_flip", horizontal_flip), ("op_probability", op_probability)):
        if not 0 <= probability <= 1:
            raise ValueError(f"`{name}` is a probability, from 0 to 1, got {probability!r}.")
    if num_ops < 0:
        raise ValueError(f"`num_ops` has to be 0 or more, got {num_ops!r}.")
    color = [fill] * 3 if isinstance(fill, int) else list(fill)
    if len(color) != 3 or not all(0 <= value <= 255 for value in color):
        raise ValueError(f"`fill` has to be one value or three, from 0 to 255, got {fill!r}.")

    interpolation = v2.InterpolationMode(interpolation)
    steps: list[torch.nn.Module] = [_Crop((height, width), scale=(min_scale, 1.0), interpolation=interpolation)]
    if horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(horizontal_flip))
    for _ in range(num_ops if op_probability else 0):
        operation = PairRandAugment(num_ops=1, magnitude=magnitude, fill=color)
        # Pillow's operations are the faster ones, but most pictures get by without any.
        steps.append(v2.RandomApply([v2.ToPILImage(), operation], p=op_probability))
    steps.append(v2.PILToTensor())
    return PairAugmentation(steps, reduced_decoding)
