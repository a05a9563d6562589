# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Data: sources of pairs, what is done to their images in training, and the batches made of them."""

from .collator import PairCollator
from .pairs import clean_captions, content_pair_id, load_pairs, pair_ids_tensor, undecoded, with_pair_ids
from .seeding import SeededPairs, SeededStream
from .transforms import ImageDecodingError, PairRandAugment, decode_image, pair_augmentation, to_rgb


__all__ = [
    "ImageDecodingError",
    "PairCollator",
    "PairRandAugment",
    "SeededPairs",
    "SeededStream",
    "clean_captions",
    "content_pair_id",
    "decode_image",
    "load_pairs",
    "pair_augmentation",
    "pair_ids_tensor",
    "to_rgb",
    "undecoded",
    "with_pair_ids",
]
