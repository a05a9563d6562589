# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Visual question answering: a model's answers to a data set's questions, and how many people would agree.

Where the possible answers are known, ranking them is ALBEF's protocol (Li et al., NeurIPS 2021, section 5,
[arXiv 2107.07651](https://huggingface.co/papers/2107.07651)); otherwise the model writes its own.
"""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.question_answering import people_answers, tokenize_answers
from ..embedding import evaluation_mode, text_options
from .pair_embeddings import _rgb_image, batched, progress


_METRIC = Path(__file__).parent / "metrics" / "vqa_accuracy"
# Where there is one answer, so many people are taken to agree on it: as many as answered each question of VQA.
_NUM_PEOPLE = 10


def answer_questions(
    model: nn.Module,
    dataset: Iterable[Mapping[str, Any]],
    processor: Any,
    *,
    answer_list: Sequence[str] | None = None,
    k: int = 128,
    batch_size: int = 32,
    image_column: str = "image",
    question_column: str = "question",
    max_length: int | None = None,
    generation_options: Mapping[str, Any] | None = None,
    show_progress: bool = True,
) -> list[str]:
    r"""
    A model's answer to each question of a data set.

    The model runs in evaluation mode, without gradient, in its own dtype on its own device; afterwards every module is
    back in the mode it was in. The data set is read once, from front to back.

    Args:
        model ([`SaclForQuestionAnswering`]):
            The model. To write answers, any with `generate` will do.
        dataset (`Iterable[Mapping[str, Any]]`):
            A [`~datasets.Dataset`] or anything that yields rows.
        processor ([`SaclProcessor`]):
            Its processor.
        answer_list (`Sequence[str]`, *optional*):
            The answers to choose from, say [`frequent_answers`] of the training data. Without it the model writes its
            own.
        k (`int`, *optional*, defaults to 128):
            With `answer_list`: how many answers reach the second stage, see
            [`~SaclForQuestionAnswering.rank_answers`].
        batch_size (`int`, *optional*, defaults to 32):
            Questions per pass.
        image_column (`str`, *optional*, defaults to `"image"`):
            Name of the image column.
        question_column (`str`, *optional*, defaults to `"question"`):
            Name of the column with the question, one string.
        max_length (`int`, *optional*):
            Longer questions are cut to so many tokens. By default what the processor, tokenizer or model allows.
        generation_options (`Mapping[str, Any]`, *optional*):
            Without `answer_list`: arguments of `generate`, say `{"num_beams": 3, "max_new_tokens": 10}`.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        `list[str]`: the answers, row by row.

    Raises:
        `ValueError`: if the data set is empty, or a column is missing or holds something else than described.
        `TypeError`: if the model cannot answer.

    Example:

    ```python
    >>> answers = answer_questions(model, dataset, processor, answer_list=["yes", "no", "red"])
    >>> [{"question_id": i, "answer": a} for i, a in zip(dataset["question_id"], answers)]  # what the server wants
    [{'question_id': 262148000, 'answer': 'yes'}]
    ```
    """
    answered = _answered(
        model,
        dataset,
        processor,
        answer_list=answer_list,
        k=k,
        batch_size=batch_size,
        image_column=image_column,
        question_column=question_column,
        max_length=max_length,
        generation_options=generation_options,
        show_progress=show_progress,
    )
    return [answer for _, answer in answered]


def evaluate_question_answering(
    model: nn.Module,
    dataset: Iterable[Mapping[str, Any]],
    processor: Any,
    *,
    answer_list: Sequence[str] | None = None,
    k: int = 128,
    batch_size: int = 32,
    image_column: str = "image",
    question_column: str = "question",
    max_length: int | None = None,
    generation_options: Mapping[str, Any] | None = None,
    show_progress: bool = True,
) -> dict[str, float | dict[str, float]]:
    r"""
    The VQA accuracy of a model: [`answer_questions`], then the metric `vqa_accuracy` that lies beside this function
    and that [`evaluate`](https://huggingface.co/docs/evaluate) loads.

    Args:
        model ([`SaclForQuestionAnswering`]):
            The model. To write answers, any with `generate` will do.
        dataset (`Iterable[Mapping[str, Any]]`):
            Rows with an image, a question, and `answers`, those of several people, or `answer`; a single one counts
            as if ten people had given it, and the model's must be equal to it. With columns `question_type` and
            `answer_type` there is an accuracy for each type.
        processor ([`SaclProcessor`]):
            Its processor.
        answer_list (`Sequence[str]`, *optional*):
            The answers to choose from. Without it the model writes its own.
        k (`int`, *optional*, defaults to 128):
            With `answer_list`: how many answers reach the second stage.
        batch_size (`int`, *optional*, defaults to 32):
            Questions per pass.
        image_column (`str`, *optional*, defaults to `"image"`):
            Name of the image column.
        question_column (`str`, *optional*, defaults to `"question"`):
            Name of the column with the question, one string.
        max_length (`int`, *optional*):
            Longer questions are cut to so many tokens.
        generation_options (`Mapping[str, Any]`, *optional*):
            Without `answer_list`: arguments of `generate`.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        `dict[str, float | dict[str, float]]`: `accuracy` in percent and, where there are types,
        `accuracy_by_question_type` and `accuracy_by_answer_type`.

    Raises:
        `ValueError`: if the data set is empty, or a column is missing or holds something else than described.
        `TypeError`: if the model cannot answer.

    Example:

    ```python
    >>> evaluate_question_answering(model, dataset, processor, answer_list=frequent_answers(train))
    {'accuracy': 71.4, 'accuracy_by_answer_type': {'yes/no': 87.1, 'number': 52.3, 'other': 61.0}}
    ```
    """
    import evaluate

    predictions: list[str] = []
    references: list[list[str]] = []
    types: dict[str, list[str]] = {"question_type": [], "answer_type": []}
    answered = _answered(
        model,
        dataset,
        processor,
        answer_list=answer_list,
        k=k,
        batch_size=batch_size,
        image_column=image_column,
        question_column=question_column,
        max_length=max_length,
        generation_options=generation_options,
        show_progress=show_progress,
    )
    for row, answer in answered:
        predictions.append(answer)
        people = people_answers(row)
        references.append(people * _NUM_PEOPLE if len(people) == 1 else people)
        for name, values in types.items():
            if name in row:
                values.append(row[name])
    metric = evaluate.load(str(_METRIC), keep_in_memory=True)
    return metric.compute(
        predictions=predictions,
        references=references,
        **{f"{name}s": values for name, values in types.items() if values},
    )


def _answered(
    model: nn.Module,
    dataset: Iterable[Mapping[str, Any]],
    processor: Any,
    *,
    answer_list: Sequence[str] | None,
    k: int,
    batch_size: int,
    image_column: str,
    question_column: str,
    max_length: int | None,
    generation_options: Mapping[str, Any] | None,
    show_progress: bool,
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Every row with the model's answer to it."""
    method = getattr(model, "generate" if answer_list is None else "rank_answers", None)
    if not callable(method):
        wanted = "writes" if answer_list is None else "ranks"
        raise TypeError(
            f"{type(model).__name__} is no model that {wanted} answers: pass a `SaclForQuestionAnswering`."
        )
    if operator.index(batch_size) < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if answer_list is not None and not len(answer_list):
        raise ValueError("`answer_list` is empty: give the answers to choose from, or none for the model's own.")
    if answer_list is not None and generation_options:
        raise ValueError(
            "`generation_options` are for answers that the model writes, `answer_list` for those that it chooses: "
            "give one of the two."
        )
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    options = dict(generation_options or {})
    if answer_list is not None:
        choices = tokenize_answers(processor, answer_list)
        options = {"k": k, **{f"answer_{name}": value.to(weight.device) for name, value in choices.items()}}
    padding = text_options(model, processor, max_length)

    number = -1
    numbered = enumerate(progress(dataset, "Answering questions", show_progress))
    for rows in batched(numbered, batch_size):
        images, questions = [], []
        for number, row in rows:
            for argument, column in (("image_column", image_column), ("question_column", question_column)):
                if column not in row:
                    raise ValueError(f"Row {number} has no column {column!r}, only {sorted(row)}: set `{argument}`.")
            if not isinstance(row[question_column], str):
                raise ValueError(f"The question of row {number} must be a string, got {row[question_column]!r}.")
            images.append(_rgb_image(row[image_column], number, image_column))
            questions.append(row[question_column])
        inputs = {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in processor(text=questions, images=images, return_tensors="pt", **padding).items()
        }
        # Around the model alone: what stands outside of a generator between two rows would be in its mode too.
        with evaluation_mode(model), torch.no_grad():
            found = method(**inputs, **options)
        if answer_list is None:
            decoded = processor.tokenizer.batch_decode(found, skip_special_tokens=True)
            answers = [answer.strip() for answer in decoded]
        else:
            answers = [answer_list[best] for best in found[1][:, 0].tolist()]
        yield from zip((row for _, row in rows), answers, strict=True)
    if number < 0:
        raise ValueError("The data set has no rows: there is nothing to answer.")
