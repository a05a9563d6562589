# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Answers as HTML. Whatever comes from data or people passes `html.escape`, and nothing is fetched from elsewhere."""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape

import numpy as np
import PIL.Image
import torch

from trainer.evaluation import Grounding, heat_map
from trainer.search import SearchResult

from .backend import Backend, Batch, Panel
from .negatives import NegativesOfAnchor, WeighedNegative


# Pixels along the longer side of pictures in results and in lists, twice what is shown, for sharp screens.
LARGE, SMALL = 320, 112
# Negatives that are shown at once; the others are folded away.
NEGATIVES_SHOWN = 10
# Pictures that are shown beside a caption that they share.
TOGETHER = 4
# How dark an image is where the text is not found.
_VEIL = 0.85


def notice(message: str) -> str:
    """A message in place of an answer."""
    return f'<p class="sacl-notice" role="alert">{escape(message)}</p>'


def note(message: str | None) -> str:
    """A remark above an answer, if there is one."""
    return f'<p class="sacl-note">{escape(message)}</p>' if message else ""


def image_tag(picture: PIL.Image.Image | None, alt: str) -> str:
    """A picture that is part of the page itself."""
    if picture is None:
        return f'<span class="sacl-no-picture" role="img" aria-label="{escape(alt)}">no picture</span>'
    content = io.BytesIO()
    picture.convert("RGB").save(content, "WEBP", quality=88)
    data = base64.b64encode(content.getvalue()).decode()
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<img src="data:image/webp;base64,{data}" alt="{escape(alt)}" {size}>'


# Results of a search -------------------------------------------------------------------------------------------------


def found_images(backend: Backend, results: Sequence[SearchResult], score: Callable[[float], str]) -> str:
    """A gallery, best first: picture, caption and score."""
    items = []
    for rank, (row, value) in enumerate(results, start=1):
        caption = backend.caption(row)
        image = image_tag(backend.thumbnail(row, LARGE), caption or f"Row {row} of the data set")
        items.append(
            f"<li><figure>{image}<figcaption>{_caption(caption)}"
            f"{_score(rank, score(value), row)}</figcaption></figure></li>"
        )
    return f'<ol class="sacl-gallery">{"".join(items)}</ol>'


def found_texts(backend: Backend, results: Sequence[SearchResult], score: Callable[[float], str]) -> str:
    """A list of captions, best first, each with its score and the pictures that it belongs to."""
    by_caption: dict[str, list[SearchResult]] = {}
    for result in results:
        by_caption.setdefault(backend.caption(result.row), []).append(result)
    items = []
    for rank, (caption, same) in enumerate(by_caption.items(), start=1):
        rows = [result.row for result in same]
        images = [image_tag(backend.thumbnail(row, SMALL), f"What {caption!r} is the caption of") for row in rows]
        items.append(
            f"<li><div>{_caption(caption)}{_score(rank, score(same[0].score), *rows)}</div>"
            f"{''.join(images[:TOGETHER]) if backend.image_column else ''}</li>"
        )
    return f'<ol class="sacl-texts">{"".join(items)}</ol>'


def _score(rank: int, score: str, *rows: int) -> str:
    where = f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows))}"
    return f'<span class="sacl-score"><span>{rank}. {escape(score)}</span><span>{where}</span></span>'


def cosine(value: float) -> str:
    """The score of embeddings."""
    return f"cosine {value:.3f}"


def match(value: float) -> str:
    """The score of the matching head."""
    return f"match {value:.1%}"


def composed_match(value: float) -> str:
    """The score of a composed query that was looked at again."""
    return f"match + cosine {value:.3f}"


# Looking into the model ----------------------------------------------------------------------------------------------


def grounded(picture: PIL.Image.Image, text: str, grounding: Grounding) -> str:
    """The picture once for the text and once for each of its words, dark where these are not found."""
    panels = [("the whole text", grounding.text_map)]
    silent = not bool(grounding.word_maps.any())
    if not silent:
        panels += list(zip(grounding.words, grounding.word_maps, strict=True))
    shown = picture.copy()
    shown.thumbnail((LARGE, LARGE))
    highest = max(float(map.max()) for _, map in panels) or 1.0
    figures = []
    for words, map in panels:
        share = float(map.max()) / highest
        alt = f"Where {words!r} is found in the picture: bright there, dark elsewhere"
        image = image_tag(_dimmed(shown, map), alt)
        figures.append(_figure(image, words, "" if silent else f"{share:.0%} of the highest map"))
    remark = (
        "Only the text as a whole has a map. Words have none in a model with one fusion layer, nor where nothing that "
        "is looked at for them raises the score."
        if silent
        else "Each map has a scale of its own. How high it is beside the highest stands below it: at a few percent a "
        "word is found nowhere, however bright a spot is."
    )
    verdict = f"The matching head gives “{escape(text)}” {grounding.match_probability:.1%} for this picture."
    return f'<p class="sacl-lead">{verdict}</p>{note(remark)}<ul class="sacl-gallery">{"".join(figures)}</ul>'


def kept_patches(panels: Iterable[Panel]) -> str:
    """The picture as the model sees it, and what each selecting layer keeps of it."""
    figures = []
    for number, (title, picture) in enumerate(panels):
        alt = "The picture as the model sees it" if number == 0 else f"Kept patches bright, others dark; {title}"
        enlarged = picture.resize((LARGE, LARGE * picture.height // picture.width), PIL.Image.Resampling.NEAREST)
        figures.append(_figure(image_tag(enlarged, alt), "as the model sees it" if number == 0 else title))
    return f'<ul class="sacl-gallery">{"".join(figures)}</ul>'


def _figure(image: str, title: str, below: str = "") -> str:
    return (
        f"<li><figure>{image}<figcaption>{_caption(title)}"
        f'<span class="sacl-score">{escape(below)}</span></figcaption></figure></li>'
    )


def _dimmed(picture: PIL.Image.Image, map: torch.Tensor) -> PIL.Image.Image:
    """The picture, dark where a map is low."""
    heat = heat_map(map.cpu(), (picture.height, picture.width)).numpy()
    pixels = np.asarray(picture.convert("RGB")) * (1 - _VEIL * (1 - heat[..., None]))
    return PIL.Image.fromarray(pixels.round().astype(np.uint8))


# Negatives -----------------------------------------------------------------------------------------------------------

_HEADINGS = {
    "image_to_text": "Its picture meets the captions of the batch",
    "text_to_image": "Its caption meets the pictures of the batch",
}


def weighed_negatives(backend: Backend, batch: Batch, strength: float) -> str:
    """The anchor, and for both directions the negatives of its batch with their weights as bars."""
    anchor = batch.rows[0]
    caption = backend.caption(anchor)
    num_negatives = len(batch.directions["image_to_text"].negatives)
    same = len(batch.rows) - 1 - num_negatives
    facts = f"{num_negatives} negatives at strength {strength:g}" + (
        f", and {same} more of the anchor's own pair, which are positives" if same else ""
    )
    parts = [
        '<section class="sacl-anchor" aria-label="The anchor">',
        image_tag(backend.thumbnail(anchor, LARGE), caption or f"Row {anchor}"),
        f'<div><p class="sacl-eyebrow">Anchor, row {anchor}</p><h3>{escape(caption)}</h3>',
        f"<p>{escape(facts)}.</p>",
        '<p class="sacl-legend"><span class="sacl-key sacl-spared"></span> left of the line: spared, a false negative '
        'perhaps<br><span class="sacl-key sacl-pushed"></span> right of the line: pushed away harder<br>'
        "The line is weight 1, what InfoNCE gives to every negative, and the mean of the weights.</p></div></section>",
        '<div class="sacl-directions">',
        *(_direction(backend, batch.rows, name, seen) for name, seen in batch.directions.items()),
        "</div>",
    ]
    return "".join(parts)


def _direction(backend: Backend, rows: Sequence[int], name: str, seen: NegativesOfAnchor) -> str:
    if not seen.negatives:
        return f"<section><h4>{_HEADINGS[name]}</h4>{notice('There is no negative: all are of one pair.')}</section>"
    reach = max(abs(negative.weight - 1) for negative in seen.negatives) or 1.0
    items = [_negative(backend, rows, negative, seen.own_similarity, reach) for negative in seen.negatives]
    weights = [negative.weight for negative in seen.negatives]
    closer = sum(negative.similarity >= seen.own_similarity for negative in seen.negatives)
    parts = [
        f"<section><h4>{_HEADINGS[name]}</h4>",
        f'<p class="sacl-score">Cosine with its own pair {seen.own_similarity:.3f}; {closer} of {len(weights)} '
        f"negatives are as close or closer. Weights from {weights[0]:.3f} to {weights[-1]:.3f}.</p>",
        f'<ol class="sacl-negatives">{"".join(items[:NEGATIVES_SHOWN])}</ol>',
    ]
    if rest := items[NEGATIVES_SHOWN:]:
        parts.append(
            f"<details><summary>The other {len(rest)}, up to weight {weights[-1]:.3f}</summary>"
            f'<ol class="sacl-negatives" start="{NEGATIVES_SHOWN + 1}">{"".join(rest)}</ol></details>'
        )
    return "".join([*parts, "</section>"])


def _negative(
    backend: Backend, rows: Sequence[int], negative: WeighedNegative, own_similarity: float, reach: float
) -> str:
    row = rows[negative.position]
    caption = backend.caption(row)
    is_spared = negative.weight < 1
    # The middle of the bar is weight 1, its ends are the furthest weight from 1 on either side.
    width = 50 * abs(negative.weight - 1) / reach
    left = 50 - width if is_spared else 50
    word = "spared" if is_spared else "pushed harder" if negative.weight > 1 else "as InfoNCE"
    closer = '<b class="sacl-closer">as close as its own pair</b>' if negative.similarity >= own_similarity else ""
    return (
        f"<li>{image_tag(backend.thumbnail(row, SMALL), caption or f'Row {row}')}<div>{_caption(caption)}"
        f'<span class="sacl-bar {"sacl-spared" if is_spared else "sacl-pushed"}" aria-hidden="true">'
        f'<i style="left:{left:.1f}%;width:{width:.1f}%"></i></span>'
        f'<span class="sacl-score"><span>weight <b>{negative.weight:.3f}</b>, {word}</span>'
        f"<span>cosine {negative.similarity:.3f}</span><span>row {row}</span>{closer}</span></div></li>"
    )


def _caption(caption: str) -> str:
    return f'<span class="sacl-caption">{escape(caption) or "<i>without a caption</i>"}</span>'
