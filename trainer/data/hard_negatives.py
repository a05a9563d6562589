# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Captions that say something else with the same words: hard negatives for what a caption composes."""

import itertools
import re

import torch


_WORD = re.compile(r"\w+(?:['’-]\w+)*")

# English words that hold a caption together rather than say what is in it.
STOP_WORDS = frozenset(
    """
    a about above across after against all along alongside also although am among an and another any are around as at
    away be because been before behind being below beneath beside besides between both but by can could did do does
    doing down during each either every few for from had has have having he her here hers him himself his how i if in
    inside into is it its itself just may me might more most much my near neither next no nor not of off on one's onto
    or other our out outside over own per plus she should since so some someone something such than that the their them
    then there these they this those though through to too toward towards under underneath until up upon us versus very
    via was we were what when where which while who whom whose why will with within without would you your
    """.split()
)

# Between two words that stand alone, these make no difference to which comes first: a cat and a dog, a dog and a cat.
_SYMMETRIC = frozenset("a alongside an and beside near nor or plus some the versus with".split())


def swap_words(caption: str) -> str | None:
    """
    The caption with two of its words in each other's place, so that it says something else with the same words: "a
    red bus and a blue car" becomes "a blue bus and a red car", or "a red car and a blue bus".

    No tagger is asked what the words are. A phrase is a run of words that neither a stop word (of English) nor
    punctuation interrupts; what is swapped are the last words of two phrases, which tend to be nouns, or two of the
    words before them, which tend to be adjectives. Words of one phrase are never swapped ("a bus red" still says what
    "a red bus" says), nor words whose order says nothing ("a cat and a dog"). So many short captions, and all of
    languages without these stop words, have no such negative; and some negatives are no sentences.

    Args:
        caption (`str`): what an image shows.

    Returns:
        `str`: one of the possible swaps, by torch's global generator; `None` if there is none.

    Example:

    ```python
    >>> from trainer.data import swap_words

    >>> swap_words("the horse is on the grass")
    'the grass is on the horse'
    >>> swap_words("a red bus") is None
    True
    ```

    Source: after Yuksekgonul et al., ICLR 2023 ([arXiv 2210.01936](https://huggingface.co/papers/2210.01936)), who
    swap words and phrases of one part of speech, as a tagger finds them.
    """
    phrases = _phrases(caption)
    swaps = [
        (first, second)
        for left, right in itertools.combinations(phrases, 2)
        for first, second in itertools.product(left, right)
        if (first is left[-1]) == (second is right[-1])
        and first[0].casefold() != second[0].casefold()
        and not _means_the_same(caption, (left, first), (right, second))
    ]
    if not swaps:
        return None
    first, second = swaps[int(torch.randint(len(swaps), ()))]
    to_front, to_back = second[0], first[0]
    if first.start() == 0 and to_back[0].isupper() and not to_back.isupper():
        # What began the caption had its capital for that.
        to_front, to_back = to_front[0].upper() + to_front[1:], to_back[0].lower() + to_back[1:]
    return (
        caption[: first.start()] + to_front + caption[first.end() : second.start()] + to_back + caption[second.end() :]
    )


def _phrases(caption: str) -> list[list[re.Match]]:
    """Runs of words that are no stop words, with nothing but space between them."""
    phrases: list[list[re.Match]] = []
    end = None
    for word in _WORD.finditer(caption):
        if word[0].casefold() in STOP_WORDS:
            end = None
            continue
        if end is None or caption[end : word.start()].strip():
            phrases.append([])
        phrases[-1].append(word)
        end = word.end()
    return phrases


def _means_the_same(caption: str, *sides: tuple[list[re.Match], re.Match]) -> bool:
    """Whether the phrases differ in the swapped words alone, and nothing between them tells first from second."""
    (left, first), (right, second) = sides
    remaining = [
        [word[0].casefold() for word in phrase if word is not swapped]
        for phrase, swapped in ((left, first), (right, second))
    ]
    between = {word.casefold() for word in _WORD.findall(caption[left[-1].end() : right[0].start()])}
    return remaining[0] == remaining[1] and between & STOP_WORDS <= _SYMMETRIC
