# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Opens a page on which a model can be tried: searching by text, by image and by both, words found in images, and why
some negatives are spared. Or writes the same page as a folder that can be pushed as a Space."""

from dataclasses import asdict, dataclass
from typing import Any

from .arguments import option
from .output import Output


EXAMPLES = """
  # On this machine; Ctrl-C ends it.
  sacl demo --model runs/demo/model --dataset examples/data/emoji --split validation --inbrowser

  # For others in the network, on 2,000 rows.
  sacl demo --model user/sacl-catalogue --dataset user/catalogue --max_rows 2000 --server_name 0.0.0.0

  # As a Space.
  sacl demo --model user/sacl-catalogue --dataset user/catalogue --max_rows 2000 --write_space page
  sacl push page user/catalogue-page
"""


@dataclass
class DemoArguments:
    """What to show, and where."""

    _argument_group_name = "page"

    model: str = option("folder or Hub id of a model")
    dataset: str = option("Hub id, folder or file of images, with captions or without")
    split: str | None = option("its split (by default test, validation, or the first)", None)
    image_column: str = option("its column of images", "image")
    caption_columns: list[str] | None = option("its columns of captions", None)
    max_rows: int | None = option("show so many rows only", None)
    model_revision: str | None = option("branch, tag or commit of the model on the Hub", None)
    dataset_revision: str | None = option("branch, tag or commit of the data set on the Hub", None)
    title: str = option("heading of the page", "Pictures and words")
    examples: list[str] | None = option("texts to click on", None)
    server_name: str | None = option("address to listen on (by default only this machine can open the page)", None)
    server_port: int | None = option("port (by default the first free one from 7860)", None)
    inbrowser: bool = option("open the page in a browser", False)
    write_space: str | None = option("write a Space into this folder instead of opening the page", None)


def arguments() -> tuple[type, ...]:
    """The dataclasses of this command."""
    return (DemoArguments,)


def run(output: Output, options: DemoArguments) -> None:
    """Serves the page until it is interrupted, or writes it."""
    from .loading import check_dataset_name, check_model_name

    check_model_name(options.model)
    check_dataset_name(options.dataset)
    if options.write_space is not None:
        folder = _write(options, options.write_space)
        text = f"The Space is in {folder}. Try it: python {folder}/app.py. Push it: sacl push {folder} user/name"
        output.result(text, {"folder": str(folder)})
        return
    from hub_cards.space import launch

    settings = asdict(options)
    for name in ("model", "dataset", "write_space"):
        del settings[name]
    page = launch(options.model, options.dataset, **settings)
    output.result("", {"url": getattr(page, "local_url", None)})


def _write(options: DemoArguments, folder: str) -> Any:
    from hub_cards.space import write_space

    return write_space(
        folder,
        options.model,
        options.dataset,
        title=options.title,
        split=options.split,
        image_column=options.image_column,
        caption_columns=options.caption_columns,
        max_rows=options.max_rows,
        model_revision=options.model_revision,
        dataset_revision=options.dataset_revision,
        examples=options.examples,
    )
