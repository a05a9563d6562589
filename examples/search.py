# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Finds the images of a data set that a text describes.

    python examples/search.py --model runs/demo/model --query "a woman with dark skin" "yellow face"

Writes the images found as a picture and prints their captions and cosines.
"""

import argparse
from pathlib import Path

import torch
from emoji import SPLITS, emoji_pairs
from PIL import Image
from transformers import AutoModel, AutoProcessor

import modeling_sacl  # noqa: F401  (registers the Auto classes)
from hub_cards import plot_retrieval_grid
from trainer import embed_pairs


class ImageSearch:
    """
    The images of a data set, embedded once, and searched by text.

    Args:
        model: a dual encoder with `get_text_features` and `get_image_features`.
        processor: its processor.
        dataset ([`~datasets.Dataset`]): rows with `image` and `caption`.
    """

    def __init__(self, model, processor, dataset):
        self.model, self.processor, self.dataset = model.eval(), processor, dataset
        embeddings = embed_pairs(model, dataset, processor)
        self.image_embeds, self.image_rows = embeddings.image_embeds, embeddings.image_rows

    @torch.inference_mode()
    def __call__(self, query: str, k: int = 10) -> list[tuple[int, float]]:
        """The rows of the `k` best images, best first, with their cosines."""
        inputs = self.processor(text=[query], return_tensors="pt")
        text_embeds = self.model.get_text_features(**inputs).pooler_output
        cosines = torch.nn.functional.normalize(text_embeds, dim=-1)[0] @ self.image_embeds.T
        best = cosines.topk(min(k, len(cosines)))
        return list(zip(self.image_rows[best.indices].tolist(), best.values.tolist(), strict=True))

    def images(self, found: list[tuple[int, float]]) -> list[Image.Image]:
        return [self.dataset[row]["image"] for row, _ in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/model", help="folder or Hub id of a model")
    parser.add_argument("--split", default="test_unseen_concept", choices=SPLITS, help="emoji split to search")
    parser.add_argument("--query", nargs="+", required=True, help="one or more texts")
    parser.add_argument("-k", type=int, default=10, help="how many images to show for each text")
    parser.add_argument("--output", type=Path, default=Path("found.png"), help="where to write the picture")
    args = parser.parse_args()

    search = ImageSearch(
        AutoModel.from_pretrained(args.model), AutoProcessor.from_pretrained(args.model), emoji_pairs(args.split)
    )
    found = [search(query, args.k) for query in args.query]
    for query, results in zip(args.query, found, strict=True):
        print(query)
        for row, cosine in results:
            print(f"  {cosine:.3f}  {search.dataset[row]['caption']}")
    plot_retrieval_grid(args.query, [search.images(results) for results in found], args.output)
    print(f"The images are in {args.output}")


if __name__ == "__main__":
    main()
