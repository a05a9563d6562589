# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Shows where in an image the words of a text are, or several texts.

    python examples/ground.py --model user/sacl-model --image street.jpg --text "the red bus behind the tree"
    python examples/ground.py --model runs/mosaics/model --emoji "red heart" "blue heart" "blue square" "dog" \\
        --text "blue heart" "blue square"

Needs a model with a matching head that was trained (for the second line, by `examples/mosaics.py`; `examples/demo.py`
trains contrast and masked words only) and with two fusion layers at least. Writes a picture with a panel for each
text, and for each word if there is one text. Prints how high each map is beside the highest: what has a few percent is
found nowhere, however bright a spot its panel has.
"""

import argparse
from pathlib import Path

from mosaics import find_emoji, mosaic
from transformers import AutoModelForPreTraining, AutoProcessor

import modeling_sacl  # noqa: F401  (registers the Auto classes)
from hub_cards import plot_grounding
from trainer import best_point, ground_texts
from trainer.data import decode_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/mosaics/model", help="folder or Hub id of a model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image", help="path or URL of an image")
    source.add_argument("--emoji", nargs="+", metavar="NAME", help="names of emoji, laid out as a mosaic")
    parser.add_argument("--text", nargs="+", required=True, help="one or more texts to look for")
    parser.add_argument("--layer", type=int, help="layer of the fusion encoder, from 1; by default the middle one")
    parser.add_argument("--output", type=Path, default=Path("grounding.png"), help="where to write the picture")
    args = parser.parse_args()

    image = decode_image(args.image) if args.image else mosaic([find_emoji(name) for name in args.emoji])[0]
    model = AutoModelForPreTraining.from_pretrained(args.model)
    processor = AutoProcessor.from_pretrained(args.model)
    found = ground_texts(model, processor, [image] * len(args.text), args.text, layer=args.layer)

    names = list(args.text)
    maps = [grounding.text_map for grounding in found]
    if len(found) == 1:
        names += found[0].words
        maps += found[0].word_maps
    for text, grounding in zip(args.text, found, strict=True):
        print(f"{grounding.match_probability:.0%} match: {text}")
    highest = max(map.max().item() for map in maps) or 1.0
    for name, map in zip(names, maps, strict=True):
        x, y = best_point(map, (image.height, image.width))
        print(f"{map.max().item() / highest:5.0%}  highest at x {x:3.0f}, y {y:3.0f}: {name}")
    plot_grounding(image, names, maps, args.output)
    print(f"The picture is in {args.output}")


if __name__ == "__main__":
    main()
