# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Trains a model on pairs of images and captions: from a trained one (SACL, CLIP, SigLIP ...), or from two towers.

Besides the options below, every one of transformers.TrainingArguments is understood (--help_all lists them), here or
in a file: --config run.yaml. Options that are numbers and may be absent take `none`: --momentum none."""

from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from .arguments import option
from .errors import CommandError, UsageError
from .output import Output
from .sources import PairArguments


EXAMPLES = """
  # Fine-tune a CLIP on pairs that are not one-to-one.
  sacl train --model openai/clip-vit-base-patch32 --dataset user/catalogue --caption_columns title description \\
      --output_dir clip-catalogue --learning_rate 1e-5 --num_train_epochs 5 --bf16

  # Pre-train SACL from published towers: contrast, matching and masked words.
  sacl train --vision_model openai/clip-vit-base-patch16 --text_model google-bert/bert-base-uncased --image_size 256 \\
      --dataset user/catalogue --output_dir sacl-catalogue --vision_learning_rate 1e-5 --queue_size 65536

  # The same from a file, with another learning rate; the keys of the file are the names of the options.
  sacl train --config run.yaml --learning_rate 5e-5

  # Adapters instead of the whole model; no teacher; what is measured is a split of the same data.
  sacl train --model openai/clip-vit-large-patch14 --dataset user/radiology --eval_split validation --lora_rank 16 \\
      --momentum none --output_dir clip-radiology-lora

  # On several GPUs, and on from where it stopped.
  accelerate launch --num_processes 8 -m trainer.cli train --config run.yaml --resume_from_checkpoint true
"""

# Of the parent class, what most runs set; the rest is shown by --help_all.
_COMMON_OPTIONS = {
    *("output_dir", "num_train_epochs", "max_steps", "per_device_train_batch_size", "per_device_eval_batch_size"),
    *("gradient_accumulation_steps", "bf16", "learning_rate", "weight_decay", "lr_scheduler_type", "warmup_steps"),
    *("activation_checkpointing", "seed", "eval_strategy", "eval_steps", "save_strategy", "save_steps"),
    *("save_total_limit", "logging_steps", "report_to", "load_best_model_at_end", "metric_for_best_model"),
    *(
        "dataloader_num_workers",
        "resume_from_checkpoint",
        "push_to_hub",
        "hub_model_id",
        "hub_private_repo",
        "use_cpu",
    ),
}


@dataclass
class StartArguments:
    """What the training starts from."""

    _argument_group_name = "what to train"

    model: str | None = option("folder or Hub id of a trained model: SACL, CLIP, SigLIP, any dual encoder", None)
    vision_model: str | None = option("CLIP, ViT (or any image encoder) that the image tower starts as", None)
    text_model: str | None = option("BERT-like model that the text half starts as", None)
    architecture: str = option(
        "what becomes of the towers: SACL, or VisionTextDualEncoderModel", "sacl", choices=["sacl", "dual_encoder"]
    )
    image_size: int | None = option("pixels along the side of an image, if other than the model's", None)
    model_revision: str | None = option("branch, tag or commit of --model on the Hub", None)
    trust_remote_code: bool = option("run code that lies beside the model; needed for models that are not ours", False)
    guide_model: str | None = option("frozen model whose similarities regulate until the model's own do", None)
    license: str | None = option("licence of the weights, for the model card", None)


@dataclass
class TrainPairArguments(PairArguments):
    """Pairs to learn from, and pairs to measure on."""

    _argument_group_name = "what to learn from"

    split: str | None = option("its split", "train")
    streaming: bool = option("read rows as they come instead of preparing the data set on disk", False)
    eval_dataset: str | None = option("data set to measure on (default: that of training, with --eval_split)", None)
    eval_split: str | None = option("split to measure on", None)
    eval_max_rows: int | None = option("measure on so many rows only, the first", None)
    max_length: int | None = option("cut captions to so many tokens (by default what the model allows)", None)
    augment: bool = option("crop, flip and vary the images of training", True)
    min_crop: float | None = option("smallest share of an image that a crop keeps", None)
    fill: int | None = option("brightness, 0 to 255, of what augmentation uncovers; 255 for images on white", None)


@dataclass
class LoraArguments:
    """Adapters in place of the whole model."""

    _argument_group_name = "adapters (LoRA, needs peft)"

    lora_rank: int = option("rank of the adapters; 0 trains the model itself", 0)
    lora_alpha: int | None = option("scale of the adapters (default: twice the rank)", None)
    lora_dropout: float = option("dropout in the adapters", 0.0)
    lora_target_modules: list[str] | None = option(
        "names of the layers that get adapters (default: every linear layer)", None
    )
    lora_modules_to_save: list[str] | None = option("names of modules that are trained whole", None)


def arguments() -> tuple[Any, ...]:
    """The dataclasses of this command, and which options `--help` shows."""
    from ..sacl_config import SaclTrainingArguments

    inherited = {field.name for field in fields(SaclTrainingArguments.__mro__[1])}  # type: ignore[arg-type]

    def shown(dtype: type, field: Field) -> bool:
        return dtype is not SaclTrainingArguments or field.name not in inherited - _COMMON_OPTIONS

    def title(dtype: type, field: Field) -> str | None:
        if dtype is not SaclTrainingArguments:
            return None
        return "training" if field.name in inherited else "objective, teacher, queue, losses"

    # `debug` of TrainingArguments would stand in the way of --debug; a file can set it.
    return (
        StartArguments,
        TrainPairArguments,
        LoraArguments,
        SaclTrainingArguments,
        {"shown": shown, "title": title, "left_out": ["debug"]},
    )


def run(output: Output, start: StartArguments, source: TrainPairArguments, lora: LoraArguments, args: Any) -> None:
    """Trains, saves, measures and pushes."""
    from transformers import set_seed
    from transformers.trainer_callback import PrinterCallback

    from .. import SaclTrainer
    from .loading import describe

    _check(start, source)
    adapters = _adapters(lora)
    args.disable_tqdm = args.disable_tqdm or not output.show_progress
    args.output_dir = args.output_dir or "trainer_output"
    set_seed(args.seed)
    train, evaluation = _open(source)
    model, processor = _build(start)
    rows = f"{len(train):,} rows" if hasattr(train, "__len__") else "a stream of rows"
    output.say(f"{describe(source)}: {rows}; {model.num_parameters():,} parameters; objective {args.objective}")
    trainer = SaclTrainer(
        model,
        args,
        data_collator=_collator(source, args, model, processor),
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=processor,
        guide_model=start.guide_model,
        peft_config=adapters,
    )
    if output.quiet:
        trainer.remove_callback(PrinterCallback)
    _tell_card(trainer, start, source)
    resume = args.resume_from_checkpoint
    result = trainer.train(resume_from_checkpoint={"true": True, "false": None}.get(str(resume).lower(), resume))
    trainer.save_model()
    metrics = trainer.evaluate() if evaluation is not None else None
    url = trainer.push_to_hub().commit_url if args.push_to_hub else None
    document = {
        "output_dir": args.output_dir,
        "steps": result.global_step,
        "train": result.metrics,
        "evaluation": metrics,
        "pushed": url,
    }
    output.result(_text(document), document)


def _check(start: StartArguments, source: TrainPairArguments) -> None:
    towers = (start.vision_model, start.text_model)
    if start.model is None and None in towers:
        raise UsageError("Give --model, or --vision_model and --text_model. See `sacl train --help`.")
    if start.model is not None and towers != (None, None):
        raise UsageError("--model is a whole model: leave out --vision_model and --text_model, or --model.")
    if not source.augment and (source.min_crop is not None or source.fill is not None):
        raise UsageError("--min_crop and --fill are for augmentation, which is switched off.")


def _open(source: TrainPairArguments) -> tuple[Any, Any]:
    """Pairs to learn from, and pairs to measure on if there are any."""
    from dataclasses import replace

    from .loading import open_pairs

    train = open_pairs(source, streaming=source.streaming)
    if source.eval_dataset is None and source.eval_split is None:
        return train, None
    other = source.eval_dataset is not None
    measured = replace(
        source,
        dataset=source.eval_dataset or source.dataset,
        split=source.eval_split,
        dataset_name=None if other else source.dataset_name,
        dataset_revision=None if other else source.dataset_revision,
        max_rows=source.eval_max_rows,
    )
    return train, open_pairs(measured)


def _build(start: StartArguments) -> tuple[Any, Any]:
    """The model to train, and its processor."""
    from transformers import AutoProcessor

    from .loading import load_model_to_train

    if start.model is None:
        return _join_towers(start)
    options = {"revision": start.model_revision, "trust_remote_code": start.trust_remote_code}
    model = load_model_to_train(start.model, **options)
    processor = AutoProcessor.from_pretrained(start.model, **options)
    if start.image_size is not None:
        if not hasattr(model, "set_image_size"):
            raise CommandError(f"`{type(model).__name__}` cannot be given another --image_size: leave it out.")
        model.set_image_size(start.image_size)
        processor.image_processor.size = {"height": start.image_size, "width": start.image_size}
    return model, processor


def _join_towers(start: StartArguments) -> tuple[Any, Any]:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoTokenizer,
        BlipImageProcessor,
        VisionTextDualEncoderModel,
        VisionTextDualEncoderProcessor,
    )

    from modeling_sacl import SaclForPreTraining, SaclProcessor

    vision, text = str(start.vision_model), str(start.text_model)
    if start.architecture == "dual_encoder":
        if start.image_size is not None:
            raise UsageError("--image_size is for SACL: another architecture takes images as its image tower does.")
        # Their configurations are read first, since the method would ask on the terminal whether to run code.
        for tower in (vision, text):
            AutoConfig.from_pretrained(tower, trust_remote_code=False)
        model = VisionTextDualEncoderModel.from_vision_text_pretrained(vision, text)
        processor: Any = VisionTextDualEncoderProcessor(
            AutoImageProcessor.from_pretrained(vision, trust_remote_code=False),
            AutoTokenizer.from_pretrained(text, trust_remote_code=False),
        )
        return model, processor
    model = SaclForPreTraining.from_vision_text_pretrained(vision, text, image_size=start.image_size)
    side = model.config.vision_config.image_size
    image_processor = BlipImageProcessor(size={"height": side, "width": side})
    return model, SaclProcessor(image_processor, AutoTokenizer.from_pretrained(text, trust_remote_code=False))


def _collator(source: TrainPairArguments, args: Any, model: Any, processor: Any) -> Any:
    """None, for that of the trainer, unless something about it was asked for."""
    from dataclasses import replace

    from ..data import PairCollator

    augmentation = {"min_scale": source.min_crop, "fill": source.fill}
    augmentation = {name: value for name, value in augmentation.items() if value is not None}
    if source.augment and not augmentation and source.max_length is None:
        return None
    masks = hasattr(model, "mlm_head") and args.mlm_weight > 0
    plain = PairCollator(processor, mlm_probability=args.mlm_probability if masks else 0.0).for_model(model)
    if source.max_length is not None:
        plain = replace(plain, max_length=source.max_length)
    if not source.augment:
        return plain
    return replace(plain.for_training(**augmentation), second_views=args.unimodal_self_supervision_weight > 0)


def _adapters(lora: LoraArguments) -> Any:
    if lora.lora_rank < 0:
        raise UsageError(f"--lora_rank is 0 or more, got {lora.lora_rank}.")
    if not lora.lora_rank:
        return None
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise CommandError("--lora_rank needs peft: `pip install peft`.") from error
    return LoraConfig(
        r=lora.lora_rank,
        lora_alpha=2 * lora.lora_rank if lora.lora_alpha is None else lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.lora_target_modules or "all-linear",
        modules_to_save=lora.lora_modules_to_save,
    )


def _tell_card(trainer: Any, start: StartArguments, source: TrainPairArguments) -> None:
    """What the trainer cannot know of its data and its beginning."""
    local = Path(source.dataset).exists()
    base = start.model if start.model is not None and not Path(start.model).exists() else None
    trainer.create_model_card(
        license=start.license,
        finetuned_from=base,
        dataset=source.dataset if not local or Path(source.dataset).is_dir() else Path(source.dataset).name,
        dataset_tags=None if local else source.dataset,
        dataset_args=source.dataset_name,
        pictures=False,
    )


def _text(document: dict[str, Any]) -> str:
    train, metrics = document["train"], document["evaluation"] or {}
    lines = [f"{document['steps']:,} steps in {train['train_runtime']:.0f} s, loss {train['train_loss']:.3f}"]
    wanted = ("eval_text_to_image_recall@10", "eval_image_to_text_recall@10")
    lines += [
        f"{name.removeprefix('eval_').replace('_', ' ')}: {metrics[name]:.1f} %" for name in wanted if name in metrics
    ]
    lines.append(f"The model is in {document['output_dir']}")
    if document["pushed"]:
        lines.append(f"Pushed: {document['pushed']}")
    return "\n".join(lines)
