# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""How a model and pairs are named on the command line."""

from dataclasses import dataclass

from .arguments import option


@dataclass
class ModelArguments:
    """A trained model."""

    _argument_group_name = "model"

    model: str = option("folder or Hub id of a model: SACL, CLIP, SigLIP and other dual encoders")
    model_revision: str | None = option("branch, tag or commit of the model on the Hub", None)
    trust_remote_code: bool = option("run code that lies beside the model; needed for models that are not ours", False)
    device: str | None = option("where to compute: cpu, cuda, cuda:1 ... (by default a GPU if there is one)", None)
    dtype: str = option("precision of the weights", "float32", choices=["float32", "bfloat16", "float16"])


@dataclass
class PairArguments:
    """Pairs of images and captions."""

    _argument_group_name = "pairs"

    dataset: str = option(
        "Hub id, folder, file (tar, Parquet, JSON, CSV, TSV, Arrow), or pattern such as '{00..31}.tar'"
    )
    split: str | None = option("its split; needed if it has several", None)
    dataset_name: str | None = option("its configuration", None)
    dataset_revision: str | None = option("branch, tag or commit of the data set on the Hub", None)
    image_column: str = option("its column of images", "image")
    caption_columns: list[str] | None = option(
        "its columns of captions (default: the first that looks like one)", None
    )
    pair_id_column: str | None = option("its column that says which rows belong together", None)
    image_dir: str | None = option("folder of the images that a file names (default: that of the file)", None)
    language: list[str] | None = option("which languages of a column that holds captions by language", None)
    prompt: str | None = option("what becomes of a caption, such as 'a photo of a {caption}'", None)
    max_rows: int | None = option("use only so many rows, the first", None)
    follow_links: bool = option("let a folder have links to what is outside of it", False)
