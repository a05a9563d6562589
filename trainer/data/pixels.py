# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What an image processor does to pictures, without the copies that it makes on the way."""

from collections.abc import Sequence
from typing import Any

import PIL.Image
import torch
from torchvision.transforms.v2 import functional as F
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import get_size_dict
from transformers.image_utils import SizeDict


# What makes of a picture what `resize`, `center_crop` and `rescale_and_normalize` are then called with.
_STANDARD_METHODS = (
    "__call__",
    "preprocess",
    "_preprocess_image_like_inputs",
    "_prepare_image_like_inputs",
    "process_image",
    "_preprocess",
)


_NORMALIZATION = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")


class PixelSteps:
    """
    The steps of an image processor, one at a time: to the bit what the processor returns, in a fraction of its time.

    Called with pictures, an image processor copies each into rows of one colour, groups them by size, stacks, unstacks
    and stacks again, in float32 at last. Here each picture is resized as it lies in memory, and a batch is made once.
    All that is computed is computed by the processor's own methods.

    Args:
        image_processor ([`~transformers.image_processing_backends.TorchvisionBackend`]):
            One that `are_those_of` accepts.
    """

    def __init__(self, image_processor: Any):
        self.image_processor = image_processor
        self._tried: dict[str, Any] = {}
        self._found: tuple[torch.Tensor, torch.Tensor] | None = None

    @staticmethod
    def are_those_of(image_processor: Any) -> bool:
        """
        Whether an image processor does what those of its base class do: resize, crop, rescale and normalise each
        image. Others (patches, tiles, thumbnails, padding, Pillow in place of torchvision) have to be called as they
        are.
        """
        if not isinstance(image_processor, TorchvisionBackend) or getattr(image_processor, "do_pad", None):
            return False
        kind = type(image_processor)
        standard = [getattr(TorchvisionBackend, name, None) for name in _STANDARD_METHODS]
        return None not in standard and standard == [getattr(kind, name) for name in _STANDARD_METHODS]

    def resize(self, image: PIL.Image.Image | torch.Tensor) -> torch.Tensor:
        """
        Args:
            image (`PIL.Image.Image` or `torch.Tensor`):
                A picture in mode `"RGB"`, or uint8 of shape `[3, height, width]`.

        Returns:
            `torch.Tensor`: uint8 of shape `[3, height, width]`, resized and cropped as the processor does.
        """
        processor = self.image_processor
        pixels = F.pil_to_tensor(image) if isinstance(image, PIL.Image.Image) else image
        if processor.do_resize:
            size = self._size("size", default_to_square=processor.default_to_square)
            pixels = processor.resize(image=pixels[None], size=size, resample=processor.resample)[0]
        if processor.do_center_crop:
            pixels = processor.center_crop(pixels, self._size("crop_size", param_name="crop_size"))
        return pixels

    def _size(self, name: str, **options: Any) -> SizeDict:
        size = getattr(self.image_processor, name)
        return size if isinstance(size, SizeDict) else SizeDict(**get_size_dict(size, **options))

    def normalize(self, images: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """
        Args:
            images (sequence of `torch.Tensor` or `torch.Tensor`):
                uint8, `[3, height, width]` each, or a batch of them on any device.

        Returns:
            `torch.Tensor`: float32 of shape `[batch, 3, height, width]`, rescaled and normalised as the processor
            does.
        """
        if isinstance(images, torch.Tensor):
            return self._normalize(images)
        known = self._mean_and_std()
        if known is None:
            return self._normalize(torch.stack(list(images)))
        # Each picture is written to its place as float32, and stays in the cache from the first operation to the last.
        pixels = torch.empty((len(images), *images[0].shape), dtype=torch.float32)
        for place, image in zip(pixels, images, strict=True):
            place.copy_(image).sub_(known[0]).div_(known[1])
        return pixels

    def _normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        normalized = self.image_processor.rescale_and_normalize(pixels, **self._normalization())
        return normalized.to(torch.float32)

    def _normalization(self) -> dict[str, Any]:
        values = {name: getattr(self.image_processor, name) for name in _NORMALIZATION}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    def _mean_and_std(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """
        What to subtract from and to divide by, if that is what the processor does. There are but 256 values that a
        pixel can have, and all are tried.
        """
        options = self._normalization()
        if options != self._tried:
            self._tried, self._found = options, None
            if options["do_rescale"] and options["do_normalize"]:
                scale = 1.0 / options["rescale_factor"]
                mean, std = (
                    (torch.tensor(options[name]) * scale).view(-1, 1, 1) for name in ("image_mean", "image_std")
                )
                levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1)
                if torch.equal(self._normalize(levels), levels.to(torch.float32).sub(mean).div(std)):
                    self._found = mean, std
        return self._found
