# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""ALBEF's published checkpoints as SACL models: `python -m modeling_sacl.convert_albef_to_hf FILE.pth FOLDER`.

ALBEF is Li et al., NeurIPS 2021, [arXiv 2107.07651](https://huggingface.co/papers/2107.07651). Its towers, fusion
encoder and heads are those that SACL has, under other names: the converted model computes what ALBEF computes.
"""

import argparse
import dataclasses
import hashlib
import json
import math
import os
import pickle
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    BertConfig,
    BlipImageProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TokenizersBackend,
)

from .classification_sacl import SaclForImageTextClassification
from .configuration_sacl import SaclConfig
from .modeling_sacl import SaclPreTrainedModel
from .pretraining_sacl import SaclForPreTraining
from .processing_sacl import SaclProcessor
from .question_answering_sacl import SaclForQuestionAnswering
from .retrieval_sacl import SaclForImageTextRetrieval
from .warm_start_sacl import _BERT_LAYER_TO_FUSION, _MASKED_LANGUAGE_HEAD, Renaming, Weights, new_name


MODEL_CLASSES: dict[str, type[SaclPreTrainedModel]] = {
    "pretraining": SaclForPreTraining,
    "retrieval": SaclForImageTextRetrieval,
    "question_answering": SaclForQuestionAnswering,
    "classification": SaclForImageTextClassification,
}
DEFAULT_TOKENIZER = "google-bert/bert-base-uncased"

# In the order of ALBEF's data set for SNLI-VE.
ENTAILMENT_LABELS = ("contradiction", "neutral", "entailment")
# Of bert-base-uncased, for a decoder whose tokenizer is not at hand: [CLS], [SEP], [PAD].
BERT_TOKENS = {"decoder_start_token_id": 101, "eos_token_id": 102, "pad_token_id": 0}
# The width of an attention head in ViT-B and BERT-base; the checkpoint does not tell it.
HEAD_WIDTH = 64

_VISION: Renaming = [
    (r"cls_token", r"embeddings.class_embedding"),
    (r"pos_embed", r"embeddings.position_embedding"),
    (r"patch_embed\.proj\.(.+)", r"embeddings.patch_embedding.\1"),
    (r"blocks\.(\d+)\.norm1\.(.+)", r"layers.\1.self_attention_layer_norm.\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(.+)", r"layers.\1.self_attention.o_proj.\2"),
    (r"blocks\.(\d+)\.norm2\.(.+)", r"layers.\1.mlp_layer_norm.\2"),
    (r"blocks\.(\d+)\.mlp\.(.+)", r"layers.\1.mlp.\2"),
    (r"norm\.(.+)", r"post_layer_norm.\1"),
]
_FUSION_LAYER: Renaming = [
    *_BERT_LAYER_TO_FUSION,
    (r"crossattention\.self\.query\.(.+)", r"cross_attention.q_proj.\1"),
    (r"crossattention\.self\.key\.(.+)", r"cross_attention.k_proj.\1"),
    (r"crossattention\.self\.value\.(.+)", r"cross_attention.v_proj.\1"),
    (r"crossattention\.output\.dense\.(.+)", r"cross_attention.o_proj.\1"),
    (r"crossattention\.output\.LayerNorm\.(.+)", r"cross_attention_layer_norm.\1"),
]
_ANSWER_SEGMENTS = "text_decoder.embeddings.token_type_embeddings.weight"
_DECODER_EMBEDDINGS: Renaming = [
    (r"embeddings\.word_embeddings\.weight", r"answer_decoder.word_embedding.weight"),
    (r"embeddings\.position_embeddings\.weight", r"answer_decoder.position_embedding.weight"),
    # Answers have one segment, whose embedding is that much more of every position.
    (r"embeddings\.token_type_embeddings\.weight", r"answer_decoder.position_embedding.weight"),
    (r"embeddings\.LayerNorm\.(.+)", r"answer_decoder.embedding_layer_norm.\1"),
]
_HEADS: Renaming = [
    (r"temp", r"sacl.logit_scale"),
    (r"vision_proj\.(.+)", r"sacl.visual_projection.\1"),
    (r"text_proj\.(.+)", r"sacl.text_projection.\1"),
    (r"itm_head\.(.+)", r"itm_head.\1"),
    (r"cls_head\.0\.(.+)", r"classifier.dense.\1"),
    (r"cls_head\.2\.(.+)", r"classifier.out_proj.\1"),
]
_PREDICTION_HEAD: Renaming = [*_MASKED_LANGUAGE_HEAD, (r"cls\.predictions\.decoder\.bias", r"decoder.bias")]
_TRAINING_STATE = [
    (r"(\w+)_m\..+", "the momentum teacher's copy; training starts a new one from the model"),
    (r"(image|text|idx)_queue|queue_ptr", "queue of the features of past batches; training fills a new one"),
    (r"text_(en|de)coder\.embeddings\.position_ids", "the numbers 0, 1, 2, ..., which are made anew"),
]
# Heads of one task in a checkpoint that is to be converted for another.
_OTHER_HEADS = {
    "pretraining": r"(text_decoder|cls_head)\..+",
    "retrieval": r"(text_encoder\.cls|text_decoder|cls_head)\..+",
    "question_answering": r"(text_encoder\.cls|itm_head|cls_head)\..+",
    "classification": r"(text_encoder\.cls|text_decoder|itm_head)\..+",
}
# What fine-tuned checkpoints of ALBEF do not have, but a SACL model does, whatever its head.
_CONTRAST = ("sacl.logit_scale", "sacl.visual_projection.", "sacl.text_projection.")


@dataclass
class ConversionReport:
    r"""
    What became of every tensor of a checkpoint.

    Args:
        source (`str`):
            Name of the file.
        sha256 (`str`):
            Hash of the file.
        task (`str`):
            `"pretraining"`, `"retrieval"`, `"question_answering"` or `"classification"`.
        model_class (`str`):
            Name of the class of the model.
        output_dir (`str`):
            The folder with model, processor, and this report as `conversion.json`.
        image_size (`int`):
            Height and width of the images in pixels.
        source_image_size (`int`):
            The same, of the checkpoint; if other than `image_size`, the positions were resampled.
        temperature (`float`, *optional*):
            The temperature of the contrast, where the checkpoint has one.
        mapped (`dict[str, list[str]]`):
            For every tensor that was carried over, the parameters that it has become, or a part of them.
        dropped (`dict[str, str]`):
            For every other one, the reason.
        initialized (`dict[str, str]`):
            For every parameter of the model that the checkpoint has nothing for, the reason.
        num_parameters (`dict[str, int]`):
            How many numbers: of the `checkpoint` those `mapped` and `dropped`, of the `model` those `initialized`.
        notes (`list[str]`):
            What the user should know or do.
    """

    source: str
    sha256: str
    task: str
    model_class: str
    output_dir: str
    image_size: int
    source_image_size: int
    temperature: float | None
    mapped: dict[str, list[str]]
    dropped: dict[str, str]
    initialized: dict[str, str]
    num_parameters: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        """The report as plain data, as in `conversion.json`: without the folder, which is nobody else's business."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "output_dir"}

    def summary(self) -> str:
        """A few lines to read."""
        reasons: dict[str, list[str]] = {}
        for name, reason in self.dropped.items():
            reasons.setdefault(reason, []).append(name)
        count = self.num_parameters
        lines = [
            f"{self.source} (SHA-256 {self.sha256})",
            f"-> {self.output_dir}: {self.model_class}, {self.image_size} pixels, {count['model']:,} parameters",
            f"mapped:  {len(self.mapped):5} tensors, {count['mapped']:13,} numbers",
            f"dropped: {len(self.dropped):5} tensors, {count['dropped']:13,} numbers",
            *(f"  {len(names)} ({_shortened(names)}): {reason}" for reason, names in reasons.items()),
        ]
        if self.initialized:
            reason = next(iter(self.initialized.values()))
            names = _shortened(list(self.initialized))
            lines.append(f"not in the checkpoint, {count['initialized']:,} numbers ({names}): {reason}")
        if self.image_size != self.source_image_size:
            lines.append(f"positions resampled from {self.source_image_size} to {self.image_size} pixels")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _shortened(names: list[str]) -> str:
    return ", ".join(names if len(names) <= 4 else [*names[:3], "..."])


# ---------------------------------------------------------------------------------------------------- reading a file


def _load_tensors(path: Path) -> Weights:
    """The tensors of a checkpoint, by ALBEF's names. No code of the file is run."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: give the checkpoint that ALBEF's page offers, a `.pth`.")
    content = _unpickle(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not content or not all(map(torch.is_tensor, content.values())):
        kind = f"a {type(content).__name__}"
        if isinstance(content, Mapping):
            kind += f" with {', '.join(map(repr, list(content)[:5])) or 'nothing in it'}"
        raise ValueError(
            f"{path} is no checkpoint of ALBEF's: expected a dict with tensors under 'model', found {kind}."
        )
    tensors: Weights = {}
    for name, tensor in content.items():
        # Saved from inside `DistributedDataParallel`; and some text encoders are a BERT with a head, others without.
        plain = re.sub(r"^(text_(?:en|de)coder(?:_m)?)\.bert\.", r"\1.", str(name).removeprefix("module."))
        if plain in tensors:
            raise ValueError(
                f"{path} has `{plain}` twice, with and without `bert.` in its name: it is not clear which."
            )
        tensors[plain] = tensor
    return tensors


def _unpickle(path: Path) -> object:
    with open(path, "rb") as file:
        start = file.read(4)
    try:
        # Of a zip file the tensors stay on the disk until they are wanted.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=start == b"PK\x03\x04")
    except pickle.UnpicklingError as error:
        # What `torch` says recommends to run the code.
        code = re.search(r"GLOBAL (\S+)|[Cc]lass (\S+)", str(error))
        if code is None:
            raise _damaged(path, start) from error
        raise ValueError(
            f"{path} asks to run code, `{code[1] or code[2]}`, and is refused: a checkpoint is tensors and plain "
            "values. If you know where it comes from, open it in an environment that you can throw away, and save "
            "`{'model': checkpoint['model']}` alone."
        ) from None
    except Exception as error:  # What is damaged can fail in any way.
        raise _damaged(path, start) from error


def _damaged(path: Path, start: bytes) -> ValueError:
    if start[:2] == b"PK" or start[:1] == b"\x80" or path.suffix == ".safetensors":
        return ValueError(f"{path} is cut off or damaged: download it again.")
    return ValueError(
        f"{path} is no checkpoint: it begins with {start!r}, which `torch.save` never writes. A web page that was "
        "saved in place of the file looks like this."
    )


# ---------------------------------------------------------------------------------------------- what becomes of what


@dataclass
class ConversionPlan:
    """Which tensor goes where, found from names and shapes alone."""

    task: str
    config: SaclConfig
    places: dict[str, list[str]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    initialized: dict[str, str] = field(default_factory=dict)

    @property
    def model_class(self) -> type[SaclPreTrainedModel]:
        return MODEL_CLASSES[self.task]


def plan_conversion(
    tensors: Weights,
    *,
    task: str | None = None,
    num_vision_heads: int | None = None,
    num_text_heads: int | None = None,
    allow_unknown: bool = False,
) -> ConversionPlan:
    r"""
    Decides what becomes of every tensor, and checks that nothing is left over, missing, or of another shape.

    Args:
        tensors (`dict[str, torch.Tensor]`):
            The checkpoint's tensors, without `bert.` in their names; on the meta device if only the plan is wanted.
        task (`str`, *optional*):
            As in [`convert_albef_checkpoint`], like the other arguments.
        num_vision_heads (`int`, *optional*).
        num_text_heads (`int`, *optional*).
        allow_unknown (`bool`, *optional*, defaults to `False`).

    Returns:
        [`ConversionPlan`]

    Raises:
        ValueError: for a checkpoint of NLVR2, and where a tensor is unknown, missing, or of an unexpected shape.
    """
    _refuse_nlvr2(tensors)
    task = _recognize(tensors) if task is None else task
    if task not in MODEL_CLASSES:
        raise ValueError(f"`task` must be one of {', '.join(map(repr, MODEL_CLASSES))}, got {task!r}.")
    dropped = _set_aside(tensors, task)
    wanted = {name: tensor for name, tensor in tensors.items() if name not in dropped}
    plan = ConversionPlan(task, _read_config(wanted, task, num_vision_heads, num_text_heads), dropped=dropped)

    with torch.device("meta"):
        model = plan.model_class(plan.config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    num_text_layers = plan.config.text_config.num_hidden_layers
    unknown = []
    for name in wanted:
        places = _places(name, num_text_layers)
        if places and all(place in shapes for place in places):
            plan.places[name] = places
        else:
            unknown.append(name)
    if unknown and not allow_unknown:
        raise ValueError(
            f"The checkpoint has {len(unknown)} tensors that ALBEF's have not: {_shortened(unknown)}. If you know "
            "that they do not matter, leave them out by `allow_unknown=True` (`--allow_unknown`)."
        )
    plan.dropped |= dict.fromkeys(unknown, "unknown, and left out as `allow_unknown` asks for")
    _check_shapes(wanted, plan.places, shapes)
    plan.initialized = _missing(plan, shapes)
    return plan


def _refuse_nlvr2(tensors: Weights) -> None:
    layers, first_fusion_layer = _layers(tensors)
    judges = "ta_head.weight" in tensors or ("cls_head.2.weight" in tensors and len(tensors["cls_head.2.weight"]) == 2)
    if judges and layers == 3 * first_fusion_layer:
        raise ValueError(
            f"This is a checkpoint of NLVR2, whose fusion encoder has {layers - first_fusion_layer} layers in place "
            f"of {first_fusion_layer}: each is there twice, one after the other, first for one image and then for the "
            "other. `SaclForImagesAndTextClassification` looks at both images in one layer and has no place for the "
            "second half, so that it would not compute what ALBEF computes. Convert the checkpoint of pre-training, "
            "and fine-tune it on NLVR2."
        )


def _layers(tensors: Weights) -> tuple[int, int]:
    """How many layers ALBEF's BERT has, and the first that looks at the image."""
    numbers, looking = [0], []
    for name in tensors:
        if match := re.match(r"text_encoder\.encoder\.layer\.(\d+)\.(crossattention)?", name):
            numbers.append(int(match[1]) + 1)
            if match[2]:
                looking.append(int(match[1]))
    return max(numbers), min(looking, default=0)


def _recognize(tensors: Weights) -> str:
    for task, part in (
        ("question_answering", "text_decoder."),
        ("classification", "cls_head."),
        ("pretraining", "text_encoder.cls."),
        ("retrieval", "itm_head."),
    ):
        if any(name.startswith(part) for name in tensors):
            return task
    raise ValueError(
        "The checkpoint has none of ALBEF's heads (`text_decoder`, `cls_head`, `text_encoder.cls`, `itm_head`), so "
        f"that its task is not known. It has {_shortened(list(tensors))}."
    )


def _set_aside(tensors: Weights, task: str) -> dict[str, str]:
    """What has no place in the model, with the reason."""
    patterns = [*_TRAINING_STATE, (_OTHER_HEADS[task], f"`{MODEL_CLASSES[task].__name__}` has no such head")]
    dropped = {}
    for name in tensors:
        reasons = [reason for pattern, reason in patterns if re.fullmatch(pattern, name)]
        if reasons:
            dropped[name] = reasons[0]
    for part in ("text_encoder", "text_decoder"):
        head = f"{part}.cls.predictions"
        for name, original in (
            (f"{head}.decoder.bias", f"{head}.bias"),
            (f"{head}.decoder.weight", f"{part}.embeddings.word_embeddings.weight"),
        ):
            if name not in dropped and _are_same(tensors, name, original):
                dropped[name] = f"the same as `{original}`"
    return dropped


def _are_same(tensors: Weights, name: str, other: str) -> bool:
    if name not in tensors or other not in tensors:
        return False
    tensor, original = tensors[name], tensors[other]
    return tensor.shape == original.shape and (tensor.is_meta or torch.equal(tensor, original))


def _read_config(tensors: Weights, task: str, num_vision_heads: int | None, num_text_heads: int | None) -> SaclConfig:
    """The configuration that the shapes of the tensors speak of."""

    def size(name: str, dimension: int) -> int:
        shape = tensors[name].shape if name in tensors else ()
        if len(shape) <= dimension:
            raise ValueError(
                f"The checkpoint has no `{name}` with {dimension + 1} dimensions or more, so it is none of ALBEF's "
                f"with a vision transformer. It has {_shortened(list(tensors))}."
            )
        return shape[dimension]

    positions, patch_size = size("visual_encoder.pos_embed", 1), size("visual_encoder.patch_embed.proj.weight", 2)
    grid_size = math.isqrt(positions - 1)
    if grid_size**2 != positions - 1:
        raise ValueError(
            f"`visual_encoder.pos_embed` has {positions} positions; expected one, and those of a square grid."
        )
    vision_width, text_width = (
        size("visual_encoder.norm.weight", 0),
        size("text_encoder.embeddings.LayerNorm.weight", 0),
    )
    num_layers, num_text_layers = _layers(tensors)
    options: dict = {}
    if "vision_proj.weight" in tensors:
        options["projection_dim"] = size("vision_proj.weight", 0)
    if task == "question_answering":
        options["num_answer_decoder_layers"] = _count(tensors, r"text_decoder\.encoder\.layer\.(\d+)\..+")
        options["share_answer_word_embeddings"] = False
    if task == "classification":
        options |= _label_options(size("cls_head.2.weight", 0))
    return SaclConfig(
        text_config=BertConfig(
            vocab_size=size("text_encoder.embeddings.word_embeddings.weight", 0),
            hidden_size=text_width,
            num_hidden_layers=num_text_layers,
            num_attention_heads=_heads(text_width, num_text_heads, "num_text_heads"),
            intermediate_size=size("text_encoder.encoder.layer.0.intermediate.dense.weight", 0),
            max_position_embeddings=size("text_encoder.embeddings.position_embeddings.weight", 0),
            type_vocab_size=size("text_encoder.embeddings.token_type_embeddings.weight", 0),
        ),
        vision_config={
            "hidden_size": vision_width,
            "num_hidden_layers": _count(tensors, r"visual_encoder\.blocks\.(\d+)\..+"),
            "num_attention_heads": _heads(vision_width, num_vision_heads, "num_vision_heads"),
            "intermediate_size": size("visual_encoder.blocks.0.mlp.fc1.weight", 0),
            "num_channels": size("visual_encoder.patch_embed.proj.weight", 1),
            "patch_size": patch_size,
            "image_size": grid_size * patch_size,
        },
        fusion_encoder_config={"num_hidden_layers": num_layers - num_text_layers},
        # A head that is trained apart from the words is left in the tensors.
        tie_word_embeddings=not any(name.endswith(".cls.predictions.decoder.weight") for name in tensors),
        **options,
    )


def _heads(width: int, given: int | None, option: str) -> int:
    heads = width // HEAD_WIDTH if given is None else given
    if heads < 1 or width % heads != 0 or (given is None and width % HEAD_WIDTH != 0):
        raise ValueError(
            f"Tokens of width {width} cannot be split over "
            + (
                f"heads of width {HEAD_WIDTH}: say how many there are by"
                if given is None
                else f"{heads} heads: change"
            )
            + f" `{option}` (`--{option}`)."
        )
    return heads


def _count(tensors: Weights, pattern: str) -> int:
    return 1 + max((int(match[1]) for name in tensors if (match := re.fullmatch(pattern, name))), default=0)


def _label_options(num_labels: int) -> dict:
    if num_labels != len(ENTAILMENT_LABELS):
        return {"num_labels": num_labels}
    return {
        "id2label": dict(enumerate(ENTAILMENT_LABELS)),
        "label2id": {label: number for number, label in enumerate(ENTAILMENT_LABELS)},
    }


def _places(name: str, num_text_layers: int) -> list[str]:
    """The parameters that a tensor becomes; none if its name is not one of ALBEF's."""
    part, _, rest = name.partition(".")
    if part == "visual_encoder":
        if joined := re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(.+)", rest):
            layer, kind = joined.groups()
            return [f"sacl.vision_model.layers.{layer}.self_attention.{which}_proj.{kind}" for which in "qkv"]
        place = _below("sacl.vision_model", new_name(rest, _VISION))
    elif layer := re.fullmatch(r"text_(en|de)coder\.encoder\.layer\.(\d+)\.(.+)", name):
        number = int(layer[2])
        if layer[1] == "en" and number < num_text_layers:
            place = f"sacl.text_model.{rest}"
        else:
            tower = "answer_decoder" if layer[1] == "de" else "sacl.fusion_model"
            number -= num_text_layers if layer[1] == "en" else 0
            place = _below(f"{tower}.layers.{number}", new_name(layer[3], _FUSION_LAYER))
    elif rest.startswith("cls.predictions."):
        place = _below("mlm_head", new_name(rest, _PREDICTION_HEAD))
    elif part == "text_encoder":
        place = f"sacl.text_model.{rest}"
    else:
        place = new_name(rest, _DECODER_EMBEDDINGS) if part == "text_decoder" else new_name(name, _HEADS)
    return [] if place is None else [place]


def _below(prefix: str, name: str | None) -> str | None:
    return None if name is None else f"{prefix}.{name}"


def _check_shapes(tensors: Weights, places: dict[str, list[str]], shapes: Mapping[str, torch.Size]) -> None:
    for name, targets in places.items():
        found, expected = tuple(tensors[name].shape), tuple(shapes[targets[0]])
        if len(targets) > 1:
            expected = (expected[0] * len(targets), *expected[1:])
        elif name.endswith("cls_token"):
            expected = (1, 1, *expected)
        elif name == _ANSWER_SEGMENTS:
            expected = (*found[:1], *expected[1:])
        if found != expected:
            raise ValueError(f"`{name}` has the shape {found}; by those of other tensors, {expected} was expected.")


def _missing(plan: ConversionPlan, shapes: Mapping[str, torch.Size]) -> dict[str, str]:
    """The parameters that nothing in the checkpoint fills, with the reason; an error if there should be something."""
    filled = {place for places in plan.places.values() for place in places}
    missing = [name for name in shapes if name not in filled]
    name = plan.model_class.__name__
    if plan.task in ("question_answering", "classification"):
        contrast = [place for place in missing if place.startswith(_CONTRAST)]
        missing = [place for place in missing if place not in contrast]
    else:
        contrast = []
    if missing:
        raise ValueError(
            f"The checkpoint has nothing for {len(missing)} parameters of `{name}`: {_shortened(missing)}. If it was "
            f"trained for another task, leave out `task` (`--task`), and have `{name}.from_pretrained` start the head "
            "from what was converted."
        )
    reason = f"ALBEF fine-tunes without contrast; drawn as for a new model, and of no use to `{name}` itself"
    return dict.fromkeys(contrast, reason)


# --------------------------------------------------------------------------------------------------------- converting


def convert_albef_checkpoint(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    task: str | None = None,
    image_size: int | None = None,
    tokenizer: str | PreTrainedTokenizerBase | None = DEFAULT_TOKENIZER,
    num_vision_heads: int | None = None,
    num_text_heads: int | None = None,
    allow_unknown: bool = False,
    overwrite: bool = False,
) -> ConversionReport:
    r"""
    Makes a SACL model of a checkpoint of ALBEF's, that computes the same.

    The file is read with `weights_only=True`: no code in it is run. Every tensor is accounted for in the report.

    Args:
        checkpoint (`str` or `os.PathLike`):
            The file, as ALBEF's code saves it (`.pth`), or its tensors as `.safetensors`.
        output_dir (`str` or `os.PathLike`):
            The folder for model, processor, `conversion.json` and a `README.md`.
        task (`str`, *optional*):
            `"pretraining"`, `"retrieval"` (visual grounding too), `"question_answering"` or `"classification"`
            (SNLI-VE). Recognised by the heads in the checkpoint, if not given.
        image_size (`int`, *optional*):
            Height and width of the images in pixels, if other than those of the checkpoint: its positions are
            resampled, as ALBEF does before it fine-tunes.
        tokenizer (`str` or [`PreTrainedTokenizerBase`], *optional*, defaults to `"google-bert/bert-base-uncased"`):
            Hub id, folder, or tokenizer. ALBEF puts no `[SEP]` after a text, and so the one that is saved does not. If
            it cannot be had, or is `None`, the model is written without a processor.
        num_vision_heads (`int`, *optional*):
            Attention heads of the image tower, which the checkpoint does not tell; defaults to heads of width 64.
        num_text_heads (`int`, *optional*):
            The same, of the text tower, the fusion encoder and the answer decoder.
        allow_unknown (`bool`, *optional*, defaults to `False`):
            Whether tensors that ALBEF's checkpoints do not have are left out.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether `output_dir` may have files in it.

    Returns:
        [`ConversionReport`]

    Raises:
        FileNotFoundError: if there is no such file.
        FileExistsError: if the folder is not empty.
        ValueError: for a file that is damaged, asks to run code or is no checkpoint of ALBEF's; for one of NLVR2,
            whose fusion encoder is another; for unknown, missing or misshapen tensors; and for a tokenizer that does
            not fit.

    Example:

    ```python
    >>> from modeling_sacl import SaclForImageTextRetrieval
    >>> from modeling_sacl.convert_albef_to_hf import convert_albef_checkpoint

    >>> report = convert_albef_checkpoint("mscoco.pth", "albef-coco")
    >>> model = SaclForImageTextRetrieval.from_pretrained("albef-coco")
    ```
    """
    checkpoint, folder = Path(checkpoint), Path(output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not overwrite:
        raise FileExistsError(f"{folder} is not an empty folder: give another, or `overwrite=True` (`--overwrite`).")
    tensors = _load_tensors(checkpoint)
    plan = plan_conversion(
        tensors,
        task=task,
        num_vision_heads=num_vision_heads,
        num_text_heads=num_text_heads,
        allow_unknown=allow_unknown,
    )
    source_image_size = plan.config.vision_config.image_size
    model = _build_model(plan, tensors)
    if image_size is not None and image_size != source_image_size:
        model.set_image_size(image_size)
    processor, notes = _build_processor(model.config, tokenizer)
    if plan.task == "question_answering":
        _set_answer_tokens(model, processor)

    report = ConversionReport(
        source=checkpoint.name,
        sha256=_hash(checkpoint),
        task=plan.task,
        model_class=plan.model_class.__name__,
        output_dir=str(folder),
        image_size=model.config.vision_config.image_size,
        source_image_size=source_image_size,
        temperature=tensors["temp"].item() if "temp" in plan.places else None,
        mapped=plan.places,
        dropped=plan.dropped,
        initialized=plan.initialized,
        num_parameters=_count_parameters(plan, tensors, model),
        notes=notes,
    )
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    (folder / "conversion.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(report), encoding="utf-8")
    return report


def _build_model(plan: ConversionPlan, tensors: Weights) -> SaclPreTrainedModel:
    weights: Weights = {}
    for name, places in plan.places.items():
        tensor = tensors[name]
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"`{name}` must hold finite numbers of floating point; its type is {tensor.dtype}.")
        tensor = tensor.float()
        if name == "temp":
            if tensor <= 0:
                raise ValueError(f"`temp`, the temperature of the contrast, must be positive, got {tensor.item()}.")
            tensor = -tensor.log()
        elif name.endswith("cls_token"):
            tensor = tensor.flatten()
        elif name == _ANSWER_SEGMENTS:
            tensor = tensor[0]
        for place, piece in zip(places, tensor.chunk(len(places)) if len(places) > 1 else [tensor], strict=True):
            weights[place] = weights[place] + piece if place in weights else piece
    model, report = plan.model_class.from_pretrained(
        None, config=plan.config, state_dict=weights | _new_weights(plan), dtype="float32", output_loading_info=True
    )
    if any(report.values()):
        raise RuntimeError(f"The weights of `{plan.model_class.__name__}` were not all loaded: {report}.")
    return model


def _new_weights(plan: ConversionPlan) -> Weights:
    """What a new model has where the checkpoint has nothing; the same each time."""
    config, generator = plan.config, torch.Generator().manual_seed(0)
    widths = {"visual_projection": config.vision_config.hidden_size, "text_projection": config.text_config.hidden_size}
    weights: Weights = {}
    for name in plan.initialized:
        if name == "sacl.logit_scale":
            weights[name] = torch.tensor(config.logit_scale_init_value)
        elif name.endswith(".bias"):
            weights[name] = torch.zeros(config.projection_dim)
        else:
            shape = (config.projection_dim, widths[name.split(".")[1]])
            weights[name] = config.initializer_range * torch.randn(shape, generator=generator)
    return weights


def _count_parameters(plan: ConversionPlan, tensors: Weights, model: PreTrainedModel) -> dict[str, int]:
    parameters = dict(model.named_parameters())
    return {
        "checkpoint": sum(tensor.numel() for tensor in tensors.values()),
        "mapped": sum(tensors[name].numel() for name in plan.places),
        "dropped": sum(tensors[name].numel() for name in plan.dropped),
        "model": sum(parameter.numel() for parameter in parameters.values()),
        "initialized": sum(parameters[name].numel() for name in plan.initialized),
    }


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------------------------------- what lies beside it


def _build_processor(
    config: SaclConfig, tokenizer: str | PreTrainedTokenizerBase | None
) -> tuple[SaclProcessor | None, list[str]]:
    """The processor, or why there is none."""
    later = "convert once more where it can be had, or give `tokenizer` (`--tokenizer`) a folder that has it."
    if tokenizer is None:
        return None, [f"The folder has no processor, since no tokenizer was asked for; to have one, {later}"]
    if isinstance(tokenizer, str):
        try:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
        except Exception as error:  # Offline, not found, not readable: the model is no worse for it.
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            return None, [
                f"The folder has no processor, since the tokenizer {tokenizer!r} cannot be had ({reason}): {later}"
            ]
    size = config.vision_config.image_size
    image_processor = BlipImageProcessor(size={"height": size, "width": size})
    return SaclProcessor(image_processor, _without_end(tokenizer, config)), []


def _without_end(tokenizer: PreTrainedTokenizerBase, config: SaclConfig) -> TokenizersBackend:
    """The tokenizer as ALBEF has it: `[CLS]` before a text, and nothing after it."""
    text_config = config.text_config
    if not isinstance(tokenizer, TokenizersBackend) or tokenizer.cls_token is None or tokenizer.sep_token is None:
        raise ValueError(
            f"{type(tokenizer).__name__} is not like ALBEF's tokenizer: give that of {DEFAULT_TOKENIZER}, or one of "
            "its kind with the checkpoint's own words."
        )
    if len(tokenizer) != text_config.vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} words, the checkpoint {text_config.vocab_size}: give the one that it "
            f"was trained with, which is {DEFAULT_TOKENIZER} for those that ALBEF published."
        )
    backend = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(
        single="[CLS]:0 $A:0".replace("[CLS]", tokenizer.cls_token),
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1".replace("[CLS]", tokenizer.cls_token).replace(
            "[SEP]", tokenizer.sep_token
        ),
        special_tokens=[
            (tokenizer.cls_token, tokenizer.cls_token_id),
            (tokenizer.sep_token, tokenizer.sep_token_id),
        ],
    )
    # Not of its own class, which would put the end back when it is loaded.
    return TokenizersBackend(
        tokenizer_object=backend,
        **tokenizer.special_tokens_map,
        model_max_length=min(tokenizer.model_max_length, text_config.max_position_embeddings),
    )


def _set_answer_tokens(model: SaclPreTrainedModel, processor: SaclProcessor | None) -> None:
    """With which tokens answers begin and end: the tokenizer knows, and without it, they are BERT's."""
    tokens = dict(BERT_TOKENS)
    if processor is not None:
        tokenizer = processor.tokenizer
        ids = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
        tokens = dict(zip(tokens, ids, strict=True))
    model.generation_config.update(**tokens)


_PIPELINES = {
    "pretraining": "zero-shot-image-classification",
    "retrieval": "zero-shot-image-classification",
    "question_answering": "visual-question-answering",
}

_README = """---
license: bsd-3-clause
library_name: transformers
{pipeline}tags:
- sacl
- albef
- vision-language
---

# ALBEF ({task})

Weights of ALBEF ([Li et al., NeurIPS 2021](https://huggingface.co/papers/2107.07651)), which are published under the
BSD-3-Clause licence at [github.com/salesforce/ALBEF](https://github.com/salesforce/ALBEF), converted from `{source}`
(SHA-256 `{sha256}`) into `{model_class}`, for images of
{image_size} x {image_size} pixels. What became of each tensor is in `conversion.json`. The Python files are those of
SACL for Hugging Face (Apache-2.0).

```bibtex
@inproceedings{{li2021align,
  title = {{Align before Fuse: Vision and Language Representation Learning with Momentum Distillation}},
  author = {{Li, Junnan and Selvaraju, Ramprasaath R. and Gotmare, Akhilesh Deepak and Joty, Shafiq and Xiong, Caiming
    and Hoi, Steven}},
  booktitle = {{Advances in Neural Information Processing Systems}},
  year = {{2021}}
}}
```
"""


def _readme(report: ConversionReport) -> str:
    pipeline = _PIPELINES.get(report.task)
    return _README.format(
        pipeline="" if pipeline is None else f"pipeline_tag: {pipeline}\n",
        **{key: getattr(report, key) for key in ("source", "sha256", "model_class", "image_size")},
        task=report.task.replace("_", " "),
    )


# ------------------------------------------------------------------------------------------------------ command line


def main(arguments: Sequence[str] | None = None) -> int:
    """Converts what the command line says, and writes the summary; 1 if it cannot be done, 0 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m modeling_sacl.convert_albef_to_hf",
        description="Makes a SACL model of a checkpoint of ALBEF's, that computes the same.",
    )
    parser.add_argument("checkpoint", help="the file, as ALBEF's code saves it (.pth)")
    parser.add_argument("output_dir", help="the folder for model, processor and conversion.json")
    parser.add_argument("--task", choices=MODEL_CLASSES, help="recognised by the checkpoint's heads, if not given")
    parser.add_argument("--image_size", type=int, help="height and width in pixels, if other than the checkpoint's")
    parser.add_argument("--tokenizer", default=DEFAULT_TOKENIZER, help="Hub id or folder (default: %(default)s)")
    parser.add_argument(
        "--num_vision_heads", type=int, help="attention heads of the image tower (default: width / 64)"
    )
    parser.add_argument("--num_text_heads", type=int, help="attention heads of the BERT layers (default: width / 64)")
    parser.add_argument("--allow_unknown", action="store_true", help="leave out tensors that ALBEF does not have")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that has files in it")
    options = vars(parser.parse_args(arguments))
    try:
        report = convert_albef_checkpoint(options.pop("checkpoint"), options.pop("output_dir"), **options)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{report.summary()}\n")
    return 0


__all__ = [
    "ConversionPlan",
    "ConversionReport",
    "convert_albef_checkpoint",
    "plan_conversion",
]


if __name__ == "__main__":
    sys.exit(main())
