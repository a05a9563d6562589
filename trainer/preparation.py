# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What a trainer is given, made ready before the first step: models, collators, and settings that go together."""

from dataclasses import replace
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, PreTrainedModel, ProcessorMixin
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import is_peft_available, logging

from .data import PairCollator, swap_words
from .objectives import OBJECTIVES
from .sacl_config import SaclTrainingArguments
from .terms import TERMS
from .terms.rows import VIEW


logger = logging.get_logger(__name__)


# Models ----------------------------------------------------------------------------------------------------------


def load_model(name: str) -> PreTrainedModel:
    """The model of a folder or Hub id: with its pre-training heads if its family has them, else the dual encoder."""
    # Said, since left unsaid it is asked for on the terminal: code is run by who loads the model and passes it.
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    auto_class = AutoModelForPreTraining if config.model_type == "sacl" else AutoModel
    return auto_class.from_pretrained(name, trust_remote_code=False)


def with_adapters(model: PreTrainedModel, peft_config: Any) -> PreTrainedModel:
    """The model with adapters as a [`~peft.PeftConfig`] describes them, which alone are trained."""
    if not is_peft_available():
        raise ImportError("`peft_config` needs the library peft: `pip install peft`.")
    from peft import get_peft_model

    return get_peft_model(model, peft_config)


# Collators -------------------------------------------------------------------------------------------------------


def default_collator(
    model: nn.Module, processor: ProcessorMixin | None, args: SaclTrainingArguments, masks_text: bool
) -> PairCollator:
    """The collator that makes what the model, the objective and the terms of these arguments read."""
    if processor is None:
        raise ValueError(
            "Pass the model's processor as `processing_class`, or a `data_collator`: without either, images and "
            "captions cannot become a batch."
        )
    extra_texts: dict[str | None, dict[str, Any]] = {
        "further": {"captions_per_image": args.captions_per_image},
        "negative": {"negative_caption": swap_words},
    }
    options = extra_texts.get(OBJECTIVES[args.objective].extra_texts, {})
    mlm_probability = args.mlm_probability if masks_text else 0.0
    collator = PairCollator(processor, mlm_probability=mlm_probability, **options).for_model(model)
    if collator.image_size() is not None:
        collator = collator.for_training()
        # A quarter of the bytes on their way to an accelerator; on the CPU that is what workers are for.
        on_device = args.device.type != "cpu" and collator.can_leave_normalizing
        collator = replace(collator, normalize=not on_device)
    else:
        logger.warning(
            f"{type(processor.image_processor).__name__} gives each image a shape of its own, so images are not "
            "augmented. Pass `data_collator=PairCollator(processor, image_transform=...)` to augment them."
        )
    return replace(collator, second_views=True) if _wants_views(args) else collator


def check_collator(collator: Any, model: nn.Module, args: SaclTrainingArguments) -> None:
    """
    Warns of a collator that pads captions otherwise than the model was trained with: a model of texts of one length
    (SigLIP) would train on other texts than it is evaluated with. What a collator of another class makes is seen in
    its first batch.

    Raises:
        ValueError: if it makes no second views, and a term compares them.
    """
    if not isinstance(collator, PairCollator):
        return
    if (fitting := collator.for_model(model)) is not collator:
        logger.warning(
            f"`{type(model).__name__}` was trained with captions padded and cut to {fitting.max_length} tokens, which "
            "the data collator does not do: pass `data_collator.for_model(model)`."
        )
    if _wants_views(args) and not collator.second_views:
        raise ValueError(
            "`unimodal_self_supervision_weight` compares two views of each image and text, and the data collator "
            "makes one: pass `dataclasses.replace(data_collator, second_views=True)`, or no `data_collator`."
        )


def _wants_views(args: SaclTrainingArguments) -> bool:
    return any(term.rows == VIEW and getattr(args, f"{name}_weight") > 0 for name, term in TERMS.items())


# Settings --------------------------------------------------------------------------------------------------------


def warn_of_epochs(args: SaclTrainingArguments) -> None:
    """Of what would happen once for every epoch of a stream."""
    strategies = ("eval_strategy", "logging_strategy", "save_strategy")
    once = [f"`{name}`" for name in strategies if getattr(args, name) == "epoch"]
    if once:
        logger.warning(
            f"A stream is one long epoch, of `max_steps`: with 'epoch' as {', '.join(once)} that happens once, at the "
            "end of training. Use 'steps'."
        )


def warn_of_accumulation(args: SaclTrainingArguments) -> None:
    """Of accumulated gradients, where a larger contrast may be what is wanted."""
    if args.gradient_accumulation_steps > 1 and args.contrastive_chunk_size is None:
        logger.warning(
            f"`gradient_accumulation_steps={args.gradient_accumulation_steps}` averages gradients of batches that do "
            "not see each other: it adds no negatives. For the contrast of a large batch in the memory of a small one "
            f"set `per_device_train_batch_size={args.gradient_accumulation_steps * args.per_device_train_batch_size}` "
            f"and `contrastive_chunk_size={args.per_device_train_batch_size}`."
        )


def check_deepspeed(args: SaclTrainingArguments) -> None:
    """DeepSpeed owns backward and optimiser, and at stage 3 the weights: what needs them is refused, not broken."""
    if is_deepspeed_zero3_enabled() and args.off_diagonal_weight > 0:
        raise ValueError(
            "At ZeRO stage 3 no process has whole weights, so there is nothing to copy for `off_diagonal_weight`: "
            "take stage 2, FSDP, or `off_diagonal_weight=0`."
        )
    if is_deepspeed_zero3_enabled() and args.momentum is not None:
        raise ValueError(
            "At ZeRO stage 3 no process has whole weights, so the momentum teacher has nothing to follow: take stage "
            "2, FSDP (which shards the teacher too), or `momentum=None`."
        )
    if args.contrastive_chunk_size is not None:
        raise ValueError(
            "DeepSpeed counts every backward as a batch, and gradient caching has one for each chunk: take FSDP or "
            "DDP, or `contrastive_chunk_size=None`."
        )
    if args.nan_policy == "skip":
        raise ValueError(
            "DeepSpeed moves the optimiser within the backward, so that no step can be left out: take FSDP or DDP, or "
            "`nan_policy='raise'`."
        )
