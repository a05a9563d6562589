# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Finds the images of a data set that a text describes, that resemble an image, or both.

    python examples/search.py --model runs/demo/model --query "a woman with dark skin" "yellow face"
    python examples/search.py --model runs/demo/model --image cat.png
    python examples/search.py --model runs/demo/model --image cat.png --query "with heart eyes"

Writes the images found as a picture and prints their captions and cosines.
"""

import argparse
from pathlib import Path

from emoji import SPLITS, emoji_pairs
from transformers import AutoModel, AutoProcessor

import modeling_sacl  # noqa: F401  (registers the Auto classes)
from hub_cards import plot_retrieval_grid
from trainer import SaclSearcher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/model", help="folder or Hub id of a model")
    parser.add_argument("--split", default="test_unseen_concept", choices=SPLITS, help="emoji split to search")
    parser.add_argument("--query", nargs="+", default=[], help="one or more texts")
    parser.add_argument("--image", type=Path, help="an image that the images found should resemble")
    parser.add_argument("-k", type=int, default=10, help="how many images to show for each query")
    parser.add_argument("--output", type=Path, default=Path("found.png"), help="where to write the picture")
    args = parser.parse_args()
    if not args.query and args.image is None:
        parser.error("give --query, --image, or both")

    searcher = SaclSearcher(
        AutoModel.from_pretrained(args.model), AutoProcessor.from_pretrained(args.model), emoji_pairs(args.split)
    )
    queries = args.query or [args.image.name]
    if args.image is None:
        found = searcher.search_images(args.query, args.k)
    elif args.query:
        found = searcher.search_composed([args.image] * len(args.query), args.query, args.k)
    else:
        found = [searcher.search_similar_images(args.image, args.k)]
    for query, results in zip(queries, found, strict=True):
        print(query)
        for row, cosine in results:
            print(f"  {cosine:.3f}  {searcher.dataset[row]['caption']}")
    pictures = [[row["image"] for row in searcher.rows(results)] for results in found]
    plot_retrieval_grid(queries, pictures, args.output)
    print(f"The images are in {args.output}")


if __name__ == "__main__":
    main()
