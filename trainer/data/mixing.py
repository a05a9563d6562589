# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Several sources of pairs as one, in proportions."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    List,
    Value,
    concatenate_datasets,
    interleave_datasets,
)

from .pairs import hash_63_bits, undecoded


# A data set that is mixed with streams becomes one, of as many shards as there may be readers.
_SHARDS = 64


def mix_pairs(
    sources: Mapping[str, Dataset | IterableDataset] | Sequence[Dataset | IterableDataset],
    *,
    weights: Mapping[str, float] | Sequence[float] | None = None,
    seed: int = 0,
    stopping_strategy: str = "all_exhausted",
) -> Dataset | IterableDataset:
    """
    Puts several sources of pairs together. Each is first opened by [`load_pairs`], with its own columns, language and
    prompt.

    Pair ids of different sources say nothing about each other: a hash of the source's name and the id stands for each,
    so that image 7 of one is not taken for image 7 of the other.

    Args:
        sources (mapping or sequence of `Dataset` or `IterableDataset`):
            The sources, by name; in a sequence their places are their names. With one stream among them, the result is
            a stream.
        weights (mapping or sequence of `float`, *optional*):
            The share of each source in the rows, as numbers of any scale. Without weights every pair comes once: the
            sources stand one after the other, and are mixed by whoever shuffles, the sampler of [`SaclTrainer`] or the
            order of a stream's shards.
        seed (`int`, *optional*, defaults to 0):
            Decides, with `weights`, from which source the next row comes.
        stopping_strategy (`str`, *optional*, defaults to `"all_exhausted"`):
            With `weights`: `"all_exhausted"` begins smaller sources anew until each has been read once,
            `"first_exhausted"` stops when one is at its end, `"all_exhausted_without_replacement"` goes on with the
            others alone. See [`~datasets.interleave_datasets`].

    Returns:
        `Dataset` or `IterableDataset`: `image`, `caption` (or `captions`, if a source has several), `pair_id` and the
        columns that all sources have. With weights a stream has as many shards as its smallest source, each with its
        part of all sources: `reshard()` sources that have few.

    Raises:
        ValueError: A source is no single split of pairs, weights are no positive numbers, or names do not agree.

    Example:

    ```python
    >>> from trainer.data import load_pairs, mix_pairs

    >>> pairs = mix_pairs(
    ...     {
    ...         "catalogue": load_pairs("user/catalogue", split="train"),
    ...         "names": load_pairs("user/names", split="train", prompt="a photo of a {caption}"),
    ...     },
    ...     weights={"catalogue": 3, "names": 1},
    ... )
    ```
    """
    named = dict(sources) if isinstance(sources, Mapping) else {str(place): part for place, part in enumerate(sources)}
    if not named:
        raise ValueError("`sources` is empty: give one source of pairs or more.")
    for name, part in named.items():
        _check_pairs(name, part)
    shares = _shares(weights, list(named), by_name=isinstance(sources, Mapping))
    if any(isinstance(part, IterableDataset) for part in named.values()):
        named = {name: _as_stream(part) for name, part in named.items()}
    features = _common_features([part.features for part in named.values()])
    parts = [_prepared(part, name, features) for name, part in named.items()]
    if shares is None:
        return concatenate_datasets(parts)
    return interleave_datasets(parts, probabilities=shares, seed=seed, stopping_strategy=stopping_strategy)


def _check_pairs(name: str, part: Any) -> None:
    if isinstance(part, (DatasetDict, IterableDatasetDict)):
        raise ValueError(f"The source {name!r} has the splits {', '.join(part)}: give one of them.")
    if not isinstance(part, (Dataset, IterableDataset)):
        raise ValueError(f"The source {name!r} has to be a data set that `load_pairs` has opened, got {type(part)}.")
    columns = part.column_names or []
    if "image" not in columns or "pair_id" not in columns or not {"caption", "captions"} & set(columns):
        raise ValueError(
            f"The source {name!r} has the columns {', '.join(columns) or '(unknown)'}; `load_pairs` gives it `image`, "
            "`caption` or `captions`, and `pair_id`."
        )


def _shares(weights: Any, names: list[str], by_name: bool) -> list[float] | None:
    if weights is None:
        return None
    if isinstance(weights, Mapping) != by_name or len(weights) != len(names):
        raise ValueError(
            f"`weights` have to be as many as sources, and of the same kind; got {weights!r} for {names}."
        )
    if isinstance(weights, Mapping) and set(weights) != set(names):
        raise ValueError(f"`weights` are of {', '.join(weights)}, but the sources are {', '.join(names)}.")
    values = [weights[name] for name in names] if isinstance(weights, Mapping) else list(weights)
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"`weights` have to be positive numbers, got {values}. Leave out what is not wanted.")
    return [value / sum(values) for value in values]


def _as_stream(part: Dataset | IterableDataset) -> IterableDataset:
    return part.to_iterable_dataset(num_shards=min(_SHARDS, len(part))) if isinstance(part, Dataset) else part


def _common_features(all_features: Sequence[Features]) -> Features:
    """`image`, captions and `pair_id` in the form that suits all sources, and the columns that all have alike."""
    several = any("captions" in features for features in all_features)
    captions = {"captions": List(Value("string"))} if several else {"caption": Value("string")}
    standard = {"image": Image(), **captions, "pair_id": Value("int64")}
    first, *others = all_features
    shared = {
        name: feature
        for name, feature in first.items()
        if name not in ("image", "caption", "captions", "pair_id") and all(o.get(name) == feature for o in others)
    }
    return Features({**standard, **shared})


def _prepared(part: Any, name: str, features: Features) -> Any:
    """A source with ids of its own, in the form of the mixture. Images are not copied."""
    part = undecoded(part)
    caption = "captions" if "captions" in part.features else "caption"
    made = ["pair_id"] if features.get(caption) == part.features[caption] else ["pair_id", caption]
    restate = partial(_restated, name=name, several="captions" in features)
    if isinstance(part, IterableDataset):
        part = part.map(restate, batched=True, batch_size=16, remove_columns=made)
        # Features are set by `cast` and not given to `map`, whose output would then never be decoded.
        return part.select_columns(list(features)).cast(features)
    kept = part.select_columns([column for column in features if column in part.column_names and column not in made])
    target = Features({column: features[column] for column in features if column not in kept.column_names})
    new = part.select_columns(made).map(restate, batched=True, remove_columns=made, features=target)
    whole = concatenate_datasets([kept, new], axis=1).select_columns(list(features))
    return whole.cast_column("image", features["image"])  # `cast` would copy them


def _restated(batch: dict[str, list[Any]], name: str, several: bool) -> dict[str, list[Any]]:
    ids = [hash_63_bits(name.encode(), repr(identifier).encode()) for identifier in batch["pair_id"]]
    captions: dict[str, list[Any]] = {column: batch[column] for column in ("caption", "captions") if column in batch}
    if several and "caption" in captions:
        captions = {"captions": [[caption] for caption in captions["caption"]]}
    return {"pair_id": ids, **captions}
