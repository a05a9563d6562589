# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What a trainer knows of its run, as plain facts for a model card: nothing guessed, nothing personal."""

import csv
import inspect
import json
import math
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer
from transformers.utils import logging

from hub_cards.facts import CardFacts, DatasetFacts, EvaluationResult, FoundImages, ObjectiveFacts
from hub_cards.sections import CARD_NAME, CardError, parse_card
from modeling_sacl.loss_sacl import filter_log_weights, find_positives, log_regulation_weights

from .data import undecoded, with_pair_ids
from .embedding import dual_encoder, text_options
from .evaluation import embed_pairs
from .evaluation.pair_embeddings import PairEmbeddings, read_images
from .objectives import SaclObjective
from .sacl_config import SaclTrainingArguments


logger = logging.get_logger(__name__)

# Pictures look at as many evaluation pairs as this, evenly spaced in the data.
SAMPLE_SIZE = 256
NUM_QUERIES, NUM_FOUND = 6, 8
# A card needs no more points in a curve, and remembers no more weights than these quantiles.
MAX_LOG_ENTRIES, NUM_QUANTILES = 1000, 512

# Arguments that every card names, and those that it names where they are not the default. None but these: folders,
# machines, accounts and trackers are nobody's business.
_ALWAYS = (
    "learning_rate",
    "per_device_train_batch_size",
    "num_train_epochs",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "optim",
    "seed",
)
_IF_CHANGED = (
    "gradient_accumulation_steps",
    "vision_learning_rate",
    "lr_scheduler_kwargs",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "optim_args",
    "max_grad_norm",
    "label_smoothing_factor",
    "data_seed",
    "train_sampling_strategy",
    "dataloader_drop_last",
    "bf16",
    "fp16",
    "tf32",
    "torch_compile",
    "gradient_checkpointing",
    "neftune_noise_alpha",
    "lock_vision",
    "lock_text",
    "mlm_probability",
    "hard_negative_warmup",
    "patch_selection_warmup",
    "contrastive_chunk_size",
    "teacher_bf16",
    "nan_policy",
    "max_skipped_ratio",
    "min_temperature",
    "max_temperature",
)
# Settings of the objective, which stand beside it.
_OBJECTIVE = ("regulation_strength", "regulation_warmup", "filter_threshold")
_DISTILLATION = ("distillation_weight", "distillation_warmup")
_GUIDE = ("guide_schedule", "guide_duration")
_PARTS = ("objective", "itc_weight", "itm_weight", "mlm_weight", "momentum", "queue_size", "regulate_hard_negatives")


def collect_facts(
    trainer: Trainer,
    *,
    pictures: bool = True,
    model_name: str | None = None,
    language: str | Sequence[str] | None = None,
    license: str | None = None,
    tags: str | Sequence[str] | None = None,
    finetuned_from: str | None = None,
    dataset: str | Sequence[str] | None = None,
    dataset_tags: str | Sequence[str] | None = None,
    dataset_args: str | Sequence[str] | None = None,
    tasks: str | Sequence[str] | None = None,
) -> CardFacts:
    """
    What a trainer knows of its run, for [`write_model_card`]: of a [`SaclTrainer`], or of the stock [`Trainer`] with
    one of the other heads. What it does not know is absent, and what it cannot know can be said by the arguments.

    Args:
        trainer ([`Trainer`]):
            The trainer, at any moment.
        pictures (`bool`, *optional*, defaults to `True`):
            Whether to ask the model for what pictures need: one look at up to 256 pairs.
        model_name (`str`, *optional*):
            Heading of the card. Defaults to the Hub id's last part, else the output folder's name.
        language (`str` or `list[str]`, *optional*):
            Language codes.
        license (`str`, *optional*):
            Licence of the weights. It is never guessed.
        tags (`str` or `list[str]`, *optional*):
            Tags beside the trainer's own.
        finetuned_from (`str`, *optional*):
            Hub id of the model it started from. Defaults to what the configuration says.
        dataset (`str` or `list[str]`, *optional*):
            What the data of training and evaluation are called; or the path of a data set's folder, whose card then
            names it and its licences.
        dataset_tags (`str` or `list[str]`, *optional*):
            Hub ids of the data, one for each name.
        dataset_args (`str` or `list[str]`, *optional*):
            Their configurations.
        tasks (`str` or `list[str]`, *optional*):
            The Hub's name of the task, the first of which becomes `pipeline_tag`. Defaults to that of the model's
            class.

    Returns:
        [`CardFacts`]

    Example:

    ```python
    >>> from trainer.run_facts import collect_facts

    >>> facts = collect_facts(trainer, license="apache-2.0", dataset="Emoji pairs")
    >>> facts.num_parameters
    2270209
    ```
    """
    args, state = trainer.args, trainer.state
    model = trainer.accelerator.unwrap_model(trainer.model)
    adapted = model.get_base_model() if hasattr(model, "get_base_model") else None
    config = getattr(model if adapted is None else adapted, "config", None)
    model_id = getattr(trainer, "hub_model_id", None) or args.hub_model_id
    facts = CardFacts(
        model_name=model_name or (model_id or Path(args.output_dir).absolute().name).split("/")[-1],
        model_id=model_id,
        model_class=type(model).__name__,
        model_type=getattr(config, "model_type", None),
        adapted_class=None if adapted is None else type(adapted).__name__,
        num_parameters=_count(trainer, model),
        num_trained_parameters=_count(trainer, model, trained=True),
        architecture=_architecture(config),
        text_options=_text_options(model, trainer.processing_class),
        has_matching_head=_has_matching_head(model, args),
        has_patch_selection=bool(getattr(getattr(config, "vision_config", None), "selects_patches", False)),
        base_model=_listed(finetuned_from) or _base_models(config),
        license=license,
        language=_listed(language),
        tags=_tags(trainer, model, _listed(tags)),
        train_datasets=_train_datasets(trainer, dataset, dataset_tags, dataset_args),
        pipeline_tag=next(iter(_listed(tasks)), None),
        objective=_objective(trainer),
        hyperparameters=_hyperparameters(args),
        seed=args.seed,
        steps=state.global_step or None,
        epochs=None if not state.global_step or state.epoch is None else round(float(state.epoch), 4),
        skipped=dict(getattr(getattr(trainer, "skipped_pairs", None), "totals", {})),
        versions=_versions(adapted is not None),
        hardware=_hardware(args),
        results=_results(trainer, _listed(dataset), _listed(dataset_tags)),
        log_history=_thinned(state.log_history),
    )
    facts.duration, facts.first_step = _duration(trainer)
    facts.energy, facts.emissions = _energy(Path(args.output_dir))
    if pictures:
        _look(trainer, model, facts)
    return facts


def _tags(trainer: Trainer, model: nn.Module, given: list[str]) -> list[str]:
    adapters = getattr(model, "peft_config", None) or {}
    kinds = [str(config.peft_type.value).lower() for config in adapters.values()]
    return list(
        dict.fromkeys([*given, *(getattr(trainer, "_tag_names", None) or []), *kinds, "generated_from_trainer"])
    )


def _listed(value: str | Sequence[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


# The model -------------------------------------------------------------------------------------------------------


def _count(trainer: Trainer, model: nn.Module, trained: bool = False) -> int | None:
    """Parameters of the model; unknown where a process has only its share of them."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return None
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad or not trained)


def _architecture(config: Any) -> dict[str, Any]:
    """Sizes that a reader wants to know, as far as the configuration has them."""
    vision, text = (getattr(config, f"{name}_config", None) for name in ("vision", "text"))
    found: dict[str, Any] = {}
    image_size, patch_size = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if isinstance(image_size, int):
        found["images"] = f"{image_size} x {image_size} pixels" + (
            f", patches of {patch_size}" if isinstance(patch_size, int) else ""
        )
    for name, tower in (("image tower", vision), ("text tower", text)):
        layers, width = getattr(tower, "num_hidden_layers", None), getattr(tower, "hidden_size", None)
        if isinstance(layers, int) and isinstance(width, int):
            kind = tower.model_type if "_" not in tower.model_type else "transformer"
            found[name] = f"{kind}, {_layers(layers)}, width {width}"
    fusion = getattr(config, "fusion_encoder_config", None)
    if isinstance(getattr(fusion, "num_hidden_layers", None), int):
        found["fusion encoder"] = _layers(fusion.num_hidden_layers)
    if isinstance(getattr(config, "projection_dim", None), int):
        found["embedding"] = f"{config.projection_dim} dimensions"
    if getattr(vision, "selects_patches", False):
        found["patch selection"] = f"keeps {vision.patch_keep_rate:.0%}, chosen by the {vision.patch_selection_guide}"
    return found


def _layers(number: int) -> str:
    return f"{number} layer{'s' * (number != 1)}"


def _text_options(model: nn.Module, processor: Any) -> dict[str, Any]:
    if not hasattr(dual_encoder(model), "get_text_features") or processor is None:
        return {"padding": True, "truncation": True}
    options = text_options(dual_encoder(model), processor, None)
    if options["padding"] == "max_length":
        return options
    # Where the tokenizer or the model knows the limit, a snippet need not repeat it.
    limit = getattr(getattr(processor, "tokenizer", processor), "model_max_length", None)
    if limit == options.get("max_length"):
        options.pop("max_length")
    return options


def _has_matching_head(model: nn.Module, args: Any) -> bool:
    return type(model).__name__ == "SaclForImageTextRetrieval" or (
        hasattr(model, "itm_head") and getattr(args, "itm_weight", 0) > 0
    )


_REPO_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


def _base_models(config: Any) -> list[str]:
    """Hub ids that the model, or its towers, were loaded from; paths of this machine are nobody's business."""
    names = [getattr(config, "_name_or_path", None)]
    if not names[0]:
        names = [
            getattr(getattr(config, f"{tower}_config", None), "_name_or_path", None) for tower in ("vision", "text")
        ]
    return [name for name in dict.fromkeys(names) if name and _REPO_ID.fullmatch(name) and not os.path.exists(name)]


# The data --------------------------------------------------------------------------------------------------------


def _train_datasets(
    trainer: Trainer,
    names: str | Sequence[str] | None,
    repo_ids: str | Sequence[str] | None,
    configs: str | Sequence[str] | None,
) -> list[DatasetFacts]:
    listed, ids = _listed(names), _listed(repo_ids)
    own = [] if trainer.train_dataset is None else [dataset_facts(trainer.train_dataset)]
    if not listed and not ids:
        return own
    told = [_told(name) for name in listed] or [DatasetFacts() for _ in ids]
    for facts, repo_id in zip(told, ids, strict=False):
        facts.repo_id = repo_id
    for facts, config in zip(told, _listed(configs), strict=False):
        facts.config = config
    if len(told) == 1 and own:
        # One data set: how many rows it has is known.
        told[0].rows, told[0].split = own[0].rows, own[0].split
        told[0].license = told[0].license or own[0].license
        told[0].homepage = told[0].homepage or own[0].homepage
    return told


def _told(name: str) -> DatasetFacts:
    """A name, or the folder of a data set that has a card."""
    card = Path(name, CARD_NAME)
    if not card.is_file():
        return DatasetFacts(name=Path(name).name if os.path.exists(name) else name)
    try:
        metadata = parse_card(card.read_text(encoding="utf-8"), str(card)).metadata
    except (CardError, UnicodeDecodeError):
        return DatasetFacts(name=Path(name).name)
    license = metadata.get("license_name") or metadata.get("license")
    return DatasetFacts(
        name=str(metadata.get("pretty_name") or Path(name).resolve().name),
        license=", ".join(map(str, license)) if isinstance(license, list) else license and str(license),
        license_details=metadata.get("license_details") and str(metadata["license_details"]),
        homepage=metadata.get("homepage"),
    )


def dataset_facts(dataset: Any) -> DatasetFacts:
    """
    What a data set knows of itself. `dataset.info` may be told more: `dataset_name`, `license` and `homepage`.

    Args:
        dataset ([`~datasets.Dataset`] or any other):
            The data set. Where it lies on this machine is not told.
    """
    info = getattr(dataset, "info", None)
    split = getattr(dataset, "split", None)
    repo_id, revision = _hub_origin(dataset)
    homepage = getattr(info, "homepage", None)
    return DatasetFacts(
        name=getattr(info, "dataset_name", None) if repo_id is None else None,
        repo_id=repo_id,
        # "train[:1%]" says how it was cut.
        split=None if split is None else str(split),
        rows=len(dataset) if hasattr(dataset, "__len__") else None,
        license=getattr(info, "license", None) or None,
        homepage=homepage if homepage and homepage.startswith("https://") else None,
        revision=revision,
    )


def _hub_origin(dataset: Any) -> tuple[str | None, str | None]:
    """Hub id and commit, from where `load_dataset` keeps what it downloads: `user___name/config/0.0.0/commit/`."""
    for file in getattr(dataset, "cache_files", None) or []:
        for folder in Path(file["filename"]).parents:
            if "___" not in folder.name:
                continue
            user, name = folder.name.split("___", 1)
            commit = next((part for part in Path(file["filename"]).parts if re.fullmatch("[0-9a-f]{40}", part)), None)
            return f"{user}/{name}", commit
    return None, None


# The training ----------------------------------------------------------------------------------------------------


def _objective(trainer: Trainer) -> ObjectiveFacts | None:
    objective, args = getattr(trainer, "objective", None), trainer.args
    if objective is None:
        return None
    regulates = isinstance(objective, SaclObjective) and args.regulation_strength > 0
    names = list(_OBJECTIVE if isinstance(objective, SaclObjective) else ())
    names += _DISTILLATION if trainer.teacher is not None and args.distillation_weight > 0 else ()
    names += _GUIDE if "guide_image_embeds" in _columns(trainer.train_dataset) else ()
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    settings |= {name: value for name, value in objective.get_config_dict().items() if value is not None}
    terms = getattr(trainer, "terms", [])
    for term in terms:
        settings |= {f"{term.name}_weight": getattr(args, f"{term.name}_weight"), **term.get_config_dict()}
    beside = [f"Beside it the term `{term.name}`:\n\n{describe_objective(type(term))}" for term in terms]
    return ObjectiveFacts(
        name=objective.name,
        description="\n\n".join([describe_objective(type(objective)), *beside]),
        citation="\n\n".join(part.citation for part in (objective, *terms)),
        settings={name: _plain(value) for name, value in settings.items()},
        regulates=regulates,
    )


def _columns(dataset: Any) -> list[str]:
    return getattr(dataset, "column_names", None) or []


def describe_objective(objective: type) -> str:
    """
    An objective's own description, as Markdown: its docstring without the part on arguments.

    Args:
        objective (`type`): A [`ContrastiveObjective`].
    """
    paragraphs = re.split(r"\n\s*\n", inspect.getdoc(objective) or "")
    kept, skipping = [], False
    for paragraph in paragraphs:
        if re.match(r"(Args|Attributes|Example|Raises|Returns):", paragraph):
            skipping = True
        elif not paragraph.startswith(" "):
            skipping = False
        if not skipping:
            kept.append(paragraph)
    # References to classes mean something in the documentation alone.
    return re.sub(r"\[(`[^`\]]+`)\](?!\()", r"\1", "\n\n".join(kept))


def _hyperparameters(args: Any) -> dict[str, Any]:
    """The arguments that decide what is learned: some always, the others where they are not the default."""
    reference = SaclTrainingArguments if isinstance(args, SaclTrainingArguments) else type(args)
    defaults = {field.name: field.default for field in fields(reference)}
    found: dict[str, Any] = {}
    for name in (*_ALWAYS, *_PARTS, *_IF_CHANGED):
        value = getattr(args, name, None)
        # Unset is unset, whatever it is called.
        if name not in defaults or (name in _IF_CHANGED and (value or None) == (defaults[name] or None)):
            continue
        if name == "num_train_epochs" and args.max_steps > 0:
            name, value = "max_steps", args.max_steps
        found[name] = _plain(value)
    if args.world_size > 1:
        found["processes"] = args.world_size
    return found


def _plain(value: Any) -> Any:
    """As JSON holds it: enums by their value, what has no plain form as it prints."""
    value = getattr(value, "value", value)
    try:
        json.dumps(value)
    except TypeError:
        return str(value)
    return value


def _versions(has_adapters: bool) -> dict[str, str]:
    names = ["torch", "transformers", "datasets", "accelerate", "tokenizers", *(["peft"] if has_adapters else [])]
    found = {"Python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _hardware(args: Any) -> str:
    device = args.device
    if device.type == "cuda":
        name = f"{args.world_size} x {torch.cuda.get_device_name(device)}"
    elif device.type == "cpu":
        name = f"CPU, {_processor_name()}, {os.cpu_count()} cores"
    else:
        name = f"{args.world_size} x {device.type}"
    return name if args.world_size == 1 or device.type != "cpu" else f"{args.world_size} processes on {name}"


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, None) or platform.processor() or platform.machine()


def _duration(trainer: Trainer) -> tuple[float | None, int]:
    """Seconds of training, and the step from which they count: a resumed run knows only of its own."""
    runtimes = [entry["train_runtime"] for entry in trainer.state.log_history if "train_runtime" in entry]
    return (runtimes[-1] if runtimes else None), getattr(trainer, "_initial_global_step", 0) if runtimes else 0


def _energy(folder: Path) -> tuple[float | None, float | None]:
    """Kilowatt-hours and kilograms of CO2 equivalents as codecarbon's callback has left them, if it was there."""
    try:
        with open(folder / "emissions.csv", newline="", encoding="utf-8") as file:
            last = list(csv.DictReader(file))[-1]
        return float(last["energy_consumed"]), float(last["emissions"])
    except (OSError, IndexError, KeyError, ValueError, TypeError):
        return None, None


def _thinned(log_history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """At most so many entries of the training, evenly spaced, and all evaluations."""
    step = -(-len(log_history) // MAX_LOG_ENTRIES) or 1
    kept = [entry for number, entry in enumerate(log_history) if number % step == 0 or "loss" not in entry]
    return [
        {name: value for name, value in entry.items() if isinstance(value, (int, float)) and math.isfinite(value)}
        for entry in kept
    ]


# What it scores --------------------------------------------------------------------------------------------------


def _results(trainer: Trainer, names: list[str], repo_ids: list[str]) -> list[EvaluationResult]:
    """The last scores of each data set, of the model as it is now; with their step, if it has learned on since."""
    state = trainer.state
    history = [dict(entry) for entry in state.log_history]
    ended = max((number for number, entry in enumerate(history) if "train_runtime" in entry), default=None)
    best = state.best_global_step if trainer.args.load_best_model_at_end and ended is not None else None
    found: dict[str, EvaluationResult] = {}
    for number, entry in enumerate(history):
        prefix = _prefix(entry)
        step = entry.get("step")
        if prefix is None:
            continue
        if best is not None and ended is not None and number < ended and step != best:
            # The best model was loaded again at the end: what others scored is not what it scores.
            continue
        start = f"{prefix}_"
        metrics = {name.removeprefix(start): value for name, value in entry.items() if name.startswith(start)}
        metrics = {name: value for name, value in metrics.items() if _is_number(value)}
        current = step == state.global_step or best is not None
        found[prefix] = EvaluationResult(_evaluated(trainer, prefix), metrics, step=None if current else step)
    for result in found.values():
        # One data set was named: what does not know its own name is a split of it.
        if result.dataset.name is None and result.dataset.repo_id is None and len(names or repo_ids) == 1:
            result.dataset.name = _told(names[0]).name if names else None
            result.dataset.repo_id = repo_ids[0] if repo_ids else None
    return list(found.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _prefix(entry: Mapping[str, Any]) -> str | None:
    """What all names of an evaluation begin with, `"eval"` or `"eval_"` and a name; `None` for one of training."""
    runtime = next((name for name in entry if name.endswith("_runtime") and name != "train_runtime"), None)
    if runtime is not None:
        return runtime.removesuffix("_runtime")
    return None


def _evaluated(trainer: Trainer, prefix: str) -> DatasetFacts:
    datasets = trainer.eval_dataset
    name = prefix.removeprefix("eval").removeprefix("_")
    if isinstance(datasets, dict):
        facts = dataset_facts(datasets[name]) if name in datasets else DatasetFacts()
        facts.split = name if name in datasets or not facts.split else facts.split
    elif prefix == "eval" and datasets is not None:
        facts = dataset_facts(datasets)
    else:
        facts = DatasetFacts()
    if facts.split is None:
        facts.split = name or None
    return facts


# One look at the model -------------------------------------------------------------------------------------------


def _look(trainer: Trainer, model: nn.Module, facts: CardFacts) -> None:
    """What pictures show: the weights of negatives, and what texts find."""
    processor = trainer.processing_class
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        logger.info("The card shows neither weights nor images found: the model lies in slices on several devices.")
        return
    encoder = dual_encoder(model)
    if processor is None or not all(hasattr(encoder, f"get_{side}_features") for side in ("image", "text")):
        return
    has_evaluation = trainer.eval_dataset is not None
    dataset = trainer.eval_dataset if has_evaluation else trainer.train_dataset
    if isinstance(dataset, dict):
        dataset = next(iter(dataset.values()), None)
    sample = _sample(dataset)
    if sample is None:
        return
    kind = "evaluation" if has_evaluation else "training"
    try:
        embeddings = embed_pairs(
            model,
            sample,
            processor,
            batch_size=min(64, trainer.args.eval_batch_size),
            on_error="skip",
            show_progress=False,
        )
    except (ValueError, TypeError, OSError) as error:
        logger.warning(f"The card shows neither weights nor images found: {error}")
        return
    weights = _weights(trainer, embeddings)
    if weights is not None and len(weights):
        facts.regulation_weights = _quantiles(weights)
        num_texts, num_images = len(embeddings.text_embeds), len(embeddings.image_embeds)
        facts.regulated_pairs = f"{num_texts:,} texts among {num_images:,} images of the {kind} data"
    if has_evaluation:
        relevance = getattr(trainer, "eval_relevance", None)
        facts.found = _found(sample, embeddings, kind, None if relevance is None else relevance(sample))


def _sample(dataset: Any) -> Any:
    """Some rows, evenly spaced; of a stream the first; `None` if there are none to be had."""
    if isinstance(dataset, Dataset):
        if not len(dataset):
            return None
        count = min(SAMPLE_SIZE, len(dataset))
        return undecoded(with_pair_ids(dataset).select([number * len(dataset) // count for number in range(count)]))
    return None


def _weights(trainer: Trainer, embeddings: PairEmbeddings) -> torch.Tensor | None:
    """The weights of all negatives of the sample, by the model's own similarity and the full strength."""
    objective, args = getattr(trainer, "objective", None), trainer.args
    if not isinstance(objective, SaclObjective) or args.regulation_strength == 0:
        return None
    similarity = embeddings.text_embeds @ embeddings.image_embeds.T
    negatives = ~find_positives(embeddings.text_ids, embeddings.image_ids)
    log_weights = log_regulation_weights(similarity, strength=args.regulation_strength, negative_mask=negatives)
    if objective.filter_threshold is not None:
        log_weights = filter_log_weights(log_weights, objective.filter_threshold)
    return log_weights.exp()[negatives].float().cpu()


def _quantiles(weights: torch.Tensor) -> list[float]:
    ordered = weights.sort().values
    places = torch.linspace(0, len(ordered) - 1, min(NUM_QUANTILES, len(ordered))).round().long()
    return [round(weight, 5) for weight in ordered[places].tolist()]


def _found(
    sample: Dataset, embeddings: PairEmbeddings, kind: str, relevance: Callable[..., torch.Tensor] | None
) -> FoundImages:
    """What some texts, evenly spaced and not chosen, find among the images of the sample."""
    texts = list(dict.fromkeys(embeddings.texts))
    queries = texts[:: max(1, len(texts) // NUM_QUERIES)][:NUM_QUERIES]
    rows = torch.tensor([embeddings.texts.index(query) for query in queries])
    similarity = (embeddings.text_embeds @ embeddings.image_embeds.T).cpu()[rows]
    best = similarity.topk(min(NUM_FOUND, similarity.shape[1])).indices
    grades = find_positives(embeddings.text_ids.cpu()[rows], embeddings.image_ids.cpu()).float()
    if relevance is not None:
        graded = relevance(embeddings.image_rows.cpu(), embeddings.text_rows.cpu()[rows]).T.float()
        grades = torch.maximum(grades, graded)
    image_rows = embeddings.image_rows.cpu()
    wanted: Iterable[int] = sorted({int(image_rows[number]) for number in best.flatten()})
    images = dict(zip(wanted, read_images(sample, list(wanted)), strict=True))
    return FoundImages(
        queries=queries,
        images=[[images[int(image_rows[number])] for number in row] for row in best],
        grades=grades.gather(1, best).tolist(),
        num_candidates=len(image_rows),
        dataset=f"the {kind} data",
    )
