# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What an audit says: its findings and its summary, as text, table, Parquet, JSON and HTML."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from .text import one_line


FALSE_NEGATIVE, SIMILAR_IMAGES, SIMILAR_TEXTS = KINDS = ("false_negative", "similar_images", "similar_texts")

# Above this share of all negatives, what is flagged says more about the model than about the data.
_TOO_MANY = 0.05


class Finding(NamedTuple):
    """
    Two rows that are more alike than two different pairs should be.

    Args:
        kind (`str`):
            `"false_negative"`: the image of the first row and the text of the second are as alike as a true pair.
            `"similar_images"`: the images of both rows are nearly identical. `"similar_texts"`: their texts are.
        first_row (`int`), second_row (`int`):
            Rows of the data set; of an image or text that stands in several, the first.
        first_pair_id (`int` or `str`), second_pair_id (`int` or `str`):
            Their pair ids, which differ.
        first_caption (`str`), second_caption (`str`):
            Their captions.
        cosine (`float`):
            How alike they are.
        percentile (`float`):
            Share, in percent, of the reference that is less alike: of the data set's true pairs for a false negative,
            of images (texts) and their harmless variants for similar images (texts).
        margin (`float` or `None`):
            For a false negative: its cosine minus that of the image with its own text (the best of them). Above 0 the
            foreign text fits better.
    """

    kind: str
    first_row: int
    second_row: int
    first_pair_id: int | str
    second_pair_id: int | str
    first_caption: str
    second_caption: str
    cosine: float
    percentile: float
    margin: float | None


@dataclass
class AuditReport:
    """
    What [`audit_pairs`] found.

    Args:
        findings (`list[Finding]`):
            The listed findings: by kind, the most alike first; of each kind at most `top_k`.
        summary (`dict[str, Any]`):
            Numbers over everything that was compared, listed or not; plain data that JSON can hold. `counts` of
            findings by kind, `thresholds` by kind, `pairs`, `pairs_with_false_negative`, `false_negative_rate` (the
            share of all negatives), `separation` (how often a true pair is more alike than a negative),
            `expected_per_batch` by batch size, `weight_at_threshold` by strength of regulation.
        dataset ([`~datasets.Dataset`]):
            The data set, for the images of the gallery.
        image_column (`str`, *optional*, defaults to `"image"`):
            Its column of images.

    Example:

    ```python
    >>> report = audit_pairs(dataset, model, processor)
    >>> print(report.to_text())
    >>> report.to_parquet("audit.parquet")
    >>> report.to_html("audit.html")
    ```
    """

    findings: list[Finding]
    summary: dict[str, Any]
    dataset: datasets.Dataset = field(repr=False)
    image_column: str = "image"

    def of_kind(self, kind: str) -> list[Finding]:
        """
        The listed findings of one kind, the most alike first.

        Args:
            kind (`str`):
                `"false_negative"`, `"similar_images"` or `"similar_texts"`.
        """
        return [finding for finding in self.findings if finding.kind == kind]

    def expected_per_batch(self, batch_size: int) -> float:
        """
        How many likely false negatives a batch of so many pairs has on average, counted in both directions of the
        contrast as one, if its pairs are drawn at random and have different pair ids.

        Args:
            batch_size (`int`):
                Pairs in the batch, over all processes. (With a queue, pass the square root of batch times candidates.)
        """
        return batch_size * (batch_size - 1) * self.summary["false_negative_rate"]

    def suggestions(self) -> list[str]:
        """What one might do about it, in sentences: places to start from, not results."""
        return _suggestions(self.summary)

    def to_text(self, limit: int = 10) -> str:
        """
        The summary and the first findings of each kind as text.

        Args:
            limit (`int`, *optional*, defaults to 10):
                How many findings of each kind.
        """
        return _as_text(self, limit)

    def to_parquet(self, file: str | os.PathLike) -> None:
        """
        Writes all listed findings, a row for each with the fields of [`Finding`].

        Args:
            file (`str` or `os.PathLike`):
                Where to.
        """
        self.table().to_parquet(os.fspath(file))

    def table(self) -> datasets.Dataset:
        """All listed findings as a data set."""
        as_text = any(isinstance(finding.first_pair_id, str) for finding in self.findings)
        types = {
            **dict.fromkeys(("kind", "first_caption", "second_caption"), "string"),
            **dict.fromkeys(("first_row", "second_row"), "int64"),
            **dict.fromkeys(("first_pair_id", "second_pair_id"), "string" if as_text else "int64"),
            **dict.fromkeys(("cosine", "percentile", "margin"), "float64"),
        }
        features = datasets.Features({name: datasets.Value(types[name]) for name in Finding._fields})
        columns = {name: [getattr(finding, name) for finding in self.findings] for name in Finding._fields}
        return datasets.Dataset.from_dict(columns, features=features)

    def to_html(self, file: str | os.PathLike, limit: int = 100) -> None:
        """
        Writes a gallery: one page that needs nothing beside it, with the images in it. Captions are shown as text,
        whatever they contain.

        Args:
            file (`str` or `os.PathLike`):
                Where to.
            limit (`int`, *optional*, defaults to 100):
                How many findings of each kind it shows.

        Raises:
            `ImportError`: if Jinja is not installed (`pip install sacl[hub]`).
        """
        from .audit_gallery import write_gallery

        write_gallery(self, Path(file), limit)

    def to_json(self, file: str | os.PathLike) -> None:
        """
        Writes the summary.

        Args:
            file (`str` or `os.PathLike`):
                Where to.
        """
        Path(file).write_text(json.dumps(self.summary, indent=2), encoding="utf-8")


def _suggestions(summary: Mapping[str, Any]) -> list[str]:
    """Sentences; what is a number in them comes from the summary."""
    sentences = []
    counts = summary["counts"]
    if any(counts.get(kind) for kind in (SIMILAR_IMAGES, SIMILAR_TEXTS)):
        sentences.append(
            "Rows that show or say the same can share a pair id (`pair_id_column`): they are then positives of one "
            "another under every objective."
        )
    if FALSE_NEGATIVE not in counts:
        return sentences
    if summary["false_negative_rate"] > _TOO_MANY:
        sentences.insert(
            0,
            f"{_percent(summary['false_negative_rate'])} of all negatives are as alike as a true pair: this model "
            "hardly tells them apart, so the list says more about the model than about the data. Audit with a better "
            "one.",
        )
        return sentences
    batch_size, expected = max(
        ((int(size), number) for size, number in summary["expected_per_batch"].items()), default=(0, 0.0)
    )
    if not batch_size or not summary["weight_at_threshold"]:
        return sentences
    if expected < 0.01 * batch_size:
        sentences.append(
            f"In a batch of {batch_size:,} fewer than one anchor in a hundred meets a likely false negative: expect "
            "little from regulation here, whatever its strength."
        )
        return sentences
    weights = {float(strength): weight for strength, weight in summary["weight_at_threshold"].items()}
    said = ", ".join(f"{weight:.2f} with {strength:g}" for strength, weight in weights.items())
    sentences.append(
        f"A negative that is just alike enough to be listed would count, by this model's similarities, {said} as "
        "`regulation_strength` (1 being an average negative). 1 is the paper's and a place to start; whether more "
        "helps is for your validation data to say."
    )
    if 0 < weights[1.0] < 1:
        sentences.append(
            f"`filter_threshold={weights[1.0]:.2f}` with strength 1 would remove about what is listed, instead of "
            "lowering its weight."
        )
    return sentences


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _as_text(report: AuditReport, limit: int) -> str:
    summary = report.summary
    lines = [f"{summary['rows']:,} rows, {summary['pairs']:,} pairs"]
    if FALSE_NEGATIVE in summary["counts"]:
        share = summary["pairs_with_false_negative"] / summary["pairs"]
        lines += [
            f"{summary['pairs_with_false_negative']:,} pairs ({_percent(share)}) have at least one likely false "
            f"negative; {_percent(summary['false_negative_rate'])} of all negatives are.",
            "Expected in a random batch: "
            + ", ".join(
                f"{_count(number)} of {int(size):,} pairs" for size, number in summary["expected_per_batch"].items()
            ),
        ]
        if summary["separation"] is not None:
            lines.append(
                f"The model puts a true pair above a random negative in {_percent(summary['separation'])} of cases."
            )
    titles = {
        FALSE_NEGATIVE: "Likely false negatives: an image, and a text of another pair",
        SIMILAR_IMAGES: "Similar images",
        SIMILAR_TEXTS: "Similar texts",
    }
    for kind, count in summary["counts"].items():
        lines += ["", f"{titles[kind]}: {count:,}, from a cosine of {summary['thresholds'][kind]:.3f} on"]
        listed = report.of_kind(kind)[:limit]
        if listed:
            lines.append(f"  {'cosine':>6} {'above':>7}  {'rows':<15} captions")
        lines += [
            f"  {finding.cosine:6.3f} {finding.percentile:5.1f} %  "
            f"{f'{finding.first_row}, {finding.second_row}':<15} "
            f"{one_line(finding.first_caption, 40)} | {one_line(finding.second_caption, 40)}"
            for finding in listed
        ]
        if len(listed) < count:
            lines.append(f"  ... and {count - len(listed):,} more")
    return "\n".join([*lines, *(f"\n{sentence}" for sentence in report.suggestions())])
