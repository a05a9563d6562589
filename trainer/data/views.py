# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A second view of a text: another caption of the pair, or the same words a little changed."""

from collections.abc import Sequence

import torch


# EDA's alpha (Wei and Zou, 2019): the share of the words that is changed.
_CHANGED_SHARE = 0.1


def vary_words(text: str) -> str:
    """
    The text with some of its words changed, a tenth of them and at least one: either left out, or swapped with others.

    Randomness comes from torch's global generator.

    Args:
        text (`str`):
            Words between blanks. One word alone, or a text of a language without blanks, stays as it is.

    Returns:
        `str`: at least one word; blanks are single ones.

    Source: two of the four operations of EDA (Wei and Zou, EMNLP 2019,
    [arXiv 1901.11196](https://huggingface.co/papers/1901.11196)); the others need a dictionary of synonyms.

    Example:

    ```python
    >>> vary_words("a red bus in front of an old house")
    'a red bus in front of an house'
    ```
    """
    words = text.split()
    if len(words) < 2:
        return text
    count = max(1, round(_CHANGED_SHARE * len(words)))
    if torch.rand(()) < 0.5:
        left_out = set(torch.randperm(len(words))[:count].tolist())
        words = [word for number, word in enumerate(words) if number not in left_out]
    else:
        for _ in range(count):
            first, second = torch.randperm(len(words))[:2].tolist()
            words[first], words[second] = words[second], words[first]
    return " ".join(words)


def second_text(captions: Sequence[str], caption: str) -> str:
    """
    A second view of a caption: another caption of the same pair, drawn evenly, if there is one; else [`vary_words`] of
    the same.

    Args:
        captions (sequence of `str`):
            All captions of a pair.
        caption (`str`):
            The first view, one of them.
    """
    others = [other for other in captions if other != caption]
    return others[int(torch.randint(len(others), ()))] if others else vary_words(caption)


__all__ = ["second_text", "vary_words"]
