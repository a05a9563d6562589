# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The processor of SACL: an image processor and a tokenizer under one roof."""

from transformers.processing_utils import ProcessorMixin


class SaclProcessor(ProcessorMixin):
    r"""
    Wraps an image processor and a tokenizer into one processor for [`SaclModel`].

    ALBEF's preprocessing is `BlipImageProcessor(size={"height": 256, "width": 256})`: bicubic resizing to a square and
    CLIP's mean and standard deviation. Text is padded to the longest of the batch and cut at the tokenizer's
    `model_max_length`; token type ids are left out.

    Args:
        image_processor ([`BaseImageProcessor`]):
            Any image processor that returns `pixel_values` of shape `(batch_size, channels, height, width)`.
        tokenizer ([`PreTrainedTokenizerBase`]):
            The tokenizer of the text tower, whose first token stands for the whole text.

    Example:

    ```python
    >>> from transformers import AutoTokenizer, BlipImageProcessor
    >>> from modeling_sacl import SaclProcessor

    >>> image_processor = BlipImageProcessor(size={"height": 256, "width": 256})
    >>> processor = SaclProcessor(image_processor, AutoTokenizer.from_pretrained("google-bert/bert-base-uncased"))
    >>> inputs = processor(text=["a red bus"], images=image, return_tensors="pt")
    ```
    """

    text_kwargs = {"padding": True, "truncation": True, "return_token_type_ids": False}
    _auto_class = "AutoProcessor"

    def __init__(self, image_processor, tokenizer):
        super().__init__(image_processor, tokenizer)


__all__ = ["SaclProcessor"]
