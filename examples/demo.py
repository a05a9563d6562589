# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Pre-trains a small SACL model from scratch on 8,072 emoji pairs, measures it, and shows what it finds.

    python examples/demo.py --output_dir runs/demo

Any option of SaclTrainingArguments can be given too: `--objective infonce`, `--seed 1`, `--max_steps 100` ...
In the output folder: model/ (loads with `AutoModel.from_pretrained`, with its card), metrics.json, curves.png,
found_*.png.
"""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from emoji import DATA_DIR, EmojiRelevance, emoji_pairs
from transformers import BertTokenizer, BlipImageProcessor, HfArgumentParser, logging, set_seed

from hub_cards import EvaluationResult, plot_retrieval_grid, plot_training_curves, write_model_card
from modeling_sacl import SaclConfig, SaclForPreTraining, SaclProcessor
from trainer import (
    PairCollator,
    SaclSearcher,
    SaclTrainer,
    SaclTrainingArguments,
    chance_retrieval_metrics,
    embed_dataset,
    embed_pairs,
    evaluate_retrieval,
)
from trainer.run_facts import collect_facts


VOCABULARY = Path(__file__).parent / "data" / "emoji_vocabulary.txt"
TEST_SPLITS = ("test_unseen_composition", "test_unseen_concept")


@dataclass
class DemoArguments(SaclTrainingArguments):
    """[`SaclTrainingArguments`] with the values that learn most in a few minutes on two cores."""

    output_dir: str = field(default="runs/demo", metadata={"help": "Where everything is written."})
    num_train_epochs: float = field(default=16)
    per_device_train_batch_size: int = field(default=128)
    per_device_eval_batch_size: int = field(default=256)
    learning_rate: float = field(default=1e-3)
    weight_decay: float = field(default=0.1)
    adam_beta2: float = field(default=0.98)
    momentum: float | None = field(default=0.98)
    # Matching takes longer to leave its prior from random weights; the contrast makes better use of the time.
    itm_weight: float = field(default=0.0)
    eval_strategy: str = field(default="steps")
    eval_steps: float = field(default=0.125)
    save_strategy: str = field(default="no")
    logging_steps: float = field(default=20)
    report_to: str = field(default="none")
    dataloader_pin_memory: bool = field(default=False)
    use_cpu: bool = field(default=not torch.cuda.is_available())
    bf16: bool = field(default=torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported())
    log_level: str = field(default="warning")

    patch_size: int = field(default=12, metadata={"help": "Pixels along the side of a patch; images have 48."})

    # Patch selection (TRIPS).
    patch_keep_rate: float = field(default=1.0, metadata={"help": "Share of the patches that selecting layers keep."})
    patch_selection_guide: str = field(default="image", metadata={"help": "What ranks the patches: image or text."})
    patch_fusion_token: bool = field(default=True, metadata={"help": "Fuse dropped patches into one token."})


def build_processor(image_size: int) -> SaclProcessor:
    """An image processor, and a tokenizer with the word pieces of the emoji texts: nothing is downloaded."""
    pieces = VOCABULARY.read_text(encoding="utf-8").splitlines()
    tokenizer = BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, model_max_length=32)
    image_processor = BlipImageProcessor(size={"height": image_size, "width": image_size})
    return SaclProcessor(image_processor, tokenizer)


def build_model(processor: SaclProcessor, patch_size: int = 12) -> SaclForPreTraining:
    """A SACL model of 2 million parameters."""
    # BERT's initial weights, of deviation 0.02, are made for 768 dimensions; in 128 they carry next to no signal.
    width = {
        "hidden_size": 128,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "initializer_range": 128**-0.5,
    }
    config = SaclConfig(
        text_config={
            "model_type": "bert",
            "vocab_size": len(processor.tokenizer),
            "num_hidden_layers": 2,
            "max_position_embeddings": 64,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.0,
            **width,
        },
        vision_config={
            "image_size": processor.image_processor.size["height"],
            "patch_size": patch_size,
            "num_hidden_layers": 4,
            **width,
        },
        fusion_encoder_config={"num_hidden_layers": 1, **width},
        projection_dim=128,
    )
    model = SaclForPreTraining(config)
    # With 17 image tokens and short texts, CPUs are twice as fast without the fused attention kernels.
    model.set_attn_implementation("eager")
    return model


def evaluate_splits(model: SaclForPreTraining, processor: SaclProcessor) -> dict[str, dict[str, float]]:
    """Retrieval metrics of every test split, with graded relevance."""
    return {
        split: evaluate_retrieval(
            model, dataset, processor, batch_size=256, relevance=EmojiRelevance(dataset), show_progress=False
        )
        for split in TEST_SPLITS
        for dataset in [emoji_pairs(split)]
    }


def chance(split: str, model: SaclForPreTraining, processor: SaclProcessor) -> dict[str, float]:
    embeddings = embed_pairs(model, emoji_pairs(split), processor, show_progress=False)
    return chance_retrieval_metrics(embeddings.image_ids, embeddings.text_ids)


def print_table(results: dict[str, dict[str, dict[str, float]]]) -> None:
    columns = {
        "text to image recall@10": "text_to_image_recall@10",
        "image to text recall@10": "image_to_text_recall@10",
        "text to image nDCG@10": "text_to_image_ndcg@10",
    }
    print(f"\n{'split':26}{'':12}" + "".join(f"{title:>26}" for title in columns))
    for split in TEST_SPLITS:
        for name, by_split in results.items():
            values = [by_split[split].get(metric) for metric in columns.values()]
            print(f"{split:26}{name:12}" + "".join(f"{'':>26}" if v is None else f"{v:26.1f}" for v in values))


def main() -> None:
    logging.set_verbosity_warning()
    (args,) = HfArgumentParser(DemoArguments).parse_args_into_dataclasses()
    output_dir = Path(args.output_dir)
    set_seed(args.seed)

    train = emoji_pairs("train")
    processor = build_processor(image_size=48)
    model = build_model(processor, args.patch_size)
    model.set_patch_selection(
        keep_rate=args.patch_keep_rate, guide=args.patch_selection_guide, fusion_token=args.patch_fusion_token
    )
    print(f"{len(train):,} pairs, {model.num_parameters():,} parameters, objective {args.objective}")

    results = {
        "chance": {split: chance(split, model, processor) for split in TEST_SPLITS},
        "untrained": evaluate_splits(model, processor),
    }
    trainer = SaclTrainer(
        model,
        args,
        data_collator=PairCollator(processor, max_length=16).for_training(fill=255, min_scale=0.6),
        train_dataset=train,
        eval_dataset=emoji_pairs("validation"),
        processing_class=processor,
        eval_relevance=EmojiRelevance,
    )
    outcome = trainer.train()
    trainer.save_model(str(output_dir / "model"))
    results["trained"] = evaluate_splits(model, processor)

    report = {"seed": args.seed, "objective": args.objective, "train": outcome.metrics, **results}
    report["validation"] = trainer.evaluate()
    (output_dir / "metrics.json").write_text(json.dumps(report, indent=2))
    write_card(trainer, output_dir / "model", report)
    plot_training_curves(trainer.state.log_history, output_dir / "curves.png")
    searches = {split: searcher_of(model, processor, split, output_dir / "embeddings") for split in TEST_SPLITS}
    for split, search in searches.items():
        draw_found(search, split, output_dir / f"found_{split}.png")

    print_table(results)
    print(
        f"\nTraining took {outcome.metrics['train_runtime']:.0f} s. In {output_dir}: model/, metrics.json, curves.png,"
    )
    print("found_*.png (what eight texts of each test split find). The model loads anywhere with\n")
    print("    from transformers import AutoModel, AutoProcessor")
    print(f'    model = AutoModel.from_pretrained("{output_dir}/model", trust_remote_code=True)')
    print(f'    processor = AutoProcessor.from_pretrained("{output_dir}/model", trust_remote_code=True)\n')
    print(f"Its card is {output_dir}/model/README.md. Try it in a browser:")
    print(f"    sacl demo --model {output_dir}/model --dataset examples/data/emoji --split validation\n")
    if sys.stdin.isatty():
        answer_queries(searches["test_unseen_concept"], output_dir / "your_query.png")
    else:
        print(f'Ask it yourself: python examples/search.py --model {output_dir}/model --query "a yellow face"')


def write_card(trainer: SaclTrainer, folder: Path, report: dict) -> None:
    """The model's card, with what only we know: what it is called, its licence and data, and its test results."""
    facts = collect_facts(trainer, model_name="sacl-emoji", language="en", license="apache-2.0", dataset=str(DATA_DIR))
    pairs = facts.train_datasets[0]
    for split, metrics in report["trained"].items():
        facts.results.append(EvaluationResult(replace(pairs, split=split, rows=None), metrics))
    write_model_card(folder, facts)


def searcher_of(model: SaclForPreTraining, processor: SaclProcessor, split: str, cache_dir: Path) -> SaclSearcher:
    embedded = embed_dataset(model, emoji_pairs(split), processor, cache_dir=cache_dir, show_progress=False)
    return SaclSearcher(model, processor, embedded)


def draw_found(search: SaclSearcher, split: str, path: Path, num_queries: int = 8) -> None:
    """Draws what some texts of the split find, not chosen but evenly spaced, and how relevant each image is."""
    rows = list({caption: row for row, caption in enumerate(search.dataset["caption"])}.values())
    rows = rows[:: len(rows) // num_queries][:num_queries]
    queries = [search.dataset[row]["caption"] for row in rows]
    found = search.search_images(queries)
    relevance = EmojiRelevance(search.dataset)
    grades = [
        relevance(torch.tensor([image for image, _ in results]), torch.tensor([row]))[:, 0].tolist()
        for row, results in zip(rows, found, strict=True)
    ]
    images = [[row["image"] for row in search.rows(results)] for results in found]
    title = f"What eight texts find in {split} (green: right, amber: related)"
    plot_retrieval_grid(queries, images, path, grades=grades, title=title)


def answer_queries(search: SaclSearcher, path: Path) -> None:
    """Asks for texts until an empty line, and shows what each finds."""
    while query := input("What are you looking for? (Enter alone ends) ").strip():
        found = search.search_images(query)
        for row, cosine in found:
            print(f"  {cosine:.3f}  {search.dataset[row]['caption']}")
        plot_retrieval_grid([query], [[row["image"] for row in search.rows(found)]], path)
        print(f"  The images are in {path}")


if __name__ == "__main__":
    main()
