# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The emoji pairs that come with this repository, and how relevant one emoji is to another."""

from collections.abc import Hashable, Iterable
from pathlib import Path

import torch
from datasets import Dataset, load_dataset

from trainer import load_pairs


DATA_DIR = Path(__file__).parent / "data" / "emoji"
SPLITS = ("train", "validation", "test_unseen_concept", "test_unseen_composition")


def load_emoji(split: str = "train", data_dir: str | Path = DATA_DIR) -> Dataset:
    """
    One split of the emoji pairs, read from disk.

    Args:
        split (`str`, *optional*, defaults to `"train"`):
            `"train"`, `"validation"`, `"test_unseen_concept"` or `"test_unseen_composition"`.
        data_dir (`str` or `Path`, *optional*, defaults to the folder in this repository):
            Where the parquet files lie.

    Returns:
        [`~datasets.Dataset`]: rows with `image`, `caption`, `sentence`, `keywords`, `vendor`, `group`, `subgroup`,
        `base_id`, `emoji_id`, `tone`, `gender` and `license`.
    """
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}, only {', '.join(SPLITS)}.")
    file = Path(data_dir) / f"{split}-00000-of-00001.parquet"
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: pass the folder of the emoji data as `data_dir`.")
    return load_dataset("parquet", data_files={split: str(file)}, split=split)


class EmojiRelevance:
    """
    Grades for nDCG between the images and the texts of one emoji split, by row number:

    | grade | the two rows show                                                              |
    |-------|--------------------------------------------------------------------------------|
    | 1     | the same emoji (`emoji_id`), perhaps drawn by another vendor                   |
    | 0.75  | variants of one emoji (`base_id`) that differ in tone or in gender, not both   |
    | 0.5   | variants of one emoji that differ in tone and in gender                        |
    | 0.25  | different emoji of one `subgroup` (country flags are no group)                 |
    | 0     | anything else                                                                  |

    A few variants differ in neither tone nor gender, only in the direction they face; they count as 0.75.

    Args:
        dataset ([`~datasets.Dataset`]):
            A split with the columns `emoji_id`, `base_id`, `subgroup`, `tone` and `gender`.
        keyword_overlap (`float`, *optional*):
            If given, different emoji also get 0.25 when their `keywords` have at least this Jaccard index (two country
            flags never do).

    Example:

    ```python
    >>> dataset = load_emoji("validation")
    >>> metrics = evaluate_retrieval(
    ...     model, dataset, processor, pair_id_column="emoji_id", relevance=EmojiRelevance(dataset)
    ... )
    >>> metrics["text_to_image_ndcg@10"]
    ```
    """

    def __init__(self, dataset: Dataset, keyword_overlap: float | None = None) -> None:
        needed = ["emoji_id", "base_id", "subgroup", "tone", "gender"]
        if keyword_overlap is not None:
            needed.append("keywords")
            if not 0 < keyword_overlap <= 1:
                raise ValueError(f"`keyword_overlap` must be above 0 and at most 1, got {keyword_overlap}.")
        if missing := [column for column in needed if column not in dataset.column_names]:
            raise ValueError(f"The data set has no {missing}, only {dataset.column_names}.")
        self.emoji, self.base, self.subgroup, self.tone, self.gender = (
            _codes(dataset[column]) for column in needed[:5]
        )
        self.is_flag = torch.tensor([subgroup == "country-flag" for subgroup in dataset["subgroup"]])
        self.keyword_overlap = keyword_overlap
        self.keywords = torch.empty(0) if keyword_overlap is None else _multi_hot(dataset["keywords"])

    def __call__(self, image_rows: torch.Tensor, text_rows: torch.Tensor) -> torch.Tensor:
        images, texts = image_rows.cpu()[:, None], text_rows.cpu()[None, :]
        grades = torch.zeros(len(image_rows), len(text_rows))
        # From the weakest tie to the strongest, each overwriting the one before.
        both_flags = self.is_flag[images] & self.is_flag[texts]
        grades[(self.subgroup[images] == self.subgroup[texts]) & ~both_flags] = 0.25
        if self.keyword_overlap is not None:
            ours, theirs = self.keywords[images[:, 0]], self.keywords[texts[0]]
            shared = ours @ theirs.T
            total = ours.sum(dim=1, keepdim=True) + theirs.sum(dim=1) - shared
            grades[(shared >= self.keyword_overlap * total) & (shared > 0) & ~both_flags] = 0.25
        variants = self.base[images] == self.base[texts]
        both_differ = (self.tone[images] != self.tone[texts]) & (self.gender[images] != self.gender[texts])
        grades[variants & both_differ] = 0.5
        grades[variants & ~both_differ] = 0.75
        grades[self.emoji[images] == self.emoji[texts]] = 1.0
        return grades


def _codes(values: Iterable[Hashable]) -> torch.Tensor:
    """Equal values, equal integers."""
    codes: dict[Hashable, int] = {}
    return torch.tensor([codes.setdefault(value, len(codes)) for value in values])


def _multi_hot(rows: Iterable[list[str]]) -> torch.Tensor:
    """A row of zeros and ones per row, one column per word."""
    words = [list(row) for row in rows]
    codes = {word: code for code, word in enumerate(dict.fromkeys(word for row in words for word in row))}
    hot = torch.zeros(len(words), len(codes))
    for number, row in enumerate(words):
        hot[number, [codes[word] for word in row]] = 1.0
    return hot


def emoji_pairs(split: str = "train", data_dir: str | Path = DATA_DIR) -> Dataset:
    """
    One split as pairs for [`SaclTrainer`] and [`evaluate_retrieval`].

    Every emoji is drawn by up to three vendors: its images share one `pair_id`, so that they are positives of its
    texts. In training a pair's caption is its name or the list of its keywords, drawn anew each time; elsewhere it is
    the name.
    """
    dataset = load_emoji(split, data_dir)
    if split == "train":
        keywords = [", ".join(words) for words in dataset["keywords"]]
        dataset = dataset.add_column("keyword_list", keywords)
    return load_pairs(
        dataset,
        caption_columns=["caption", "keyword_list"] if split == "train" else "caption",
        pair_id_column="emoji_id",
        keep_columns=["emoji_id", "base_id", "subgroup", "tone", "gender", "vendor"],
    )
