# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Makes the pictures of docs/space.md: the page with a trained model, as a browser shows it.

    python -m tests.hub_cards.space_pictures --model runs/demo/model

Needs Chromium and its driver. `make demo` trains the model.
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image

from examples.emoji import emoji_pairs
from hub_cards.space import build_app, load_model

from .space_visitor import Visitor, start_browser


def shrink(path: Path) -> None:
    """A palette is enough for a page, and makes a small file."""
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/model", help="folder or Hub id of a model")
    parser.add_argument("--split", default="validation", help="emoji split to search")
    parser.add_argument("--query", default="woman with dark skin tone", help="what to look for")
    parser.add_argument("--anchor", type=int, default=100, help="row of the anchor whose negatives are shown")
    parser.add_argument("--output_dir", type=Path, default=Path("docs/pictures"), help="where to write the pictures")
    args = parser.parse_args()

    args.output_dir.mkdir(parents=True, exist_ok=True)
    model, processor = load_model(args.model, device="cpu")
    page = build_app(
        model, processor, emoji_pairs(args.split), title="Emoji by their names", dataset_name=f"emoji, {args.split}"
    )
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True)
    with tempfile.TemporaryDirectory() as profile:
        driver = start_browser(Path(profile), size=(1100, 1150))
        try:
            visitor = Visitor(driver, address, args.output_dir)
            visitor.open()
            visitor.write("find-images-query", args.query)
            visitor.answer("found-images")
            visitor.shot("search", whole=False)
            visitor.tab("False negatives")
            visitor.answer("weighed")
            visitor.set_number("Anchor (row)", args.anchor)
            visitor.until(lambda: f"Anchor, row {args.anchor}" in visitor.text_of("weighed"), "the anchor")
            visitor.shot("negatives", whole=False)
        finally:
            driver.quit()
            page.close(verbose=False)
    for name in ("search", "negatives"):
        shrink(args.output_dir / f"space_{name}.png")


if __name__ == "__main__":
    main()
