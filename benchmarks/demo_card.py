# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The card of the demonstration's model, with the spread over the seeds that were measured, as a page.

    make demo
    python benchmarks/demo_card.py --model runs/demo/model --output_dir docs/demo_model

Takes the facts that the model's folder remembers, adds what benchmarks/results/demo.json says of several seeds, and
writes the card and its pictures, without the model, into the output folder.
"""

import argparse
import json
import shutil
from pathlib import Path

from common import RESULTS

from hub_cards import CardFacts, merge_seeds, validate_card, write_model_card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/demo/model"), help="folder of the model")
    parser.add_argument("--output_dir", type=Path, default=Path("docs/demo_model"), help="where the card is written")
    args = parser.parse_args()

    facts = CardFacts.load(args.model)
    measured = json.loads((RESULTS / "demo.json").read_text())["runs"]["sacl"]
    over_seeds = {result.dataset.split: result.by_seed for result in merge_seeds(measured)}
    for result in facts.results:
        result.by_seed = over_seeds.get(result.dataset.split, {})
    # Its pictures are this card's too, since the facts of both are of one run.
    shutil.copytree(args.model / "card", args.output_dir / "card", dirs_exist_ok=True)
    card = write_model_card(args.output_dir, facts, draw=False)
    print(card)
    for problem in validate_card(card):
        print(f"- {problem}")


if __name__ == "__main__":
    main()
