# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Data: sources of pairs, what is done to their images in training, and the batches made of them."""

from .classification import ImagesAndTextClassificationCollator, ImageTextClassificationCollator
from .collator import PairCollator
from .hard_negatives import swap_words
from .karpathy import load_karpathy
from .mixing import mix_pairs
from .pairs import clean_captions, content_pair_id, load_pairs, pair_ids_tensor, undecoded, with_pair_ids
from .question_answering import QuestionAnsweringCollator, frequent_answers, load_vqa, weigh_answers
from .remote import ImageFetchError, fetch_image
from .seeding import SeededPairs
from .streams import SeededStream
from .transforms import (
    ImageDecodingError,
    PairAugmentation,
    PairRandAugment,
    decode_image,
    pair_augmentation,
    to_rgb,
)
from .usable import SkippedPair, UsablePairs, UsableStream


__all__ = [
    "ImageDecodingError",
    "ImageFetchError",
    "ImageTextClassificationCollator",
    "ImagesAndTextClassificationCollator",
    "PairAugmentation",
    "PairCollator",
    "PairRandAugment",
    "QuestionAnsweringCollator",
    "SeededPairs",
    "SeededStream",
    "SkippedPair",
    "UsablePairs",
    "UsableStream",
    "clean_captions",
    "content_pair_id",
    "decode_image",
    "fetch_image",
    "frequent_answers",
    "load_karpathy",
    "load_pairs",
    "load_vqa",
    "mix_pairs",
    "pair_augmentation",
    "pair_ids_tensor",
    "swap_words",
    "to_rgb",
    "undecoded",
    "weigh_answers",
    "with_pair_ids",
]
