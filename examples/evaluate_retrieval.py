# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Image-text retrieval by a model, in both directions, with re-ranking by its matching head if it has one.

    python examples/evaluate_retrieval.py --model runs/demo/model --emoji test_unseen_concept --rerank_top_k 32

COCO and Flickr30k as papers report them, from Karpathy's JSON and a folder of images:

    python examples/evaluate_retrieval.py --model user/sacl-coco --karpathy dataset_coco.json \\
        --image_dir coco/images --rerank_top_k 256
    python examples/evaluate_retrieval.py --model user/sacl-flickr --karpathy dataset_flickr30k.json \\
        --image_dir flickr30k-images --rerank_top_k 128

Or any data set that `load_pairs` reads, on the Hub or on disk; `--filter` is for those that keep all splits in one:

    python examples/evaluate_retrieval.py --model openai/clip-vit-base-patch32 --dataset nlphuji/flickr30k \\
        --revision refs/convert/parquet --split test --filter split=test --pair_id_column img_id

A model fine-tuned on the training split of what it is tested on is not zero-shot: say so beside its numbers.
"""

import argparse
import json
from pathlib import Path

import torch
from datasets import Dataset
from emoji import SPLITS, EmojiRelevance, emoji_pairs
from transformers import AutoModel, AutoProcessor

from modeling_sacl import SaclConfig, SaclForImageTextRetrieval
from trainer import evaluate_retrieval, load_karpathy, load_pairs


def load(args: argparse.Namespace) -> Dataset:
    """The pairs that the arguments ask for."""
    if args.emoji:
        return emoji_pairs(args.emoji)
    if args.karpathy:
        return load_karpathy(args.karpathy, args.image_dir, args.split or "test")
    column, _, value = (args.filter or "").partition("=")
    pairs = load_pairs(
        args.dataset,
        split=args.split,
        revision=args.revision,
        pair_id_column=args.pair_id_column,
        keep_columns=[column] if column else [],
    )
    return pairs.filter(lambda found: found == value, input_columns=[column]) if column else pairs


def load_model(name: str, rerank: bool) -> torch.nn.Module:
    """A SACL model with its matching head where that is needed; else any dual encoder."""
    if not rerank:
        return AutoModel.from_pretrained(name)
    config = SaclConfig.from_pretrained(name)
    return SaclForImageTextRetrieval.from_pretrained(name, config=config)


def print_metrics(metrics: dict[str, float]) -> None:
    """One row for each way of ranking, in percent."""
    columns = [f"{direction}_{name}" for direction in ("image_to_text", "text_to_image") for name in
               ("recall@1", "recall@5", "recall@10", "ndcg@10")]  # fmt: skip
    print(f"{'':10}{'image to text':^40}{'text to image':^40}")
    print(f"{'':10}" + "".join(f"{name:>10}" for name in ("R@1", "R@5", "R@10", "nDCG@10") * 2))
    for title, prefix in (("cosine", ""), ("ITM", "itm_"), ("ITM + ITC", "itm_itc_")):
        if f"{prefix}{columns[0]}" in metrics:
            print(f"{title:10}" + "".join(f"{metrics[prefix + column]:10.1f}" for column in columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/model", help="folder or Hub id")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--emoji", choices=SPLITS, help="a split of the embedded emoji")
    source.add_argument("--karpathy", type=Path, help="JSON file in Karpathy's format")
    source.add_argument("--dataset", help="what `load_pairs` reads: Hub id, folder or file")
    parser.add_argument("--image_dir", type=Path, help="folder of the images that --karpathy names")
    parser.add_argument("--split", help="split of --karpathy (default: test) or --dataset")
    parser.add_argument("--revision", help="branch, tag or commit of --dataset on the Hub")
    parser.add_argument("--filter", help="COLUMN=VALUE: uses only those rows of --dataset")
    parser.add_argument("--pair_id_column", help="column of --dataset that says which rows belong together")
    parser.add_argument("--rerank_top_k", type=int, default=0, help="candidates that the matching head looks at")
    parser.add_argument("--batch_size", type=int, default=64, help="images or texts in the towers at a time")
    parser.add_argument("--output", type=Path, help="JSON file to write all metrics to")
    args = parser.parse_args()
    if args.karpathy and not args.image_dir:
        parser.error("--karpathy needs --image_dir, the folder of the images that it names")

    dataset = load(args)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    metrics = evaluate_retrieval(
        load_model(args.model, rerank=args.rerank_top_k > 0).to(device),
        dataset,
        AutoProcessor.from_pretrained(args.model),
        batch_size=args.batch_size,
        rerank_top_k=args.rerank_top_k,
        relevance=EmojiRelevance(dataset) if args.emoji else None,
    )
    print(f"{args.model}: {len(dataset):,} rows")
    print_metrics(metrics)
    if args.output:
        args.output.write_text(json.dumps(metrics, indent=2))
        print(f"All metrics are in {args.output}")


if __name__ == "__main__":
    main()
