# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Adapts a trained model to another kind of text with LoRA: a few per cent of the parameters, a file of megabytes.

    python examples/pretrain.py                        # three minutes: a model that knows names
    python examples/lora.py --model runs/pretrain      # two minutes

The model was trained with names and lists of keywords ("waving hand: light skin tone"); the adapters learn sentences
("A picture of waving hand with light skin tone, related to wave."). It prints what sentences find before and after,
and how much was trained. Any option of SaclTrainingArguments can be given. On a published CLIP:

    python examples/lora.py --model openai/clip-vit-large-patch14 --dataset user/radiology \\
        --caption_columns findings --target_modules q_proj v_proj --output_dir clip-radiology-lora \\
        --learning_rate 1e-4 --use_cpu False --bf16 True

The folder holds the adapters alone; `PeftModel.from_pretrained(model, folder)` puts them on, `merge_and_unload` makes
an ordinary model of both. (Hu et al., "LoRA", ICLR 2022, [arXiv 2106.09685](https://huggingface.co/papers/2106.09685))
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from emoji import EmojiRelevance, load_emoji
from evaluate_retrieval import print_metrics
from peft import LoraConfig
from transformers import AutoModel, AutoProcessor, HfArgumentParser, logging, set_seed

import modeling_sacl  # noqa: F401  (registers the Auto classes)
from trainer import PairCollator, SaclTrainer, SaclTrainingArguments, evaluate_retrieval, load_pairs


@dataclass
class Source:
    """What to adapt, and to what; without --dataset, to the sentences of the emoji."""

    model: str = field(default="runs/pretrain", metadata={"help": "Folder or Hub id of a dual encoder."})
    dataset: str | None = field(default=None, metadata={"help": "What `load_pairs` reads: Hub id, folder or file."})
    split: str = field(default="train", metadata={"help": "Its split."})
    caption_columns: list[str] | None = field(default=None, metadata={"help": "Its columns with captions."})
    rank: int = field(default=16, metadata={"help": "Rank of the adapters."})
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "v_proj", "query", "value", "fc1", "fc2"],
        metadata={"help": "Names of the layers that get adapters."},
    )


@dataclass
class LoraArguments(SaclTrainingArguments):
    """[`SaclTrainingArguments`] with the values for the emoji."""

    output_dir: str = field(default="runs/lora", metadata={"help": "Where the adapters are written."})
    num_train_epochs: float = field(default=3)
    per_device_train_batch_size: int = field(default=128)
    learning_rate: float = field(default=2e-3)
    momentum: float | None = field(default=None)
    save_strategy: str = field(default="no")
    logging_steps: float = field(default=20)
    report_to: str = field(default="none")
    dataloader_pin_memory: bool = field(default=torch.cuda.is_available())
    use_cpu: bool = field(default=not torch.cuda.is_available())
    bf16: bool = field(default=torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported())


def sentences(split: str) -> Dataset:
    """The emoji with their sentences as captions."""
    columns = ["emoji_id", "base_id", "subgroup", "tone", "gender"]
    return load_pairs(load_emoji(split), caption_columns="sentence", pair_id_column="emoji_id", keep_columns=columns)


def main() -> None:
    logging.set_verbosity_warning()
    source, args = HfArgumentParser((Source, LoraArguments)).parse_args_into_dataclasses()
    if not Path(source.model).exists() and source.model == Source.model:
        raise SystemExit(f"There is no {source.model} yet: run `python examples/pretrain.py` first, or give --model.")
    set_seed(args.seed)
    model, processor = AutoModel.from_pretrained(source.model), AutoProcessor.from_pretrained(source.model)
    on_emoji = source.dataset is None
    train = sentences("train") if on_emoji else load_pairs(
        source.dataset, split=source.split, caption_columns=source.caption_columns
    )  # fmt: skip

    def report(title: str) -> None:
        for split in ("test_unseen_composition", "test_unseen_concept") if on_emoji else ():
            pairs = sentences(split)
            print(f"\n{title}: {split}, {len(pairs):,} pictures")
            metrics = evaluate_retrieval(
                model, pairs, processor, batch_size=256, relevance=EmojiRelevance(pairs), show_progress=False
            )
            print_metrics(metrics)

    report("Before")
    plain = PairCollator(processor, mlm_probability=0.0).for_model(model)
    trainer = SaclTrainer(
        model,
        args,
        data_collator=plain.for_training(**({"fill": 255, "min_scale": 0.6} if on_emoji else {})),
        train_dataset=train,
        processing_class=processor,
        peft_config=LoraConfig(r=source.rank, lora_alpha=2 * source.rank, target_modules=source.target_modules),
    )
    model = trainer.model
    trained, total = model.get_nb_trainable_parameters()
    print(f"\n{trained:,} of {total:,} parameters are trained, {100 * trained / total:.1f} %")
    trainer.train()
    trainer.save_model()
    report("After")
    size = sum(file.stat().st_size for file in Path(args.output_dir).glob("*.safetensors")) / 2**20
    print(f"\nThe adapters are in {args.output_dir}, {size:.1f} MiB")


if __name__ == "__main__":
    main()
