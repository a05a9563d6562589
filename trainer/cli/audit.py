# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Looks for likely false negatives (images and texts of different pairs that are as alike as true pairs) and for
nearly identical images and texts. Writes a table, a Parquet file, a summary, and a gallery to look at."""

from dataclasses import dataclass
from typing import Any

from .arguments import option
from .output import Output
from .sources import ModelArguments, PairArguments


EXAMPLES = """
  # With the model that was trained on the pairs, or any other that knows them.
  sacl audit --model runs/demo/model --dataset examples/data/emoji --split train --pair_id_column emoji_id \\
      --output_dir audit

  # Fewer and surer: more alike than nine in ten true pairs.
  sacl audit --model openai/clip-vit-base-patch32 --dataset user/catalogue --split train --positive_quantile 0.9

  # Duplicate texts alone, by a text encoder.
  sacl audit --model sentence-transformers/all-MiniLM-L6-v2 --dataset user/catalogue --split train
"""


@dataclass
class AuditArguments:
    """What counts as alike, and what to write."""

    _argument_group_name = "audit"

    output_dir: str = option("folder for audit.parquet, audit.html and audit.json", "audit")
    positive_quantile: float = option("likely false negatives are more alike than this share of true pairs", 0.5)
    duplicate_quantile: float = option("duplicates are more alike than this share of harmless changes", 0.25)
    top_k: int = option("findings of each kind in the Parquet file; all are counted", 1000)
    gallery: int = option("findings of each kind in the gallery (0: no gallery)", 100)
    show: int = option("findings of each kind to print", 10)
    training_batch_sizes: list[int] = option("batch sizes to say for how many to expect", [64, 256, 1024, 4096])
    batch_size: int = option("images, or texts, in a tower at a time", 64)
    block_size: int = option("side of the largest block of similarities in memory", 1024)
    max_length: int | None = option("cut texts to so many tokens (by default what the model allows)", None)


def arguments() -> tuple[type, ...]:
    """The dataclasses of this command."""
    return ModelArguments, PairArguments, AuditArguments


def run(output: Output, model_source: ModelArguments, pair_source: PairArguments, options: AuditArguments) -> None:
    """Audits and reports."""
    from ..audit import audit_pairs
    from .loading import check_names, describe, is_writable_folder, open_pairs

    folder = is_writable_folder(options.output_dir)
    check_names(model_source, pair_source)
    pairs = open_pairs(pair_source)
    guide = _load_guide(model_source)
    output.say(f"{describe(pair_source)}: {len(pairs):,} rows; {model_source.model} on {guide.model.device}")
    report = audit_pairs(
        pairs,
        guide,
        positive_quantile=options.positive_quantile,
        duplicate_quantile=options.duplicate_quantile,
        top_k=options.top_k,
        batch_sizes=options.training_batch_sizes,
        max_length=options.max_length,
        batch_size=options.batch_size,
        block_size=options.block_size,
        show_progress=output.show_progress,
    )
    files = {"parquet": folder / "audit.parquet", "summary": folder / "audit.json"}
    report.to_parquet(files["parquet"])
    report.to_json(files["summary"])
    if options.gallery:
        files["gallery"] = folder / "audit.html"
        report.to_html(files["gallery"], options.gallery)
    document = {**report.summary, "suggestions": report.suggestions(), "files": files}
    written = ", ".join(str(file) for file in files.values())
    output.result(f"{report.to_text(options.show)}\n\nWritten: {written}", document)


def _load_guide(source: ModelArguments) -> Any:
    """Any model that embeds images, texts or both."""
    import torch
    from transformers import AutoModel, AutoProcessor

    from ..guide import Guide
    from .loading import check_model_name, find_device

    check_model_name(source.model)
    options = {"revision": source.model_revision, "trust_remote_code": source.trust_remote_code}
    model = AutoModel.from_pretrained(source.model, dtype=getattr(torch, source.dtype), **options)
    processor = AutoProcessor.from_pretrained(source.model, **options)
    return Guide(model.to(find_device(source.device)).eval(), processor)
