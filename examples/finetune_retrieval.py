# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Fine-tunes a pre-trained SACL for retrieval: contrast and matching, regulated by the model's own similarity.

    python examples/pretrain.py                                    # three minutes: something to start from
    python examples/finetune_retrieval.py --model runs/pretrain    # three minutes
    python examples/finetune_retrieval.py --model runs/demo/model  # or from what `make demo` left

prints what texts and images find before and after, by the cosine alone, and with the best candidates put in order by
the matching head. Any option of SaclTrainingArguments can be given.

COCO and Flickr30k with the recipe of SACL's paper (5 epochs, 256 pairs a step, 384 pixels, 1e-5 and weight decay 0.05,
2e-6 in the image tower; re-ranking 256 candidates for COCO, 128 for Flickr30k):

    accelerate launch --config_file examples/accelerate/ddp.yaml --num_processes 8 examples/finetune_retrieval.py \\
        --model user/sacl-model --karpathy dataset_coco.json --image_dir coco/images --image_size 384 \\
        --output_dir sacl-coco --num_train_epochs 5 --per_device_train_batch_size 32 --learning_rate 1e-5 \\
        --vision_learning_rate 2e-6 --weight_decay 0.05 --rerank_top_k 256 --hard_negative_warmup 0 --use_cpu False \\
        --bf16 True
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from emoji import EmojiRelevance, emoji_pairs
from evaluate_retrieval import print_metrics
from transformers import AutoProcessor, HfArgumentParser, logging, set_seed

from modeling_sacl import SaclForImageTextRetrieval, SaclProcessor
from trainer import PairCollator, SaclTrainer, SaclTrainingArguments, evaluate_retrieval, load_karpathy


@dataclass
class Source:
    """What to start from and what to learn; without --karpathy, the emoji."""

    model: str = field(default="runs/pretrain", metadata={"help": "Folder or Hub id of a pre-trained SACL."})
    karpathy: str | None = field(default=None, metadata={"help": "JSON file in Karpathy's format."})
    image_dir: str | None = field(default=None, metadata={"help": "Folder of the images that --karpathy names."})
    image_size: int | None = field(default=None, metadata={"help": "Pixels, if other than in pre-training."})
    rerank_top_k: int = field(default=32, metadata={"help": "Candidates that the matching head looks at."})


@dataclass
class FinetuneArguments(SaclTrainingArguments):
    """[`SaclTrainingArguments`] with the values for the emoji: no teacher, no words, full strength from the start."""

    output_dir: str = field(default="runs/retrieval", metadata={"help": "Where the model is written."})
    num_train_epochs: float = field(default=4)
    per_device_train_batch_size: int = field(default=64)
    learning_rate: float = field(default=5e-4)
    weight_decay: float = field(default=0.05)
    momentum: float | None = field(default=None)
    mlm_weight: float = field(default=0.0)
    regulation_warmup: float = field(default=0.0)
    # What was pre-trained in minutes tells even unlike pictures apart only after some hundred steps of matching.
    hard_negative_warmup: float = field(default=0.9)
    save_strategy: str = field(default="no")
    logging_steps: float = field(default=20)
    report_to: str = field(default="none")
    dataloader_pin_memory: bool = field(default=torch.cuda.is_available())
    use_cpu: bool = field(default=not torch.cuda.is_available())
    bf16: bool = field(default=torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported())


def load_model(source: Source) -> tuple[SaclForImageTextRetrieval, SaclProcessor]:
    if not Path(source.model).exists() and source.model == Source.model:
        raise SystemExit(f"There is no {source.model} yet: run `python examples/pretrain.py` first, or give --model.")
    processor = AutoProcessor.from_pretrained(source.model)
    model = SaclForImageTextRetrieval.from_pretrained(source.model)
    if source.image_size is not None:
        processor.image_processor.size = {"height": source.image_size, "width": source.image_size}
        model.set_image_size(source.image_size)
    return model, processor


def load_data(source: Source) -> tuple[Dataset, dict[str, Dataset]]:
    """Training pairs, and the splits to test on."""
    if source.karpathy is None:
        return emoji_pairs("train"), {
            name: emoji_pairs(name) for name in ("test_unseen_composition", "test_unseen_concept")
        }
    if source.image_dir is None:
        raise SystemExit("--karpathy needs --image_dir, the folder of the images that it names")
    train, test = (load_karpathy(source.karpathy, source.image_dir, split) for split in ("train", "test"))
    return train, {"test": test}


def main() -> None:
    logging.set_verbosity_warning()
    source, args = HfArgumentParser((Source, FinetuneArguments)).parse_args_into_dataclasses()
    set_seed(args.seed)
    model, processor = load_model(source)
    train, tests = load_data(source)

    def report(title: str) -> None:
        for split, dataset in tests.items():
            print(f"\n{title}: {split}, {len(dataset):,} pictures")
            metrics = evaluate_retrieval(
                model,
                dataset,
                processor,
                batch_size=256 if source.karpathy is None else 64,
                rerank_top_k=source.rerank_top_k,
                relevance=EmojiRelevance(dataset) if source.karpathy is None else None,
                show_progress=not args.disable_tqdm and source.karpathy is not None,
            )
            print_metrics(metrics)

    report("Before")
    collator = None
    if source.karpathy is None:  # Emoji are on white.
        collator = PairCollator(processor, mlm_probability=0.0, max_length=16).for_training(fill=255, min_scale=0.6)
    trainer = SaclTrainer(model, args, data_collator=collator, train_dataset=train, processing_class=processor)
    trainer.train()
    trainer.save_model()
    if trainer.is_world_process_zero():
        report("After")
        print(f"\nThe model is in {args.output_dir}")


if __name__ == "__main__":
    main()
