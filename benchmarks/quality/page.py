# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The page of the benchmark: what was done, what came out, and how sure that is. Every number in it is computed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from comparison import REFERENCES, Row
from methods import METHODS, TRIALS, TUNING_SEED
from records import TEST_SPLITS, VALIDATION, Records
from report import SIGNIFICANT, comparison_table, origin, short, spread


TITLES = {
    VALIDATION: "Validation (it chose the settings: no evidence)",
    "test_unseen_composition": "Unseen compositions",
    "test_unseen_concept": "Unseen concepts",
}
METHOD_OF_THE_BENCHMARK = """
Two pre-trained towers, [EfficientNet-Lite0](https://huggingface.co/timm/tf_efficientnet_lite0.in1k) for the pictures
and [MiniLM](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2) for the texts, are locked. What is trained
are two heads of two layers each, and the temperature, by `SaclTrainer` on the 8,072 training pairs of
[the emoji](../../examples/data/emoji/README.md): 400 steps of 256 pairs. The emoji are full of false negatives whose
degree is known: variants of one emoji, emoji of one subgroup.

- Every objective chooses among {trials} settings on validation with the seed {tuning_seed}: two learning rates and two
  values of the parameter that matters most to it, or four learning rates if it has none. What is chosen is the highest
  mean of recall@1 and nDCG@10 of both directions.
- It is then trained with other seeds, and evaluated once on each test split.
- nDCG@10 is graded: a variant of the right emoji counts 0.5 or 0.75, one of its subgroup 0.25. *AUC*: how often a half
  right picture is nearer to a text than an unrelated one, in percent.
- A mean ± standard deviation is over the seeds. The two signs behind it say how it compares with `{references[0]}` and
  with `{references[1]}`: ▲ better, ▼ worse, = neither, at 5 % by a paired bootstrap over concepts and seeds, corrected
  by Holm for the number of objectives. *Time* is the processor time of a training, `infonce` being 1.
- A guide of texts is MiniLM itself, which is also the text tower: it costs nothing here, and it knows nothing that the
  heads are not given.
- `graded` and `upper tenth` are ours and not the paper's; they were found on validation. `graded` regulates at the
  default strength of 1, `graded, strength 0` not at all.
- `cwcl` is published for a tower that is locked with its space, and then has soft targets in one direction only. Here
  both heads learn from targets that are nearly flat, which is not enough.
- `off_diagonal` is for continual training; the model that it holds on to is the untrained one here.

The tables as CSV, with the intervals: [comparison.csv](comparison.csv).
"""

SECOND_TRACK = """
Heads are first trained as above, on features of the pictures at 64 px. Then the image tower learns too, from pixels:
{steps} steps of {batch_size} pairs, without augmentation. Few steps, since each costs fifty of the first track.
""".strip()
WEIGHTS = """
Regulation weights of all validation negatives by the paper's guide, by what the negatives are in truth (the paper's
figures 3b and 7). The mean is 1 by construction.
""".strip()
RETRIEVALS = """
The first five pictures (the paper's figure 5) by the models of the first seed, for texts that were drawn by chance. A
green frame is the right emoji.
""".strip()
INFORMATION = """
The paper's appendix A.3 says that training under the weights ends where the mean of log(1/w) over the negatives is the
mean information of an anchor and its negatives. Left what the weights say, then what a model that was trained under
them says of the same validation negatives (one seed), each negative counted once or by its weight. If the identity
held for such an estimate, they would agree. Last, whether the weights fall
where the density ratio rises, as they must.
""".strip()


def write_page(
    folder: Path,
    rows: Sequence[Row],
    sections: Mapping[str, Sequence[str]],
    *,
    command: str,
    seeds: Sequence[int],
    records: Records,
) -> None:
    """
    Writes `index.md`.

    Args:
        folder (`Path`):
            Where tables and figures are.
        rows (sequence of `Row`):
            The comparison.
        sections (mapping of `str` to sequence of `str`):
            By title, the lines of each analysis.
        command (`str`), seeds (sequence of `int`), records (`Records`):
            What wrote it, and what that was.
    """
    lines = ["# Benchmark: objectives under false negatives", "", *origin(command, seeds, records), ""]
    lines += (
        METHOD_OF_THE_BENCHMARK.strip()
        .format(trials=TRIALS, tuning_seed=TUNING_SEED, references=REFERENCES)
        .splitlines()
    )
    for split in (*TEST_SPLITS, VALIDATION):
        lines += ["", f"## {TITLES[split]}", "", *comparison_table(rows, split), ""]
        lines += [*conclusions([row for row in rows if row.split == split]), ""]
        lines.append(f"![Differences from infonce, {TITLES[split].lower()}](differences_{split}.svg)")
    lines += ["", "## The settings that validation chose", "", *chosen_settings(rows)]
    for title, content in sections.items():
        lines += ["", f"## {title}", "", *content]
    (folder / "index.md").write_text("\n".join(lines) + "\n")


def conclusions(rows: Sequence[Row]) -> list[str]:
    """What is certain at 5 % against each reference, in sentences."""
    lines = []
    for reference in REFERENCES:
        for metric in ("text_to_image_ndcg@10", "text_to_image_recall@1"):
            certain = [row for row in rows if row.corrected.get((reference, metric), 1.0) < SIGNIFICANT]
            better = [f"`{row.method}`" for row in certain if row.differences[reference, metric].mean > 0]
            worse = [f"`{row.method}`" for row in certain if row.differences[reference, metric].mean <= 0]
            words = f"better than `{reference}`: {', '.join(better) or 'none'}; worse: {', '.join(worse) or 'none'}."
            lines.append(f"- {short(metric)}, {words}")
    return lines


def chosen_settings(rows: Sequence[Row]) -> list[str]:
    lines = ["| objective | chosen | common to all its settings |", "|---|---|---|"]
    for row in rows:
        if row.split == VALIDATION:
            chosen = ", ".join(f"`{name}={value:g}`" for name, value in row.settings.items())
            common = ", ".join(f"`{name}={value}`" for name, value in METHODS[row.method].run.settings.items())
            lines.append(f"| {row.method} | {chosen} | {common} |")
    return lines


def first_look_table(points: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Validation after long trainings."""
    metrics = ("text_to_image_recall@1", "text_to_image_recall@10", "text_to_image_ndcg@10", "image_to_text_ndcg@10")
    lines = ["| objective | " + " | ".join(map(short, metrics)) + " |", "|---|" + "---:|" * len(metrics)]
    for name, seeds in points.items():
        lines.append(
            f"| {name} | " + " | ".join(spread([seed[metric] for seed in seeds]) for metric in metrics) + " |"
        )
    return lines


def information_table(results: Sequence[Mapping[str, float]]) -> list[str]:
    lines = ["| " + " | ".join(results[0]) + " |", "|" + "---:|" * len(results[0])]
    lines += ["| " + " | ".join(f"{value:.3g}" for value in result.values()) + " |" for result in results]
    return lines
