# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What the tests of the page share: tiny models whose embeddings differ, and a few emoji."""

from datasets import Dataset
from transformers import BertTokenizer, BlipImageProcessor, set_seed

from examples.emoji import DATA_DIR, emoji_pairs
from modeling_sacl import SaclConfig, SaclForPreTraining, SaclProcessor
from tests.trainer.dual_encoders import make_dual_encoder


HAS_EMOJI = DATA_DIR.is_dir()
VOCABULARY = DATA_DIR.parent / "emoji_vocabulary.txt"


def emoji(count: int = 24) -> Dataset:
    """A few emoji, each with its name."""
    return emoji_pairs("validation").select(range(0, 4 * count, 4)).flatten_indices()


def tokenizer(max_length: int = 16) -> BertTokenizer:
    """The word pieces of the emoji texts."""
    pieces = VOCABULARY.read_text(encoding="utf-8").splitlines()
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, model_max_length=max_length)


def tiny_sacl() -> tuple[SaclForPreTraining, SaclProcessor]:
    """With a matching head, and weights so large that pictures and texts differ; always the same."""
    set_seed(0)
    processor = SaclProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer())
    width = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 37, "initializer_range": 0.2}
    config = SaclConfig(
        text_config={
            "model_type": "bert",
            "vocab_size": len(processor.tokenizer),
            "num_hidden_layers": 2,
            "max_position_embeddings": 64,
            **width,
        },
        vision_config={"image_size": 32, "patch_size": 8, "num_hidden_layers": 3, **width},
        fusion_encoder_config={"num_hidden_layers": 2, **width},
        projection_dim=16,
    )
    return SaclForPreTraining(config).eval(), processor


def tiny_clip():
    """A dual encoder without anything else. Its vocabulary is the first 99 pieces."""
    pieces = VOCABULARY.read_text(encoding="utf-8").splitlines()[:99]
    words = BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, model_max_length=16)
    model, processor = make_dual_encoder("clip", words)
    return model.eval(), processor
