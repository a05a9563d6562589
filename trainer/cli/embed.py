# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Embeds the images and captions of a data set into a folder that `sacl search` and [`SaclSearcher`] read.

It goes on where an interrupted run stopped, as long as data set and model are the same."""

from dataclasses import dataclass

from .arguments import option
from .errors import UsageError
from .output import Output
from .sources import ModelArguments, PairArguments


EXAMPLES = """
  # A folder of pictures with their captions in metadata.jsonl; broken pictures are left out and counted.
  sacl embed --model openai/clip-vit-base-patch32 --dataset photos --output_dir photos-index --on_error skip

  # Images without captions.
  sacl embed --model user/sacl-catalogue --dataset user/catalogue --split train --output_dir index --images_only

  # An approximate index for millions of rows.
  sacl embed --model user/sacl-catalogue --dataset user/catalogue --split train --output_dir index --index HNSW32
"""


@dataclass
class EmbedArguments:
    """What to embed, and where to."""

    _argument_group_name = "embeddings"

    output_dir: str = option("folder to write data set, embeddings and indexes to; what is there is replaced")
    images_only: bool = option("embed images, but no captions", False)
    texts_only: bool = option("embed captions, but no images", False)
    batch_size: int = option("rows in a forward pass", 64)
    max_length: int | None = option("cut texts to so many tokens (by default what the model allows)", None)
    on_error: str = option(
        "at a row that cannot be embedded: stop, or leave it out", "raise", choices=["raise", "skip"]
    )
    index: str | None = option("FAISS index in the words of its factory, such as HNSW32 (exact by default)", None)
    keep_columns: list[str] | None = option("further columns of the data set to keep", None)
    cache_dir: str | None = option("where embeddings are kept for resuming (default: the cache of datasets)", None)


def arguments() -> tuple[type, ...]:
    """The dataclasses of this command."""
    return ModelArguments, PairArguments, EmbedArguments


def run(output: Output, model_source: ModelArguments, pair_source: PairArguments, options: EmbedArguments) -> None:
    """Embeds, indexes and saves."""
    from ..search import FaissEngine, SaclSearcher, embed_dataset
    from .loading import check_names, describe, is_writable_folder, load_model_and_processor, open_pairs

    if options.images_only and options.texts_only:
        raise UsageError("--images_only and --texts_only leave nothing to embed: give one of them.")
    FaissEngine(options.index)  # What is not installed is missed before everything is embedded.
    folder = is_writable_folder(options.output_dir)
    check_names(model_source, pair_source)
    pairs = open_pairs(pair_source, keep_columns=tuple(options.keep_columns or ()))
    model, processor = load_model_and_processor(model_source)
    output.say(f"{describe(pair_source)}: {len(pairs):,} rows; {model_source.model} on {model.device}")
    embedded = embed_dataset(
        model,
        pairs,
        processor,
        images=not options.texts_only,
        texts=not options.images_only,
        max_length=options.max_length,
        batch_size=options.batch_size,
        on_error=options.on_error,
        cache_dir=options.cache_dir,
        show_progress=output.show_progress,
    )
    searcher = SaclSearcher(model, processor, embedded, string_factory=options.index, max_length=options.max_length)
    searcher.save_pretrained(folder)
    columns = list(searcher.engines)
    document = {
        "folder": str(folder),
        "rows": len(embedded),
        "skipped": len(pairs) - len(embedded),
        "columns": columns,
    }
    skipped = f", {document['skipped']:,} left out" if document["skipped"] else ""
    output.result(
        f"{len(embedded):,} rows{skipped} with {' and '.join(columns)} are in {folder}\n"
        f'Search them: sacl search {folder} "..."',
        document,
    )
