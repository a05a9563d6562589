# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Models and pairs from what the command line names."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor

import modeling_sacl  # Registers the Auto classes.

from ..data import load_karpathy, load_pairs
from ..data.sources import is_karpathy
from .errors import CommandError, did_you_mean
from .sources import ModelArguments, PairArguments


def load_model_and_processor(source: ModelArguments, head: str = "none") -> tuple[Any, Any]:
    """
    The model and its processor.

    Args:
        source ([`ModelArguments`]):
            Which.
        head (`str`, *optional*, defaults to `"none"`):
            `"none"` for the embeddings alone, `"matching"` for re-ranking (SACL only).

    Raises:
        CommandError: if there is none, or it has no such head.
    """
    check_model_name(source.model)
    options = {"revision": source.model_revision, "trust_remote_code": source.trust_remote_code}
    config = AutoConfig.from_pretrained(source.model, **options)
    model_class: Any = AutoModel
    if head == "matching":
        if config.model_type != "sacl":
            raise CommandError(
                f"{source.model!r} is a {config.model_type} model without a matching head: leave out --rerank_top_k."
            )
        model_class = modeling_sacl.SaclForImageTextRetrieval
    model = model_class.from_pretrained(source.model, config=config, dtype=getattr(torch, source.dtype), **options)
    processor = AutoProcessor.from_pretrained(source.model, **options)
    return model.to(find_device(source.device)).eval(), processor


def load_model_to_train(name: str, **options: Any) -> Any:
    """The model with its pre-training heads if its family has them, else the dual encoder."""
    check_model_name(name)
    config = AutoConfig.from_pretrained(name, **options)
    model_class: Any = AutoModelForPreTraining if config.model_type == "sacl" else AutoModel
    return model_class.from_pretrained(name, config=config, **options)


def check_names(model: ModelArguments, pairs: PairArguments) -> None:
    """What is not there is missed before anything is loaded."""
    check_model_name(model.model)
    check_dataset_name(pairs.dataset)


def check_model_name(name: str) -> None:
    """Raises a CommandError for a folder that does not exist, or is not a model's."""
    folder = Path(name).expanduser()
    looks_local = folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            there = (
                "adapters only: give the model that they are for, merged"
                if (folder / "adapter_config.json").is_file()
                else "no config.json"
            )
            raise CommandError(f"The folder {name!r} holds no model ({there}). Give one that was saved to its end.")
    elif looks_local:
        raise CommandError(f"There is no folder {name!r}.{did_you_mean(name, _beside(name))}")


def _beside(name: str) -> list[str]:
    """What lies in the same folder, written as the name is."""
    parent = Path(name).expanduser().parent
    return [str(Path(name).parent / other.name) for other in parent.iterdir()] if parent.is_dir() else []


def find_device(name: str | None) -> torch.device:
    """The device asked for, or an accelerator if there is one."""
    if name is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"This machine cannot compute on {name!r}: {' '.join(str(error).split())[:200]}") from error


def open_pairs(source: PairArguments, keep_columns: tuple[str, ...] = (), streaming: bool = False) -> Any:
    """
    One split of pairs with the columns `image`, `caption` or `captions`, and `pair_id`.

    Raises:
        CommandError: if the split has to be named.
    """
    if source.image_dir is not None and is_karpathy(source.dataset):
        pairs: Any = load_karpathy(source.dataset, source.image_dir, source.split or "test")
    else:
        check_dataset_name(source.dataset)
        pairs = load_pairs(
            source.dataset,
            split=source.split,
            name=source.dataset_name,
            revision=source.dataset_revision,
            image_column=source.image_column,
            caption_columns=source.caption_columns,
            pair_id_column=source.pair_id_column,
            keep_columns=keep_columns,
            language=source.language,
            prompt=source.prompt,
            image_root=source.image_dir,
            streaming=streaming,
            follow_links=source.follow_links,
        )
    if isinstance(pairs, dict):
        if len(pairs) > 1:
            raise CommandError(f"{source.dataset!r} has the splits {', '.join(pairs)}: name one with --split.")
        (pairs,) = pairs.values()
    if source.max_rows is not None:
        if source.max_rows < 1:
            raise CommandError(f"--max_rows must be at least 1, got {source.max_rows}.")
        pairs = pairs.take(source.max_rows) if streaming else pairs.select(range(min(source.max_rows, len(pairs))))
    return pairs


def check_dataset_name(name: str) -> None:
    """Raises a CommandError for what is neither here nor could be the name of a repository."""
    path = Path(name).expanduser()
    is_pattern = any(character in name for character in "*?[{")
    could_be_a_repository = name.count("/") == 1 and not name.startswith((".", "~", "/"))
    if "://" in name or is_pattern or path.exists() or could_be_a_repository:
        return
    hint = did_you_mean(name, _beside(name))
    raise CommandError(f"There is no data set {name!r}: no file or folder of this name.{hint}")


def one_caption(row: dict[str, Any]) -> str:
    """What stands for the caption of a row, if it has one."""
    captions = row.get("captions") or [row.get("caption") or ""]
    return captions[0]


def describe(source: PairArguments) -> str:
    """The data set in words."""
    return source.dataset + (f" ({source.split})" if source.split else "")


def is_writable_folder(folder: str) -> Path:
    """
    The folder, made if it does not exist.

    Raises:
        CommandError: if it is a file, or cannot be written to.
    """
    path = Path(folder).expanduser()
    if path.exists() and not path.is_dir():
        raise CommandError(f"{folder!r} is a file: give a folder.")
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise CommandError(f"The folder {folder!r} cannot be written to: give another.")
    return path
