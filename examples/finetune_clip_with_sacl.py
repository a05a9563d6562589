# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Trains a CLIP of `transformers`, as it is, with the regulated contrast: no other model, no other checkpoint format.

    python examples/finetune_clip_with_sacl.py --output_dir runs/clip
    python examples/finetune_clip_with_sacl.py --output_dir runs/clip_infonce --objective infonce

take some three minutes each on two cores: a small CLIP from random weights, on the embedded emoji, and what it finds.
Any option of SaclTrainingArguments can be given. A published CLIP, on pairs that are not one-to-one (SigLIP,
Chinese-CLIP and VisionTextDualEncoder work alike):

    python examples/finetune_clip_with_sacl.py --model openai/clip-vit-base-patch32 --dataset user/catalogue \\
        --caption_columns title description --output_dir clip-catalogue --num_train_epochs 5 \\
        --per_device_train_batch_size 256 --learning_rate 1e-5 --weight_decay 0.1 --use_cpu False --bf16 True
"""

from dataclasses import dataclass, field

import torch
from datasets import Dataset
from demo import build_processor
from emoji import EmojiRelevance, emoji_pairs
from evaluate_retrieval import print_metrics
from transformers import (
    AutoModel,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    HfArgumentParser,
    PreTrainedModel,
    ProcessorMixin,
    logging,
    set_seed,
)

from trainer import PairCollator, SaclTrainer, SaclTrainingArguments, evaluate_retrieval, load_pairs


@dataclass
class Source:
    """What to start from and what to learn; without any of it, a small CLIP and the emoji."""

    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of a dual encoder."})
    dataset: str | None = field(default=None, metadata={"help": "What `load_pairs` reads: Hub id, folder or file."})
    split: str = field(default="train", metadata={"help": "Its split."})
    caption_columns: list[str] | None = field(default=None, metadata={"help": "Its columns with captions."})


@dataclass
class FinetuneArguments(SaclTrainingArguments):
    """[`SaclTrainingArguments`] with the values that learn most from the emoji in three minutes on two cores."""

    output_dir: str = field(default="runs/clip", metadata={"help": "Where the model is written."})
    num_train_epochs: float = field(default=7)
    per_device_train_batch_size: int = field(default=128)
    learning_rate: float = field(default=1e-3)
    weight_decay: float = field(default=0.1)
    momentum: float | None = field(default=None)
    save_strategy: str = field(default="no")
    logging_steps: float = field(default=20)
    report_to: str = field(default="none")
    dataloader_pin_memory: bool = field(default=torch.cuda.is_available())
    use_cpu: bool = field(default=not torch.cuda.is_available())
    bf16: bool = field(default=torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported())


def small_clip() -> tuple[CLIPModel, ProcessorMixin]:
    """Two million parameters and the word pieces of the emoji texts."""
    processor = build_processor(image_size=48)
    tokenizer = processor.tokenizer
    # Initial weights for this width: CLIP's own are made for 512 dimensions and more.
    width = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "initializer_factor": 2.0}
    config = CLIPConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 2,
            "max_position_embeddings": 32,
            # CLIP reads the token at the end of the text, which must not be taken for another.
            "bos_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **width,
        },
        vision_config={"image_size": 48, "patch_size": 12, "num_hidden_layers": 4, **width},
        projection_dim=128,
    )
    return CLIPModel(config), processor


def load(source: Source) -> tuple[PreTrainedModel, ProcessorMixin, Dataset]:
    model, processor = (
        small_clip()
        if source.model is None
        else (AutoModel.from_pretrained(source.model), AutoProcessor.from_pretrained(source.model))
    )
    if source.dataset is None:
        return model, processor, emoji_pairs("train")
    return model, processor, load_pairs(source.dataset, split=source.split, caption_columns=source.caption_columns)


def main() -> None:
    logging.set_verbosity_warning()
    source, args = HfArgumentParser((Source, FinetuneArguments)).parse_args_into_dataclasses()
    set_seed(args.seed)
    model, processor, train = load(source)
    print(f"{type(model).__name__}, {model.num_parameters():,} parameters; {len(train):,} pairs, {args.objective}")
    collator = None
    if source.dataset is None:  # Emoji are on white.
        plain = PairCollator(processor, mlm_probability=0.0, max_length=16).for_model(model)
        collator = plain.for_training(fill=255, min_scale=0.6)
    trainer = SaclTrainer(model, args, data_collator=collator, train_dataset=train, processing_class=processor)
    trainer.train()
    trainer.save_model()
    if source.dataset is None and trainer.is_world_process_zero():
        for split in ("test_unseen_composition", "test_unseen_concept"):
            pairs = emoji_pairs(split)
            print(f"\n{split}, {len(pairs):,} pictures")
            metrics = evaluate_retrieval(
                model, pairs, processor, batch_size=256, relevance=EmojiRelevance(pairs), show_progress=False
            )
            print_metrics(metrics)
    print(f"\nThe model is in {args.output_dir}: `{type(model).__name__}.from_pretrained` loads it")


if __name__ == "__main__":
    main()
