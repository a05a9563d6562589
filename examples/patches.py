# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Draws which patches of an image the layers of the image tower keep (TRIPS), chosen by the image or by a text.

    python examples/patches.py --model runs/demo/model --keep_rate 0.5
    python examples/patches.py --model runs/demo/model --keep_rate 0.5 --guide text --rows 0 200 400
    python examples/patches.py --model user/sacl-model --image street.jpg --guide text --text "a red bus"

Patch selection has no parameters: any SACL checkpoint can be asked, trained with it or not. Needs matplotlib.
"""

import argparse
import io
from pathlib import Path

from emoji import SPLITS, emoji_pairs
from PIL import Image
from transformers import AutoModel, AutoProcessor

import modeling_sacl  # noqa: F401  (registers the Auto classes)
from hub_cards import visualize_patch_selection


def draw(model, processor, image: Image.Image, text: str | None) -> Image.Image:
    """The figure of one image, as an image."""
    buffer = io.BytesIO()
    visualize_patch_selection(model, processor, image, text).savefig(buffer, format="png", dpi=80)
    return Image.open(buffer).convert("RGB")


def stack(pictures: list[Image.Image]) -> Image.Image:
    """One below the other."""
    whole = Image.new("RGB", (max(picture.width for picture in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/model", help="folder or Hub id of a SACL model")
    parser.add_argument("--image", type=Path, nargs="+", help="image files, in place of the emoji")
    parser.add_argument("--text", help="what chooses with --guide text; of emoji, their names by default")
    parser.add_argument("--split", default="test_unseen_composition", choices=SPLITS, help="emoji split to draw from")
    parser.add_argument("--rows", type=int, nargs="+", default=[0, 150, 300], help="its rows")
    parser.add_argument("--guide", choices=("image", "text"), help="who chooses; as the model is set by default")
    parser.add_argument("--keep_rate", type=float, help="share that a layer keeps; as the model is set by default")
    parser.add_argument("--layers", type=int, nargs="+", help="layers that select; as the model is set by default")
    parser.add_argument("--output", type=Path, default=Path("patches.png"), help="where to write the picture")
    args = parser.parse_args()

    model, processor = AutoModel.from_pretrained(args.model).eval(), AutoProcessor.from_pretrained(args.model)
    given = {"guide": args.guide, "keep_rate": args.keep_rate, "layers": args.layers}
    model.set_patch_selection(**{name: value for name, value in given.items() if value is not None})
    by_text = model.config.vision_config.patch_selection_guide == "text"
    if args.image:
        shown = [(Image.open(path).convert("RGB"), args.text) for path in args.image]
    else:
        rows = emoji_pairs(args.split).select(args.rows)
        shown = [(row["image"], args.text or row["caption"]) for row in rows]
    if by_text and any(text is None for _, text in shown):
        parser.error("the text chooses the patches: give it by --text")
    stack([draw(model, processor, image, text if by_text else None) for image, text in shown]).save(args.output)
    print(f"The picture is in {args.output}")


if __name__ == "__main__":
    main()
