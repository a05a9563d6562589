# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Visual question answering: reading VQA's files, and from rows with a question to a batch with weighted answers."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset, Features, Image, List, Value

from ..embedding import text_options
from ..paths import read_json
from .collator import ImageTextCollator, check_columns
from .usable import UnusablePair


NO_QUESTION = "no question"
NO_ANSWER = "no answer"


@dataclass
class QuestionAnsweringCollator(ImageTextCollator):
    """
    Turns rows of an image, a question and its answers into a batch for [`SaclForQuestionAnswering`] and the stock
    [`Trainer`] (with `remove_unused_columns=False`).

    A row has `image` (a picture, or undecoded as [`undecoded`] leaves it), `question`, and `answers`: a list of
    strings, one for each person who was asked (or, as data sets on the Hub have it, of dictionaries with an `answer`);
    or `answer`, a single string. As in ALBEF, an answer that several people gave is learned once, with their share as
    its weight; a column `weights` with a number for each of the `answers` says otherwise. The batch has

    - `pixel_values`: float32, `[batch, channels, height, width]`;
    - `input_ids` and, if the tokenizer names it among its `model_input_names`, `attention_mask`: int64,
      `[batch, length]`: the questions;
    - `labels`: int64, `[batch, answers, answer_length]`: the distinct answers between the tokenizer's special tokens;
      -100 at padding, and all through where a question has fewer answers than another;
    - `answer_weights`: float32, `[batch, answers]`; 0 where there is no answer.

    Of rows without the columns of answers there are no labels: enough to have them answered.

    A row whose image cannot be read, or that has a blank question or only blank answers, is left out, counted in
    `skipped`, and logged the first time each reason occurs.

    Args:
        processor ([`~transformers.ProcessorMixin`]):
            Anything with a `tokenizer` and an `image_processor`: `SaclProcessor`, `CLIPProcessor`, ...
        image_transform (callable, *optional*):
            Augmentation, see [`PairCollator`]; `for_training` sets it.
        max_length (`int`, *optional*):
            Longest question in tokens; longer ones are cut. If unset, what the processor declares or the tokenizer
            says.
        pad_to_multiple_of (`int`, *optional*):
            Pads the questions to a multiple of this length.
        max_answer_length (`int`, *optional*):
            Longest answer in tokens, special tokens included; by default as for questions.

    Raises:
        ValueError: At construction, if an argument is out of its range or the processor lacks what is needed; when
            called, if a row lacks a column or has others than described, or no row is usable.

    Example:

    ```python
    >>> from trainer.data import QuestionAnsweringCollator

    >>> collator = QuestionAnsweringCollator(processor)
    >>> people = ["red"] * 7 + ["dark red"] * 3
    >>> batch = collator([{"image": image, "question": "what color is the bus?", "answers": people}])
    >>> batch["answer_weights"]
    tensor([[0.7000, 0.3000]])
    ```
    """

    max_answer_length: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_answer_length is not None and self.max_answer_length < 3:
            raise ValueError(
                f"`max_answer_length` has to leave room for a word between two special tokens, so at least 3, got "
                f"{self.max_answer_length!r}."
            )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Args:
            rows (sequence of mappings):
                Rows of a data set.

        Returns:
            `dict[str, torch.Tensor]`: The batch described above, of at most `len(rows)` rows.
        """
        images, questions, answers = self._read_usable(rows)
        batch = {**self._pixels(images), **self._text_inputs(self._tokens(questions))}
        if all(weights is None for weights in answers):
            return batch
        if any(weights is None for weights in answers):
            raise ValueError("Some rows of a batch have answers and some have none: give all of them or none.")
        return {**batch, **self._labels(answers)}

    def _read(self, row: Mapping[str, Any]) -> tuple[Any, str, dict[str, float] | None]:
        check_columns(row, ("image",), ("question",), hint="Rename those that mean the same")
        question = row["question"]
        if question is not None and not isinstance(question, str):
            raise ValueError(f"A question has to be a string, got {type(question).__name__}.")
        if question is None or not question.strip():
            raise UnusablePair(NO_QUESTION)
        answers = None
        if "answers" in row or "answer" in row:
            answers = weigh_answers(people_answers(row), row.get("weights"))
            if not answers:
                raise UnusablePair(NO_ANSWER)
        return self._read_image(row["image"]), question, answers

    def _labels(self, answers: list[dict[str, float]]) -> dict[str, torch.Tensor]:
        tokens = tokenize_answers(
            self.processor, [answer for weights in answers for answer in weights], self.max_answer_length
        )
        texts = tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100)
        counts = [len(weights) for weights in answers]
        labels = texts.new_full((len(answers), max(counts), texts.shape[1]), -100)
        answer_weights = torch.zeros(labels.shape[:2])
        for row, (part, weights) in enumerate(zip(texts.split(counts), answers, strict=True)):
            labels[row, : len(part)] = part
            answer_weights[row, : len(part)] = torch.tensor(list(weights.values()))
        return {"labels": labels, "answer_weights": answer_weights}


def people_answers(row: Mapping[str, Any]) -> list[str]:
    """The answers of a row, one for each person who was asked."""
    if "answers" not in row and "answer" not in row:
        raise ValueError(f"A row needs 'answers' or 'answer'; this one has {', '.join(map(repr, row))}.")
    if row.get("answers") is None:
        answers = [row.get("answer")]
    elif isinstance(row["answers"], list | tuple):
        answers = [answer.get("answer") if isinstance(answer, Mapping) else answer for answer in row["answers"]]
    else:
        raise ValueError(
            f"`answers` has to be a list, one for each person; for a single one there is `answer`. Got "
            f"{row['answers']!r}."
        )
    if not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"An answer has to be a string, got {row.get('answers', row.get('answer'))!r}.")
    return [answer.strip() for answer in answers]


def weigh_answers(answers: Sequence[str], weights: Sequence[float] | None = None) -> dict[str, float]:
    """
    The distinct answers with their weights, in the order in which they come; blank ones are left out.

    Args:
        answers (`Sequence[str]`):
            One for each person.
        weights (`Sequence[float]`, *optional*):
            What each of them counts; by default 1 over their number.

    Returns:
        `dict[str, float]`: The sum of the weights of each answer.

    Raises:
        ValueError: There are not as many weights as answers, or one is not a number of at least 0.

    Example:

    ```python
    >>> weigh_answers(["red", "red", "pink", "red"])
    {'red': 0.75, 'pink': 0.25}
    ```
    """
    if weights is None:
        # Whole numbers until the last division: the weights of ten people are those of a table.
        return {answer: count / len(answers) for answer, count in Counter(answers).items() if answer}
    numbers = isinstance(weights, Iterable) and all(isinstance(weight, int | float) for weight in weights)
    if not numbers or len(weights) != len(answers) or not all(weight >= 0 for weight in weights):
        raise ValueError(
            f"`weights` have to be numbers of at least 0, one for each of the {len(answers)} answers, got {weights!r}."
        )
    found: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer:
            found[answer] = found.get(answer, 0.0) + weight
    return found


def tokenize_answers(processor: Any, answers: Sequence[str], max_length: int | None = None) -> dict[str, torch.Tensor]:
    """
    Tokens of answers as [`SaclForQuestionAnswering`] takes them: between special tokens, padded on the right. A
    tokenizer that does not end a text has its `sep_token` put there.

    Args:
        processor ([`~transformers.ProcessorMixin`]):
            Anything with a `tokenizer`.
        answers (`Sequence[str]`):
            The answers.
        max_length (`int`, *optional*):
            Longest answer in tokens; longer ones are cut. If unset, what the processor declares or the tokenizer says.

    Returns:
        `dict[str, torch.Tensor]`: `input_ids` and `attention_mask`, int64, `[answers, length]`.

    Raises:
        ValueError: The tokenizer does not mark where a text begins and ends.
    """
    tokenizer = processor.tokenizer
    options = text_options(None, processor, max_length)
    padding = {"padding": True, "padding_side": "right", "return_attention_mask": True, "return_tensors": "pt"}
    if tokenizer.sep_token_id is None or tokenizer("a")["input_ids"][-1] in tokenizer.all_special_ids:
        tokens = tokenizer(list(answers), **{**options, **padding})
    else:  # ALBEF's begins texts, but ends only answers.
        limit = {"max_length": options["max_length"] - 1} if "max_length" in options else {}
        rows = tokenizer(list(answers), **{**options, **limit, "padding": False})["input_ids"]
        tokens = tokenizer.pad({"input_ids": [[*row, tokenizer.sep_token_id] for row in rows]}, **padding)
    input_ids, attention_mask = tokens["input_ids"], tokens["attention_mask"]
    last = input_ids.gather(1, attention_mask.sum(dim=1, keepdim=True) - 1)
    ends = torch.cat([input_ids[:, :1], last], dim=1).unique().tolist()
    if not set(ends) <= set(tokenizer.all_special_ids):
        raise ValueError(
            f"{type(tokenizer).__name__} does not put special tokens around a text, so that answers would have no "
            "beginning and no end: take the tokenizer of a text encoder, such as BERT's."
        )
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def load_vqa(
    questions: str | os.PathLike,
    image_dir: str | os.PathLike,
    annotations: str | os.PathLike | None = None,
    *,
    image_file: str = "COCO_{subtype}_{image_id:012d}.jpg",
) -> Dataset:
    """
    Reads a split of VQA in the form in which https://visualqa.org/download.html offers it.

    Args:
        questions (`str` or `os.PathLike`):
            The file of questions, such as `v2_OpenEnded_mscoco_train2014_questions.json`.
        image_dir (`str` or `os.PathLike`):
            The folder of its images, such as `train2014`.
        annotations (`str` or `os.PathLike`, *optional*):
            The file of answers, such as `v2_mscoco_train2014_annotations.json`; for test splits there is none.
        image_file (`str`, *optional*, defaults to `"COCO_{subtype}_{image_id:012d}.jpg"`):
            How images are called, of the questions' `subtype` (`"train2014"`; `"test2015"` also for test-dev) and
            `image_id`. With the images of COCO 2017 it is `"{image_id:012d}.jpg"`.

    Returns:
        [`~datasets.Dataset`]: rows with `image`, `question`, `question_id` and `image_id`; with annotations also
        `answers`, the ten that people gave, `question_type` and `answer_type`. Images are opened when they are asked
        for.

    Raises:
        FileNotFoundError: An image is missing.
        ValueError: A file is not of this form, or a question has no annotation.

    Example:

    ```python
    >>> dataset = load_vqa(
    ...     "v2_OpenEnded_mscoco_val2014_questions.json", "val2014", "v2_mscoco_val2014_annotations.json"
    ... )
    >>> dataset[0]["answers"]
    ['down', 'down', 'at table', 'skateboard', 'down', 'table', 'down', 'down', 'down', 'down']
    ```
    """
    content = _read_json(questions, "questions")
    asked = content["questions"]
    subtype = str(content.get("data_subtype", "")).replace("-dev", "")
    for question in asked:
        _check_entry(question, {"question": str, "question_id": int, "image_id": int}, questions)
    files = [image_file.format(subtype=subtype, image_id=question["image_id"]) for question in asked]
    present = set(os.listdir(image_dir))
    if missing := sorted(set(files) - present):
        raise FileNotFoundError(
            f"Of {len(set(files)):,} images {len(missing):,} are not in {os.fspath(image_dir)}, such as {missing[0]}: "
            "give their folder as `image_dir` and, if they are called otherwise, `image_file`."
        )
    columns: dict[str, list[Any]] = {
        "image": [str(Path(image_dir) / file) for file in files],
        "question": [question["question"] for question in asked],
        "question_id": [question["question_id"] for question in asked],
        "image_id": [question["image_id"] for question in asked],
    }
    features = {
        "image": Image(),
        "question": Value("string"),
        "question_id": Value("int64"),
        "image_id": Value("int64"),
    }
    if annotations is not None:
        told = _read_json(annotations, "annotations")["annotations"]
        for row in told:
            kinds = {"question_id": int, "answers": list, "question_type": str, "answer_type": str}
            _check_entry(row, kinds, annotations)
            for answer in row["answers"]:
                _check_entry(answer, {"answer": str}, annotations)
        answered = {row["question_id"]: row for row in told}
        if missing := [number for number in columns["question_id"] if number not in answered]:
            raise ValueError(
                f"{len(missing):,} of {len(asked):,} questions have no annotation, such as question {missing[0]}: the "
                "files must be of the same split."
            )
        rows = [answered[number] for number in columns["question_id"]]
        columns["answers"] = [[answer["answer"] for answer in row["answers"]] for row in rows]
        features["answers"] = List(Value("string"))
        for name in ("question_type", "answer_type"):
            columns[name] = [row[name] for row in rows]
            features[name] = Value("string")
    return Dataset.from_dict(columns, features=Features(features))


def _check_entry(entry: Any, kinds: Mapping[str, type], path: str | os.PathLike) -> None:
    for name, kind in kinds.items():
        value = entry.get(name) if isinstance(entry, dict) else None
        if type(value) is not kind or (kind is int and not -(2**63) <= cast(int, value) < 2**63):
            raise ValueError(f"In {os.fspath(path)}, an entry lacks `{name}` ({kind.__name__}): {entry!r:.200}")


def _read_json(path: str | os.PathLike, key: str) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise ValueError(f"{os.fspath(path)} is no file of VQA {key}: it has no list `{key}`.")
    return content


def frequent_answers(dataset: Iterable[Mapping[str, Any]], min_count: int = 9) -> list[str]:
    """
    The answers worth ranking: those on which people agree most, for at least so many questions. On the training and
    validation questions of VQA v2 the literature takes a `min_count` of 9, for some three thousand answers.

    Args:
        dataset (`Iterable[Mapping[str, Any]]`):
            Rows with `answers` or `answer`.
        min_count (`int`, *optional*, defaults to 9):
            The least number of questions to which an answer is the most frequent one.

    Returns:
        `list[str]`: The answers, the most frequent first, in alphabetical order where they are as frequent.

    Raises:
        ValueError: No answer is as frequent.

    Example:

    ```python
    >>> frequent_answers([{"answers": ["red", "red", "pink"]}, {"answer": "red"}, {"answer": "two"}], min_count=1)
    ['red', 'two']
    ```
    """
    if isinstance(dataset, Dataset):
        # No image has to be opened.
        dataset = dataset.select_columns([name for name in ("answers", "answer") if name in dataset.column_names])
    counts = Counter(Counter(people_answers(row)).most_common(1)[0][0] for row in dataset)
    frequent = [answer for answer, count in counts.items() if count >= min_count and answer]
    if not frequent:
        raise ValueError(f"No answer is the most frequent one of {min_count} questions: lower `min_count`.")
    return sorted(frequent, key=lambda answer: (-counts[answer], answer))
