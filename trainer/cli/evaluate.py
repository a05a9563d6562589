# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Measures how well a model finds the texts of images and the images of texts: recall, nDCG and ranks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .arguments import option
from .output import Output, table
from .sources import ModelArguments, PairArguments


EXAMPLES = """
  # A model of ours on a split of a data set; rows of one emoji_id are right answers to one another.
  sacl evaluate --model runs/demo/model --dataset examples/data/emoji --split test_unseen_concept \\
      --pair_id_column emoji_id

  # COCO as papers report it: embeddings find 256 candidates, the matching head puts them in order.
  sacl evaluate --model user/sacl-coco --dataset dataset_coco.json --image_dir coco/images --rerank_top_k 256

  # One number for a script.
  sacl evaluate --model clip-catalogue --dataset user/catalogue --split test --json \\
      | jq '.metrics["text_to_image_recall@1"]'
"""


@dataclass
class EvaluateArguments:
    """How to measure."""

    _argument_group_name = "evaluation"

    rerank_top_k: int = option("candidates that the matching head looks at for each query: 0, or 10 and more", 0)
    ks: list[int] = option("cut-offs of recall", [1, 5, 10])
    batch_size: int = option("images, or texts, in a tower at a time", 64)
    max_length: int | None = option("cut texts to so many tokens (by default what the model allows)", None)
    output: str | None = option("JSON file to write all metrics to", None)


def arguments() -> tuple[type, ...]:
    """The dataclasses of this command."""
    return ModelArguments, PairArguments, EvaluateArguments


def run(output: Output, model_source: ModelArguments, pair_source: PairArguments, options: EvaluateArguments) -> None:
    """Measures and reports."""
    from ..evaluation import evaluate_retrieval
    from .loading import check_names, describe, load_model_and_processor, open_pairs

    check_names(model_source, pair_source)
    pairs = open_pairs(pair_source)
    model, processor = load_model_and_processor(model_source, "matching" if options.rerank_top_k else "none")
    output.say(f"{describe(pair_source)}: {len(pairs):,} rows; {model_source.model} on {model.device}")
    metrics = evaluate_retrieval(
        model,
        pairs,
        processor,
        batch_size=options.batch_size,
        rerank_top_k=options.rerank_top_k,
        ks=options.ks,
        max_length=options.max_length,
        show_progress=output.show_progress,
    )
    document = {
        "model": model_source.model,
        "dataset": pair_source.dataset,
        "split": pair_source.split,
        "rows": len(pairs),
        "metrics": metrics,
    }
    output.result(metrics_table(metrics, options.ks), document)
    if options.output is not None:
        Output.write(Path(options.output), document)
        output.say(f"All metrics are in {options.output}")


def metrics_table(metrics: dict[str, float], ks: list[int]) -> str:
    """A row for each direction and way of ranking; recall and nDCG in percent."""
    names = [*(f"recall@{k}" for k in ks), "ndcg@10", "median_rank"]
    rows: list[list[Any]] = [["", *(f"R@{k}" for k in ks), "nDCG@10", "median rank"]]
    for title, prefix in (("", ""), (", ITM", "itm_"), (", ITM + ITC", "itm_itc_")):
        for direction in ("text_to_image", "image_to_text"):
            if f"{prefix}{direction}_{names[0]}" in metrics:
                row = [metrics[f"{prefix}{direction}_{name}"] for name in names]
                rows.append([direction.replace("_", " ") + title, *row])
    return table(rows)
