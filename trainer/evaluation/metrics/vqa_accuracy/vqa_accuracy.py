# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The accuracy of the VQA challenges: answers against those of several people, with the official normalisation."""

import re
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate


_DESCRIPTION = """\
The accuracy of visual question answering on VQA v1 and v2: an answer is fully right if at least three people gave it.
It is averaged over all ways to leave one person out, so that people can be scored by the same rule, and answers are
compared after the official normalisation of case, punctuation, numbers, articles and contractions.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]` of shape `(num_questions,)`):
        One answer for each question.
    references (`list[list[str]]` of shape `(num_questions, num_answers)`):
        What people answered: ten answers for each question of VQA v2, or any number of at least two, which may differ
        between questions.
    question_types (`list[str]` of shape `(num_questions,)`, *optional*):
        The type of each question, such as `"how many"`, in the order in which the questions were added.
    answer_types (`list[str]` of shape `(num_questions,)`, *optional*):
        The type of each answer, such as `"yes/no"`, `"number"` or `"other"`.
    normalize (`bool`, *optional*, defaults to `True`):
        Whether to normalise answers as the official evaluation does. It does so for the questions on which people
        differ; where all gave the same answer, the prediction must be equal to it, case included. With `False`,
        answers are always compared as they are. Leading and trailing white space never counts.

Returns:
    `dict[str, float | dict[str, float]]`:

    - `accuracy`: `100 * min(matching answers of the others / 3, 1)`, averaged over the people who are left out in
      turn, then over the questions.
    - `accuracy_by_question_type`, with `question_types`, and `accuracy_by_answer_type`, with `answer_types`: the same
      for each type.

Raises:
    `ValueError`: if there are no questions, an answer is missing, a question has fewer than two answers, or the number
    of types is not that of the questions.

Examples:

    Two of four people said "2 dogs". Leaving out one of the two leaves 1 match, leaving out another leaves 2:
    (1/3 + 1/3 + 2/3 + 2/3) / 4 = 1/2.

    >>> import evaluate
    >>> vqa_accuracy = evaluate.load("path/to/vqa_accuracy")
    >>> vqa_accuracy.compute(predictions=["Two dogs!"], references=[["2 dogs", "the two dogs", "dogs", "3"]])
    {'accuracy': 50.0}
    >>> vqa_accuracy.compute(
    ...     predictions=["yes", "red"],
    ...     references=[["yes"] * 9 + ["no"], ["blue"] * 10],
    ...     answer_types=["yes/no", "other"],
    ... )
    {'accuracy': 50.0, 'accuracy_by_answer_type': {'yes/no': 100.0, 'other': 0.0}}
"""

_CITATION = """\
@inproceedings{antol2015vqa,
  title={{VQA}: Visual Question Answering},
  author={Antol, Stanislaw and Agrawal, Aishwarya and Lu, Jiasen and Mitchell, Margaret and Batra, Dhruv and
          Zitnick, C. Lawrence and Parikh, Devi},
  booktitle={Proceedings of the IEEE International Conference on Computer Vision (ICCV)},
  year={2015}
}
@inproceedings{goyal2017making,
  title={Making the {V} in {VQA} Matter: Elevating the Role of Image Understanding in Visual Question Answering},
  author={Goyal, Yash and Khot, Tejas and Summers-Stay, Douglas and Batra, Dhruv and Parikh, Devi},
  booktitle={Proceedings of the IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  year={2017}
}
"""

# The official evaluation's choices (https://github.com/GT-Vision-Lab/VQA), oddities included: apostrophes, colons and
# per cent signs stay, "none" is a number, and "somebody'd" loses its apostrophe.
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# A flag stands where `re.sub` takes the count, so that only so many periods go. No answer has more.
_MAX_PERIODS = int(re.UNICODE)
_NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
# A contraction is recognised when exactly one of its apostrophes is missing. Words that mean something without
# ("its", "well", "shed", "lets") are not here, and neither are "I'm" and "I've": the official table has them with a
# capital letter, which no lower-cased word equals.
_CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in """
        ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
        he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
        needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
        somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
        that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
        weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've
        why'll why're why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're
        you've
    """.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class VqaAccuracy(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
            license="Apache License 2.0",
            reference_urls=["https://visualqa.org/evaluation.html", "https://arxiv.org/abs/1612.00837"],
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        question_types: Sequence[str] | None = None,
        answer_types: Sequence[str] | None = None,
        normalize: bool = True,
    ) -> dict[str, float | dict[str, float]]:
        if not isinstance(normalize, bool):
            raise ValueError(f"`normalize` must be True or False, got {normalize!r}.")
        if not len(predictions):
            raise ValueError("There are no questions: pass `predictions` with at least one answer.")
        accuracies = [
            _accuracy(row, prediction, answers, normalize)
            for row, (prediction, answers) in enumerate(zip(predictions, references, strict=True))
        ]
        results: dict[str, float | dict[str, float]] = {"accuracy": _percent(accuracies)}
        for name, types in (("question_type", question_types), ("answer_type", answer_types)):
            if types is not None:
                results[f"accuracy_by_{name}"] = _by_type(f"{name}s", types, accuracies)
        return results


def normalize_answer(answer: str) -> str:
    """
    The official normalisation: punctuation, case, numbers, articles and contractions, in this order.

    Args:
        answer (`str`):
            What a model or a person answered.

    Returns:
        `str`: lower-cased words with one space between them.
    """
    # A sign beside a space goes; one between letters becomes a space. With a comma between digits ("1,000") all go.
    has_number = _DIGIT_COMMA_DIGIT.search(answer) is not None
    signs: dict[str, int | str | None] = {
        sign: "" if has_number or f"{sign} " in answer or f" {sign}" in answer else " " for sign in _PUNCTUATION
    }
    answer = _PERIOD.sub("", answer.translate(str.maketrans(signs)), count=_MAX_PERIODS)
    words = [_NUMBERS.get(word, word) for word in answer.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _accuracy(row: int, prediction: Any, answers: Any, normalize: bool) -> float:
    if prediction is None:
        raise ValueError(f"Row {row} of `predictions` is None: pass an empty string for no answer.")
    if answers is None or len(answers) < 2 or any(answer is None for answer in answers):
        raise ValueError(
            f"Row {row} of `references` is {answers!r}: it must hold the answers of at least two people, because a "
            "prediction is compared with those that are left when one is left out."
        )
    prediction, *answers = (_strip(answer) for answer in (prediction, *answers))
    # As the official code: what people agree on is not normalised, and the prediction is not either.
    if normalize and len(set(answers)) > 1:
        prediction, *answers = (normalize_answer(answer) for answer in (prediction, *answers))
    matches = answers.count(prediction)
    left_out_match, left_out_other = min((matches - 1) / 3, 1.0), min(matches / 3, 1.0)
    return (matches * left_out_match + (len(answers) - matches) * left_out_other) / len(answers)


def _strip(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def _by_type(name: str, types: Sequence[str], accuracies: list[float]) -> dict[str, float]:
    if len(types) != len(accuracies):
        raise ValueError(
            f"`{name}` has {len(types)} entries for {len(accuracies)} questions: pass one for each of `predictions`, "
            "those of earlier `add_batch` calls included."
        )
    groups: dict[str, list[float]] = {}
    for kind, accuracy in zip(types, accuracies, strict=True):
        if not isinstance(kind, str):
            raise ValueError(f"`{name}` must hold strings, got {kind!r}.")
        groups.setdefault(kind, []).append(accuracy)
    return {kind: _percent(values) for kind, values in groups.items()}


def _percent(accuracies: list[float]) -> float:
    return 100.0 * sum(accuracies) / len(accuracies)
