# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Fine-tunes SACL to answer questions about images with the stock `Trainer`, and prints how often it is right.

    python examples/finetune_vqa.py --output_dir runs/vqa
    python examples/finetune_vqa.py --output_dir runs/vqa --model runs/demo/model

asks about the embedded emoji: which skin tone, who drew it, ... The answers are in the annotations; the test splits
show emoji that are not in the training data. It prints the accuracy of each kind of question beside that of the
commonest answer. Without `--model` a small model learns from random weights. Any option of TrainingArguments can be
given too.

On VQA v2 (https://visualqa.org/download.html, unpacked in one folder with the images of COCO) SACL's paper fine-tunes
its pre-trained base model for 8 epochs at 384 pixels, 1,024 questions a step, AdamW with weight decay 0.05 and a
cosine schedule, at a learning rate of 2e-5 and of 5e-6 in the image tower:

    accelerate launch --num_processes 8 examples/finetune_vqa.py --model user/sacl-model --vqa_dir vqa \\
        --output_dir sacl-vqa --image_size 384 --num_train_epochs 8 --per_device_train_batch_size 32 \\
        --gradient_accumulation_steps 4 --learning_rate 2e-5 --vision_learning_rate 5e-6 --use_cpu False --bf16 True \\
        --dataloader_num_workers 8 --activation_checkpointing True

The paper trains on the validation split too, and on questions of Visual Genome; here it is left for the test.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from demo import build_model, build_processor
from emoji import load_emoji
from transformers import AutoProcessor, HfArgumentParser, Trainer, TrainingArguments, logging, set_seed

from modeling_sacl import SaclForQuestionAnswering, SaclProcessor
from trainer import QuestionAnsweringCollator, evaluate_question_answering, frequent_answers, load_vqa


Rows = Sequence[Mapping[str, Any]]

TONES = ("none", "light", "medium-light", "medium", "medium-dark", "dark")
PEOPLE = ("person", "family")  # not hands and other parts
# What is asked, and the answer of a row; of pictures where it is empty, nothing is asked.
QUESTIONS = {
    "tone": ("which skin tone does it have?", lambda row: TONES[row["tone"]]),
    "gender": ("is it a man or a woman?", lambda row: row["gender"] if row["gender"] in ("man", "woman") else ""),
    "vendor": ("who drew it?", lambda row: row["vendor"]),
    "group": ("what kind of thing is it?", lambda row: row["group"].replace("-", " and ")),
    "people": ("does it show people?", lambda row: "yes" if row["subgroup"].startswith(PEOPLE) else "no"),
}


@dataclass
class Arguments(TrainingArguments):
    """[`TrainingArguments`] with the values that learn most about the emoji in two minutes on two cores."""

    output_dir: str = field(default="runs/vqa", metadata={"help": "Where the model is written."})
    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of a pre-trained model."})
    vqa_dir: str | None = field(default=None, metadata={"help": "Folder with the files and images of VQA v2."})
    image_size: int | None = field(default=None, metadata={"help": "Pixels, if other than in pre-training."})
    vision_learning_rate: float | None = field(default=None, metadata={"help": "Learning rate of the image tower."})
    num_train_epochs: float = field(default=1)
    per_device_train_batch_size: int = field(default=64)
    learning_rate: float = field(default=5e-4)
    weight_decay: float = field(default=0.05)
    lr_scheduler_type: str = field(default="cosine")
    warmup_steps: float = field(default=0.05)
    logging_steps: float = field(default=50)
    save_strategy: str = field(default="no")
    report_to: str = field(default="none")
    remove_unused_columns: bool = field(default=False)
    dataloader_pin_memory: bool = field(default=torch.cuda.is_available())
    use_cpu: bool = field(default=not torch.cuda.is_available())
    bf16: bool = field(default=torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported())


def emoji_questions(split: str) -> Rows:
    """Every picture of a split with every question that can be asked of it."""
    return [
        {"image": row["image"], "question": question, "answer": answer(row), "question_type": name}
        for row in load_emoji(split)
        for name, (question, answer) in QUESTIONS.items()
        if answer(row)
    ]


def vqa_questions(folder: str, subtype: str) -> Rows:
    return load_vqa(
        Path(folder) / f"v2_OpenEnded_mscoco_{subtype}_questions.json",
        Path(folder) / subtype,
        Path(folder) / f"v2_mscoco_{subtype}_annotations.json",
    )


def load_model(args: Arguments) -> tuple[SaclForQuestionAnswering, SaclProcessor]:
    if args.model is None:
        processor = build_processor(image_size=48)
        model = SaclForQuestionAnswering(build_model(processor).config)
    else:
        processor = AutoProcessor.from_pretrained(args.model)
        model = SaclForQuestionAnswering.from_pretrained(args.model)
    if args.image_size is not None:
        processor.image_processor.size = {"height": args.image_size, "width": args.image_size}
        model.set_image_size(args.image_size)
    if args.use_cpu:
        # With few image tokens and short texts, CPUs are faster without the fused attention kernels.
        model.set_attn_implementation("eager")
    tokenizer = processor.tokenizer
    model.generation_config.update(
        decoder_start_token_id=tokenizer.cls_token_id, eos_token_id=tokenizer.sep_token_id, max_new_tokens=10
    )
    return model, processor


def build_optimizer(model: SaclForQuestionAnswering, args: Arguments) -> torch.optim.Optimizer | None:
    """AdamW with a learning rate of its own for the image tower; nothing if there is one for all."""
    if args.vision_learning_rate is None:
        return None
    vision = list(model.sacl.vision_model.parameters())
    others = set(model.parameters()) - set(vision)
    groups = [{"params": vision, "lr": args.vision_learning_rate}, {"params": list(others)}]
    return torch.optim.AdamW(groups, lr=args.learning_rate, weight_decay=args.weight_decay)


def main() -> None:
    logging.set_verbosity_warning()
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    set_seed(args.seed)
    model, processor = load_model(args)
    collator = QuestionAnsweringCollator(processor)
    if args.vqa_dir is None:
        train = emoji_questions("train")
        tests = {name: emoji_questions(name) for name in ("test_unseen_composition", "test_unseen_concept")}
        # Not augmented: seen a few times, no picture is learned by heart, and a crop hides what is asked.
    else:
        train = vqa_questions(args.vqa_dir, "train2014")
        tests = {"val2014": vqa_questions(args.vqa_dir, "val2014")}
        collator = collator.for_training()
    answers = frequent_answers(train)
    print(f"{len(train):,} questions, {len(answers):,} answers to choose from, {model.num_parameters():,} parameters")

    trainer = Trainer(
        model,
        args,
        data_collator=collator,
        train_dataset=train,
        processing_class=processor,
        optimizers=(build_optimizer(model, args), None),
    )
    trainer.train()
    trainer.save_model()
    if trainer.is_world_process_zero():
        for split, rows in tests.items():
            metrics = evaluate_question_answering(
                model, rows, processor, answer_list=answers, show_progress=not args.disable_tqdm
            )
            if args.vqa_dir is None:
                report(split, rows, metrics)
            else:
                print(f"{split}: {metrics['accuracy']:.2f}, {metrics['accuracy_by_answer_type']}")
        print(f"\nThe model is in {args.output_dir}")


def report(split: str, rows: Rows, metrics: dict[str, Any]) -> None:
    """Accuracy beside that of the answer that is the commonest in this very split."""
    print(f"\n{split:26}{'questions':>12}{'commonest answer':>20}{'accuracy':>12}")
    given: dict[str, Counter[str]] = {}
    for row in rows:
        given.setdefault(row["question_type"], Counter())[row["answer"]] += 1
    for name, counts in given.items():
        commonest = 100 * counts.most_common(1)[0][1] / counts.total()
        accuracy = metrics["accuracy_by_question_type"][name]
        print(f"  {name:24}{counts.total():12,}{commonest:20.1f}{accuracy:12.1f}")
    commonest = 100 * sum(counts.most_common(1)[0][1] for counts in given.values()) / len(rows)
    print(f"  {'all':24}{len(rows):12,}{commonest:20.1f}{metrics['accuracy']:12.1f}")


if __name__ == "__main__":
    main()
