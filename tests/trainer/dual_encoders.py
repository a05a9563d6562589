# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Dual encoders of transformers in tiny, each with its processor: without dropout, without downloads."""

from transformers import (
    BertConfig,
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessor,
    ChineseCLIPModel,
    ChineseCLIPProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
    TimmWrapperConfig,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
    ViTConfig,
    ViTImageProcessor,
    set_seed,
)


# Large initial weights: with the usual ones, towers this small give all images one embedding, and learn nothing for
# long.
SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37}
TEXT = {**SIZES, "hidden_size": 32, "vocab_size": 99, "max_position_embeddings": 64, "initializer_range": 0.2}
VISION = {**SIZES, "hidden_size": 48, "image_size": 32, "patch_size": 8, "initializer_range": 0.2}
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
PIXELS = {"height": 32, "width": 32}


def tiny_clip(tokenizer: BertTokenizer) -> tuple[PreTrainedModel, ProcessorMixin]:
    tokens = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = CLIPConfig(text_config={**TEXT, **tokens}, vision_config=VISION, projection_dim=20)
    return CLIPModel(config), CLIPProcessor(CLIPImageProcessor(size=PIXELS, do_center_crop=False), tokenizer)


def tiny_chinese_clip(tokenizer: BertTokenizer) -> tuple[PreTrainedModel, ProcessorMixin]:
    config = ChineseCLIPConfig(text_config={**TEXT, **WITHOUT_DROPOUT}, vision_config=VISION, projection_dim=20)
    image_processor = ChineseCLIPImageProcessor(size=PIXELS, do_center_crop=False)
    return ChineseCLIPModel(config), ChineseCLIPProcessor(image_processor, tokenizer)


def tiny_siglip(tokenizer: BertTokenizer) -> tuple[PreTrainedModel, ProcessorMixin]:
    """As published: no attention mask, embeddings without a projection, so towers of one width."""
    tokens = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text = {**TEXT, **tokens, "hidden_size": 48, "projection_size": 48, "max_position_embeddings": 16}
    # The published tokenizer returns no mask: the text embedding is read off the last position, padding or not.
    tokenizer = BertTokenizer(vocab=tokenizer.get_vocab(), model_max_length=16, model_input_names=["input_ids"])
    processor = SiglipProcessor(SiglipImageProcessor(size=PIXELS), tokenizer)
    return SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)), processor


def tiny_siglip2(_: BertTokenizer) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Images of any shape as rows of patches: 256 of 16 x 16 pixels is what the processor insists on."""
    tokens = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    text = {**TEXT, **tokens, "hidden_size": 48, "projection_size": 48}
    # Its own tokenizer, which `AutoProcessor` insists on, with letters for words; it pads on the left.
    letters = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Siglip2Tokenizer(vocab={letter: number for number, letter in enumerate(letters)})
    vision = {name: value for name, value in VISION.items() if name != "image_size"}
    config = Siglip2Config(text_config=text, vision_config={**vision, "patch_size": 16, "num_patches": 16})
    return Siglip2Model(config), Siglip2Processor(Siglip2ImageProcessor(), tokenizer)


def _vision_and_text(vision_config, tokenizer: BertTokenizer) -> tuple[PreTrainedModel, ProcessorMixin]:
    text_config = BertConfig(**TEXT, **WITHOUT_DROPOUT)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision_config, text_config, projection_dim=20)
    processor = VisionTextDualEncoderProcessor(ViTImageProcessor(size=PIXELS), tokenizer)
    return VisionTextDualEncoderModel(config), processor


def tiny_vision_and_text(tokenizer: BertTokenizer) -> tuple[PreTrainedModel, ProcessorMixin]:
    return _vision_and_text(ViTConfig(**VISION, **WITHOUT_DROPOUT), tokenizer)


def tiny_timm(tokenizer: BertTokenizer) -> tuple[PreTrainedModel, ProcessorMixin]:
    """An architecture of timm as image tower. The projection needs its width, which its configuration lacks."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 2}
    config = TimmWrapperConfig(architecture="vit_tiny_patch16_224", model_args=sizes, hidden_size=48)
    return _vision_and_text(config, tokenizer)


DUAL_ENCODERS = {
    "clip": tiny_clip,
    "chinese_clip": tiny_chinese_clip,
    "siglip": tiny_siglip,
    "siglip2": tiny_siglip2,
    "vision_and_text": tiny_vision_and_text,
    "timm": tiny_timm,
}


def make_dual_encoder(name: str, tokenizer: BertTokenizer, seed: int = 0) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The same model for the same seed, and its processor."""
    set_seed(seed)
    return DUAL_ENCODERS[name](tokenizer)
