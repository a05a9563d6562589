# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The findings of an audit as one HTML page that needs nothing beside it."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data import ImageDecodingError, decode_image, undecoded


if TYPE_CHECKING:
    from .audit_report import AuditReport, Finding


TEMPLATES = Path(__file__).parent / "templates"
THUMBNAIL = 200

_SECTIONS = {
    "false_negative": (
        "Likely false negatives",
        "The image on the left and the text on the right belong to different pairs, and are as alike as a true pair.",
    ),
    "similar_images": ("Similar images", "Two pairs with nearly the same image."),
    "similar_texts": ("Similar texts", "Two pairs with nearly the same text."),
}


def write_gallery(report: "AuditReport", file: Path, limit: int) -> None:
    """Writes the page; at most `limit` findings of each kind."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("The gallery needs Jinja: `pip install sacl[hub]`.") from error
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    thumbnails = _Thumbnails(report)
    sections = [
        {
            "kind": kind,
            "title": _SECTIONS[kind][0],
            "explanation": _SECTIONS[kind][1],
            "count": count,
            "threshold": report.summary["thresholds"][kind],
            "cards": [_card(finding, thumbnails) for finding in report.of_kind(kind)[:limit]],
        }
        for kind, count in report.summary["counts"].items()
    ]
    page = environment.get_template("audit.html.jinja").render(
        summary=report.summary, sections=sections, suggestions=report.suggestions(), thumbnail=THUMBNAIL
    )
    file.write_text(page, encoding="utf-8")


def _card(finding: "Finding", thumbnails: "_Thumbnails") -> dict[str, Any]:
    sides = (
        (finding.first_row, finding.first_pair_id, finding.first_caption),
        (finding.second_row, finding.second_pair_id, finding.second_caption),
    )
    return {
        "finding": finding,
        "sides": [
            {"row": row, "pair_id": pair_id, "caption": caption, "image": thumbnails[row]}
            for row, pair_id, caption in sides
        ],
    }


class _Thumbnails:
    """Small images as data URIs, by row; each is made once."""

    def __init__(self, report: "AuditReport"):
        self.rows = undecoded(report.dataset.with_format(None), report.image_column).select_columns(
            [report.image_column]
        )
        self.image_column = report.image_column
        self.made: dict[int, str | None] = {}

    def __getitem__(self, row: int) -> str | None:
        if row not in self.made:
            self.made[row] = self._make(row)
        return self.made[row]

    def _make(self, row: int) -> str | None:
        try:
            image = decode_image(self.rows[row][self.image_column])
        except (ImageDecodingError, TypeError):
            return None
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        content = io.BytesIO()
        image.save(content, "JPEG", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
