# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Pre-trains SACL with all three losses: regulated contrast, matching on hard negatives, masked words.

    python examples/pretrain.py --output_dir runs/pretrain

takes some three minutes on two cores: a model of 2 million parameters from random weights, on the embedded emoji. What
it leaves in the folder is what the fine-tuning examples start from. Any option of SaclTrainingArguments can be given.

On your own pairs, from published towers, with the recipe of SACL's paper (30 epochs of 512 pairs a step at 256 pixels,
1e-4 in the text half and 1e-5 in the image tower, weight decay 0.02, momentum teacher 0.995, a queue of 65,536):

    accelerate launch --config_file examples/accelerate/ddp.yaml --num_processes 8 examples/pretrain.py \\
        --dataset user/catalogue --vision openai/clip-vit-base-patch16 --text google-bert/bert-base-uncased \\
        --image_size 256 --output_dir sacl-catalogue --num_train_epochs 30 --per_device_train_batch_size 64 \\
        --learning_rate 1e-4 --vision_learning_rate 1e-5 --weight_decay 0.02 --warmup_steps 1000 --momentum 0.995 \\
        --queue_size 65536 --hard_negative_warmup 0 --use_cpu False --bf16 True --eval_strategy no --push_to_hub True
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from demo import build_model, build_processor
from emoji import emoji_pairs
from transformers import AutoTokenizer, BlipImageProcessor, HfArgumentParser, logging, set_seed

from modeling_sacl import SaclForPreTraining, SaclProcessor
from trainer import PairCollator, SaclTrainer, SaclTrainingArguments, load_pairs


@dataclass
class DataAndTowers:
    """What is learned from, and what it starts with; without any of it, a small model and the emoji."""

    dataset: str | None = field(default=None, metadata={"help": "What `load_pairs` reads: Hub id, folder or file."})
    split: str = field(default="train", metadata={"help": "Its split."})
    caption_columns: list[str] | None = field(default=None, metadata={"help": "Its columns with captions."})
    vision: str | None = field(default=None, metadata={"help": "CLIP or ViT that the image tower starts as."})
    text: str | None = field(default=None, metadata={"help": "BERT-like model that text and fusion start as."})
    image_size: int = field(default=256, metadata={"help": "Pixels along the side of an image, with --vision."})


@dataclass
class PretrainArguments(SaclTrainingArguments):
    """[`SaclTrainingArguments`] with the values that learn most from the emoji in three minutes on two cores."""

    output_dir: str = field(default="runs/pretrain", metadata={"help": "Where the model is written."})
    num_train_epochs: float = field(default=5)
    per_device_train_batch_size: int = field(default=128)
    per_device_eval_batch_size: int = field(default=256)
    learning_rate: float = field(default=1e-3)
    weight_decay: float = field(default=0.1)
    momentum: float | None = field(default=0.98)
    # From random weights, matching learns from unlike pictures first.
    hard_negative_warmup: float = field(default=0.9)
    eval_strategy: str = field(default="epoch")
    save_strategy: str = field(default="no")
    logging_steps: float = field(default=20)
    report_to: str = field(default="none")
    dataloader_pin_memory: bool = field(default=torch.cuda.is_available())
    use_cpu: bool = field(default=not torch.cuda.is_available())
    bf16: bool = field(default=torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported())


def load(source: DataAndTowers) -> tuple[SaclForPreTraining, SaclProcessor, Dataset, Dataset | None]:
    """Model, processor, training pairs, and pairs to evaluate on."""
    if (source.vision is None) != (source.text is None):
        raise SystemExit("--vision and --text start the towers: give both, or neither for a small model")
    if source.vision is None:
        processor = build_processor(image_size=48)
        model = build_model(processor)
    else:
        size = {"height": source.image_size, "width": source.image_size}
        processor = SaclProcessor(BlipImageProcessor(size=size), AutoTokenizer.from_pretrained(source.text))
        model = SaclForPreTraining.from_vision_text_pretrained(
            source.vision, source.text, image_size=source.image_size
        )
    if source.dataset is None:
        return model, processor, emoji_pairs("train"), emoji_pairs("validation")
    pairs = load_pairs(source.dataset, split=source.split, caption_columns=source.caption_columns)
    return model, processor, pairs, None


def main() -> None:
    logging.set_verbosity_warning()
    source, args = HfArgumentParser((DataAndTowers, PretrainArguments)).parse_args_into_dataclasses()
    set_seed(args.seed)
    model, processor, train, validation = load(source)
    print(f"{len(train):,} pairs, {model.num_parameters():,} parameters, objective {args.objective}")
    collator = None
    if source.dataset is None:  # Emoji are on white.
        collator = PairCollator(processor, max_length=16).for_training(fill=255, min_scale=0.6)
    trainer = SaclTrainer(
        model,
        args,
        data_collator=collator,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model()
    if validation is not None:
        metrics = trainer.evaluate()
        for name in ("text_to_image_recall@10", "image_to_text_recall@10", "itm_accuracy", "mlm_loss"):
            if f"eval_{name}" in metrics:
                print(f"{name:26}{metrics[f'eval_{name}']:8.3f}")
    if args.push_to_hub:
        trainer.push_to_hub()
    print(f"The model is in {Path(args.output_dir)}")


if __name__ == "__main__":
    main()
