# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What all tests share: nothing is downloaded, and a tiny configuration, tokenizer and processor."""

import os


# Before the first import of these libraries, which read them once. Threads that wait for one another cost more than
# the tiny models of the tests do: several times the run time on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402
from transformers import BertTokenizer, BlipImageProcessor  # noqa: E402

from modeling_sacl import SaclConfig, SaclProcessor  # noqa: E402


WORDS = "a an the red green blue bus cat dog house photo this is of two on sits runs . , this that".split()
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def tiny_config() -> SaclConfig:
    """Towers of different widths and odd feed-forward sizes, so that a mix-up of dimensions cannot pass."""
    return SaclConfig(
        text_config={
            "model_type": "bert",
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 37,
            "vocab_size": 99,
            "max_position_embeddings": 64,
        },
        vision_config={
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 50,
            "image_size": 32,
            "patch_size": 8,
        },
        fusion_encoder_config={"num_hidden_layers": 2},
        projection_dim=20,
    )


@pytest.fixture(scope="session")
def tiny_tokenizer() -> BertTokenizer:
    vocabulary = list(dict.fromkeys(SPECIAL_TOKENS + WORDS))
    return BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)}, model_max_length=64)


@pytest.fixture(scope="session")
def tiny_processor(tiny_tokenizer) -> SaclProcessor:
    return SaclProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tiny_tokenizer)
