# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""ALBEF's checkpoints, made up in their layout: every tensor arrives, and the model computes what ALBEF does."""

import hashlib
import json
import math
import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForVisualQuestionAnswering, AutoProcessor, BertTokenizer

from modeling_sacl import SaclForImageTextRetrieval, SaclForPreTraining, SaclForQuestionAnswering
from modeling_sacl.configuration_sacl import MODULES
from modeling_sacl.convert_albef_to_hf import (
    MODEL_CLASSES,
    convert_albef_checkpoint,
    main,
    plan_conversion,
)

from . import test_question_answering
from .common import ModelTests, TextTowerTests, build, stir


TASKS = tuple(MODEL_CLASSES)
VISION_EPS, TEXT_EPS = 1e-6, 1e-12
# Of the names and shapes of the published checkpoint of pre-training: one line each, `name [2304, 768]`, sorted.
PUBLISHED_LINES, PUBLISHED_HASH = 844, "5ffc2f1fda9526375f1b26bb8232dcb0ccb382ddc69f4c7bf01855549bd25cf4"


# ------------------------------------------------------------------------------------------------ ALBEF's checkpoints


@dataclass(frozen=True)
class Sizes:
    """Of the parts of a model; the heads have a width of 64."""

    width: int = 128
    vision_layers: int = 2
    text_layers: int = 2
    fusion_layers: int = 2
    vocabulary: int = 31
    positions: int = 16
    projection: int = 20
    grid: int = 4
    patch: int = 8
    queue: int = 6
    decoder_layers: int = 2
    feed_forward: int = 4


SMALL = Sizes()
# ViT-B/16 at 256 pixels, BERT-base.
FULL = Sizes(768, 12, 6, 6, 30522, 512, 256, 16, 16, 65536, 6)


def linear_shapes(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def vit_shapes(prefix: str, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    width, inner = sizes.width, sizes.width * sizes.feed_forward
    shapes = {
        f"{prefix}.cls_token": (1, 1, width),
        f"{prefix}.pos_embed": (1, sizes.grid**2 + 1, width),
        f"{prefix}.patch_embed.proj.weight": (width, 3, sizes.patch, sizes.patch),
        f"{prefix}.patch_embed.proj.bias": (width,),
        **norm_shapes(f"{prefix}.norm", width),
    }
    for layer in range(sizes.vision_layers):
        block = f"{prefix}.blocks.{layer}"
        shapes |= norm_shapes(f"{block}.norm1", width) | norm_shapes(f"{block}.norm2", width)
        shapes |= linear_shapes(f"{block}.attn.qkv", 3 * width, width)
        shapes |= linear_shapes(f"{block}.attn.proj", width, width)
        shapes |= linear_shapes(f"{block}.mlp.fc1", inner, width) | linear_shapes(f"{block}.mlp.fc2", width, inner)
    return shapes


def bert_shapes(prefix: str, sizes: Sizes, layers: int, first_fusion_layer: int) -> dict[str, tuple[int, ...]]:
    width, inner = sizes.width, sizes.width * sizes.feed_forward
    shapes = {
        f"{prefix}.embeddings.position_ids": (1, sizes.positions),
        f"{prefix}.embeddings.word_embeddings.weight": (sizes.vocabulary, width),
        f"{prefix}.embeddings.position_embeddings.weight": (sizes.positions, width),
        f"{prefix}.embeddings.token_type_embeddings.weight": (2, width),
        **norm_shapes(f"{prefix}.embeddings.LayerNorm", width),
    }
    for number in range(layers):
        layer = f"{prefix}.encoder.layer.{number}"
        for attention in ("attention",) if number < first_fusion_layer else ("attention", "crossattention"):
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                shapes |= linear_shapes(f"{layer}.{attention}.{part}", width, width)
            shapes |= norm_shapes(f"{layer}.{attention}.output.LayerNorm", width)
        shapes |= linear_shapes(f"{layer}.intermediate.dense", inner, width)
        shapes |= linear_shapes(f"{layer}.output.dense", width, inner)
        shapes |= norm_shapes(f"{layer}.output.LayerNorm", width)
    return shapes


def prediction_shapes(prefix: str, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    head = f"{prefix}.cls.predictions"
    return {
        f"{head}.bias": (sizes.vocabulary,),
        **linear_shapes(f"{head}.transform.dense", sizes.width, sizes.width),
        **norm_shapes(f"{head}.transform.LayerNorm", sizes.width),
        **linear_shapes(f"{head}.decoder", sizes.vocabulary, sizes.width),
    }


def albef_shapes(task: str, sizes: Sizes = SMALL) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a checkpoint, as ALBEF's code for the task saves them."""
    layers, width = sizes.text_layers + sizes.fusion_layers, sizes.width
    shapes: dict[str, tuple[int, ...]] = {}
    for copy in ("", "_m"):
        shapes |= vit_shapes(f"visual_encoder{copy}", sizes)
        text = f"text_encoder{copy}"
        if task == "pretraining":
            shapes |= bert_shapes(f"{text}.bert", sizes, layers, sizes.text_layers) | prediction_shapes(text, sizes)
        elif task.startswith("nlvr2"):
            shapes |= bert_shapes(text, sizes, layers + sizes.fusion_layers, sizes.text_layers)
        else:
            shapes |= bert_shapes(text, sizes, layers, sizes.text_layers)
        if task == "question_answering":
            decoder = f"text_decoder{copy}"
            shapes |= bert_shapes(f"{decoder}.bert", sizes, sizes.decoder_layers, 0)
            shapes |= prediction_shapes(decoder, sizes)
        if task in ("classification", "nlvr2"):
            shapes |= linear_shapes(f"cls_head{copy}.0", width, width)
            shapes |= linear_shapes(f"cls_head{copy}.2", 3 if task == "classification" else 2, width)
        if task in ("pretraining", "retrieval"):
            shapes |= linear_shapes(f"vision_proj{copy}", sizes.projection, width)
            shapes |= linear_shapes(f"text_proj{copy}", sizes.projection, width)
    if task in ("pretraining", "retrieval"):
        shapes |= linear_shapes("itm_head", 2, width)
        queues = ("image_queue", "text_queue")
        shapes |= {"temp": (), "queue_ptr": (1,), **dict.fromkeys(queues, (sizes.projection, sizes.queue))}
    if task == "retrieval":
        shapes["idx_queue"] = (1, sizes.queue)
    if task == "nlvr2_pretraining":
        shapes |= linear_shapes("ta_head", 3, width)
    return shapes


def albef_checkpoint(task: str, sizes: Sizes = SMALL, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of some size, so that a swap of any two is seen; the words are tied, as in ALBEF's code."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in albef_shapes(task, sizes).items():
        tensor = torch.randn(shape, generator=generator)
        scale = 1 / math.sqrt(shape[-1]) if len(shape) == 2 else 0.3
        tensors[name] = tensor * scale + (1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)
        if name.endswith("position_ids"):
            tensors[name] = torch.arange(sizes.positions)[None]
        elif name in ("queue_ptr", "idx_queue"):
            tensors[name] = torch.full(shape, 3)
        elif name == "temp":
            tensors[name] = torch.tensor(0.043)
    for name in list(tensors):
        prefix = name.partition(".")[0]
        if name.endswith("predictions.decoder.bias"):
            tensors[name] = tensors[name.replace("decoder.bias", "bias")].clone()
        elif name.endswith("predictions.decoder.weight"):
            tensors[name] = tensors[f"{prefix}.bert.embeddings.word_embeddings.weight"].clone()
    return tensors


def save(tensors: dict[str, torch.Tensor], path) -> str:
    """As ALBEF's scripts do: the optimiser's state and the settings beside the model."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(2)
    optimizer.step()
    settings = {"image_res": 256, "schedular": {"lr": 1e-5}, "train_file": ["data/coco.json"]}
    torch.save({"model": tensors, "optimizer": optimizer.state_dict(), "config": settings, "epoch": 29}, path)
    return str(path)


# -------------------------------------------------------------------------------------------------- ALBEF's equations


class Albef:
    """What ALBEF computes, from the tensors of a checkpoint, in float64 and without a module."""

    def __init__(self, tensors: dict[str, torch.Tensor], head_width: int = 64):
        self.tensors = {name.replace(".bert.", "."): tensor.double() for name, tensor in tensors.items()}
        self.head_width = head_width

    def linear(self, name, states):
        return states @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, name, states, eps):
        centred = states - states.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    @staticmethod
    def gelu(states):
        return states * 0.5 * (1 + torch.erf(states / math.sqrt(2)))

    def attend(self, query, key, value, mask=None):
        """One head after the other; `mask`, [batch, queries or 1, keys], is true where keys are seen."""
        outputs = []
        for start in range(0, query.shape[-1], self.head_width):
            part = slice(start, start + self.head_width)
            scores = query[..., part] @ key[..., part].mT / math.sqrt(self.head_width)
            if mask is not None:
                scores = scores.masked_fill(~mask, -10000.0)
            outputs.append(scores.softmax(-1) @ value[..., part])
        return torch.cat(outputs, -1)

    def see(self, pixels):
        """The image tower: pre-norm."""
        patch = self.tensors["visual_encoder.patch_embed.proj.weight"]
        patches = nn.functional.unfold(pixels.double(), patch.shape[-1], stride=patch.shape[-1]).mT
        patches = patches @ patch.flatten(1).T + self.tensors["visual_encoder.patch_embed.proj.bias"]
        first = self.tensors["visual_encoder.cls_token"].expand(len(pixels), 1, -1)
        states = torch.cat([first, patches], 1) + self.tensors["visual_encoder.pos_embed"]
        layer = 0
        while f"visual_encoder.blocks.{layer}.norm1.weight" in self.tensors:
            block = f"visual_encoder.blocks.{layer}"
            joined = self.linear(f"{block}.attn.qkv", self.norm(f"{block}.norm1", states, VISION_EPS))
            states = states + self.linear(f"{block}.attn.proj", self.attend(*joined.chunk(3, -1)))
            inner = self.gelu(self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", states, VISION_EPS)))
            states = states + self.linear(f"{block}.mlp.fc2", inner)
            layer += 1
        return self.norm("visual_encoder.norm", states, VISION_EPS)

    def embed(self, part, input_ids):
        embeddings = f"{part}.embeddings"
        states = self.tensors[f"{embeddings}.word_embeddings.weight"][input_ids]
        states = states + self.tensors[f"{embeddings}.position_embeddings.weight"][: input_ids.shape[1]]
        states = states + self.tensors[f"{embeddings}.token_type_embeddings.weight"][0]
        return self.norm(f"{embeddings}.LayerNorm", states, TEXT_EPS)

    def sublayer(self, name, states, others, mask):
        """Attention of BERT's, post-norm: to itself, or to the tokens of something else."""
        query, key, value = (
            self.linear(f"{name}.self.{kind}", source)
            for kind, source in (("query", states), ("key", others), ("value", others))
        )
        attended = self.linear(f"{name}.output.dense", self.attend(query, key, value, mask))
        return self.norm(f"{name}.output.LayerNorm", attended + states, TEXT_EPS)

    def layers(self, part, numbers, states, mask, others=None, others_mask=None):
        for number in numbers:
            layer = f"{part}.encoder.layer.{number}"
            states = self.sublayer(f"{layer}.attention", states, states, mask)
            if others is not None:
                states = self.sublayer(f"{layer}.crossattention", states, others, others_mask)
            inner = self.gelu(self.linear(f"{layer}.intermediate.dense", states))
            inner = self.linear(f"{layer}.output.dense", inner)
            states = self.norm(f"{layer}.output.LayerNorm", inner + states, TEXT_EPS)
        return states

    def read(self, input_ids, attention_mask, sizes=SMALL):
        mask = attention_mask.bool()[:, None]
        return self.layers("text_encoder", range(sizes.text_layers), self.embed("text_encoder", input_ids), mask)

    def fuse(self, input_ids, attention_mask, image, sizes=SMALL):
        numbers = range(sizes.text_layers, sizes.text_layers + sizes.fusion_layers)
        text = self.read(input_ids, attention_mask, sizes)
        return self.layers("text_encoder", numbers, text, attention_mask.bool()[:, None], image)

    def predict(self, part, states):
        head = f"{part}.cls.predictions"
        states = self.gelu(self.linear(f"{head}.transform.dense", states))
        states = self.norm(f"{head}.transform.LayerNorm", states, TEXT_EPS)
        return self.linear(f"{head}.decoder", states)

    def answer(self, answer_ids, question, question_mask, sizes=SMALL):
        length = answer_ids.shape[1]
        before = torch.ones(length, length, dtype=torch.bool).tril()
        states = self.embed("text_decoder", answer_ids)
        mask = question_mask.bool()[:, None]
        states = self.layers("text_decoder", range(sizes.decoder_layers), states, before, question, mask)
        return self.predict("text_decoder", states)

    def embeds(self, name, states):
        return nn.functional.normalize(self.linear(name, states[:, 0]), dim=-1)


# ------------------------------------------------------------------------------------------------------------ fixtures


WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a the red green blue bus cat dog house photo this is of two on sits".split()


@pytest.fixture(scope="module")
def tokenizer():
    words = WORDS + [f"##{number}" for number in range(SMALL.vocabulary - len(WORDS))]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=512)


@pytest.fixture(scope="module")
def converted(tokenizer, tmp_path_factory):
    """For each task the tensors, the report and the model that was loaded from what was written."""
    made = {}

    def convert(task):
        if task not in made:
            folder, tensors = tmp_path_factory.mktemp(task), albef_checkpoint(task)
            file = save(tensors, folder / "albef.pth")
            report = convert_albef_checkpoint(file, folder / "model", tokenizer=tokenizer)
            model, loading = MODEL_CLASSES[task].from_pretrained(folder / "model", output_loading_info=True)
            assert not any(loading.values()), loading
            made[task] = tensors, report, model
        return made[task]

    return convert


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    size = SMALL.grid * SMALL.patch
    attention_mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    input_ids = torch.randint(5, SMALL.vocabulary, (2, 7), generator=generator) * attention_mask
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "pixel_values": torch.randn(2, 3, size, size, generator=generator),
    }


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)


# --------------------------------------------------------------------------------------------------------------- tests


class TestPlan:
    """Names and shapes alone, in full size, which takes no memory on the meta device."""

    @staticmethod
    def tensors(task, sizes=FULL):
        shapes = albef_shapes(task, sizes).items()
        return {name.replace(".bert.", "."): torch.empty(shape, device="meta") for name, shape in shapes}

    def test_names_and_shapes_are_those_of_the_published_checkpoint(self):
        lines = sorted(f"{name} {list(shape)}" for name, shape in albef_shapes("pretraining", FULL).items())
        assert len(lines) == PUBLISHED_LINES
        assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == PUBLISHED_HASH

    @pytest.mark.parametrize("task", TASKS)
    def test_accounts_for_every_tensor_of_a_full_size_checkpoint(self, task):
        tensors = self.tensors(task)
        plan = plan_conversion(tensors)
        assert plan.task == task
        assert plan.places.keys() | plan.dropped.keys() == tensors.keys()
        assert not plan.places.keys() & plan.dropped.keys()
        # The teacher, the queues, the positions' numbers, and what is tied: nothing else.
        assert not [
            name
            for name in plan.dropped
            if "_m." not in name
            and not name.endswith(("_queue", "_ptr", "position_ids", "predictions.decoder.weight"))
            and not name.endswith("predictions.decoder.bias")
        ]
        vision, text, fusion = (
            getattr(plan.config, f"{part}_config") for part in ("vision", "text", "fusion_encoder")
        )
        assert (vision.image_size, vision.patch_size, vision.num_hidden_layers) == (256, 16, 12)
        assert (text.num_hidden_layers, fusion.num_hidden_layers, text.vocab_size) == (6, 6, 30522)
        assert {vision.num_attention_heads, text.num_attention_heads, fusion.num_attention_heads} == {12}
        assert (vision.layer_norm_eps, text.layer_norm_eps, fusion.layer_norm_eps) == (1e-6, 1e-12, 1e-12)
        assert {vision.hidden_act, text.hidden_act, fusion.hidden_act} == {"gelu"}
        assert plan.config.tie_word_embeddings
        contrast = {"sacl.logit_scale"} | {
            f"sacl.{part}_projection.{kind}" for part in ("text", "visual") for kind in ("weight", "bias")
        }
        assert plan.initialized.keys() == (contrast if task in ("question_answering", "classification") else set())

    @pytest.mark.parametrize("task", ["nlvr2", "nlvr2_pretraining"])
    def test_refuses_nlvr2_with_the_reason(self, task):
        with pytest.raises(ValueError, match="NLVR2, whose fusion encoder has 12 layers in place of 6: each is there"):
            plan_conversion(self.tensors(task))
        with pytest.raises(ValueError, match="NLVR2"):
            plan_conversion(self.tensors(task), task="classification")

    def test_checkpoint_of_pretraining_can_become_a_model_of_retrieval(self):
        tensors = self.tensors("pretraining", SMALL)
        plan = plan_conversion(tensors, task="retrieval")
        assert plan.model_class is SaclForImageTextRetrieval
        head = {name: why for name, why in plan.dropped.items() if name.startswith("text_encoder.cls.")}
        assert len(head) == 7
        assert set(head.values()) == {"`SaclForImageTextRetrieval` has no such head"}

    @pytest.mark.parametrize("task, lacks", [("pretraining", "mlm_head"), ("classification", "cls_head.2.weight")])
    def test_task_that_the_checkpoint_has_no_head_for(self, task, lacks):
        with pytest.raises(ValueError, match=lacks):
            plan_conversion(self.tensors("retrieval", SMALL), task=task)

    def test_decoder_cannot_come_from_nothing(self):
        with pytest.raises(ValueError, match=r"has nothing for \d+ parameters of `SaclForQuestionAnswering`: answer_"):
            plan_conversion(self.tensors("pretraining", SMALL), task="question_answering")

    def test_classifier_of_other_labels(self):
        tensors = self.tensors("classification", SMALL)
        tensors |= {f"cls_head.2.{kind}": torch.empty(5, *more) for kind, more in (("weight", (128,)), ("bias", ()))}
        config = plan_conversion(tensors).config
        assert config.num_labels == 5
        assert config.id2label[4] == "LABEL_4"

    def test_task_must_exist(self):
        with pytest.raises(ValueError, match="`task` must be one of 'pretraining', .*, got 'vqa'"):
            plan_conversion(self.tensors("pretraining", SMALL), task="vqa")

    def test_checkpoint_without_a_head(self):
        tensors = {name: tensor for name, tensor in self.tensors("retrieval", SMALL).items() if "itm" not in name}
        with pytest.raises(ValueError, match="none of ALBEF's heads"):
            plan_conversion(tensors)

    @pytest.mark.parametrize(
        "name", ["visual_encoder.blocks.0.attn.relative", "text_encoder.pooler.dense.weight", "x"]
    )
    def test_unknown_tensor(self, name):
        tensors = {**self.tensors("retrieval", SMALL), name: torch.empty(3, device="meta")}
        with pytest.raises(ValueError, match=f"has 1 tensors that ALBEF's have not: {name}. If you know"):
            plan_conversion(tensors)
        plan = plan_conversion(tensors, allow_unknown=True)
        assert plan.dropped[name] == "unknown, and left out as `allow_unknown` asks for"

    @pytest.mark.parametrize(
        "name, expected",
        [
            ("visual_encoder.cls_token", "(1, 1, 128)"),
            ("visual_encoder.blocks.1.attn.qkv.weight", "(384, 128)"),
            ("text_encoder.encoder.layer.3.crossattention.self.key.weight", "(128, 128)"),
            ("temp", "()"),
            ("itm_head.bias", "(2,)"),
        ],
    )
    def test_wrong_shape(self, name, expected):
        tensors = self.tensors("retrieval", SMALL)
        tensors[name] = torch.empty(7, 5, device="meta")
        with pytest.raises(ValueError) as error:
            plan_conversion(tensors)
        assert f"`{name}` has the shape (7, 5); by those of other tensors, {expected} was expected" in str(error.value)

    def test_positions_that_are_no_grid(self):
        tensors = self.tensors("retrieval", SMALL)
        tensors["visual_encoder.pos_embed"] = torch.empty(1, 16, 128, device="meta")
        with pytest.raises(ValueError, match="has 16 positions; expected one, and those of a square grid"):
            plan_conversion(tensors)

    @pytest.mark.parametrize(
        "name, named",
        [
            ("visual_encoder.blocks.0.norm2.bias", "sacl.vision_model.layers.0.mlp_layer_norm.bias"),
            ("text_encoder.encoder.layer.2.output.dense.bias", "sacl.fusion_model.layers.0.mlp.fc2.bias"),
            ("temp", "sacl.logit_scale"),
            ("visual_encoder.pos_embed", "`visual_encoder.pos_embed`"),
        ],
    )
    def test_missing_tensor(self, name, named):
        tensors = self.tensors("retrieval", SMALL)
        del tensors[name]
        with pytest.raises(ValueError, match=named):
            plan_conversion(tensors)

    def test_heads_of_another_width_have_to_be_told(self):
        sizes = Sizes(width=96)
        with pytest.raises(ValueError, match="width 96 .* say how many there are by `num_text_heads`"):
            plan_conversion(self.tensors("retrieval", sizes), num_vision_heads=3)
        config = plan_conversion(self.tensors("retrieval", sizes), num_vision_heads=3, num_text_heads=4).config
        assert config.vision_config.num_attention_heads == 3
        assert config.text_config.num_attention_heads == config.fusion_encoder_config.num_attention_heads == 4
        with pytest.raises(ValueError, match="width 96 .* over 5 heads: change `num_vision_heads`"):
            plan_conversion(self.tensors("retrieval", sizes), num_vision_heads=5, num_text_heads=4)


BERT_NAMES = {
    "attention.self.query": "self_attention.q_proj",
    "attention.self.key": "self_attention.k_proj",
    "attention.self.value": "self_attention.v_proj",
    "attention.output.dense": "self_attention.o_proj",
    "attention.output.LayerNorm": "self_attention_layer_norm",
    "crossattention.self.query": "cross_attention.q_proj",
    "crossattention.self.key": "cross_attention.k_proj",
    "crossattention.self.value": "cross_attention.v_proj",
    "crossattention.output.dense": "cross_attention.o_proj",
    "crossattention.output.LayerNorm": "cross_attention_layer_norm",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "output.LayerNorm": "mlp_layer_norm",
}
BLOCK_NAMES = {
    "norm1": "self_attention_layer_norm",
    "attn.proj": "self_attention.o_proj",
    "norm2": "mlp_layer_norm",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


class TestPlaces:
    @pytest.mark.parametrize("task", TASKS)
    def test_each_tensor_lands_where_its_name_says(self, task, converted):
        tensors, _, model = converted(task)
        tensors = {name.replace(".bert.", "."): tensor for name, tensor in tensors.items()}
        ours = model.state_dict()
        seen = set()

        def same(theirs, our_name, tensor=None):
            for kind in ("weight", "bias"):
                seen.add(f"{our_name}.{kind}")
                expected = tensors[f"{theirs}.{kind}"] if tensor is None else tensor[kind]
                assert torch.equal(ours[f"{our_name}.{kind}"], expected), our_name

        vision = "sacl.vision_model"
        same("visual_encoder.patch_embed.proj", f"{vision}.embeddings.patch_embedding")
        same("visual_encoder.norm", f"{vision}.post_layer_norm")
        assert torch.equal(ours[f"{vision}.embeddings.class_embedding"], tensors["visual_encoder.cls_token"][0, 0])
        assert torch.equal(ours[f"{vision}.embeddings.position_embedding"], tensors["visual_encoder.pos_embed"])
        for layer in range(SMALL.vision_layers):
            for theirs, name in BLOCK_NAMES.items():
                same(f"visual_encoder.blocks.{layer}.{theirs}", f"{vision}.layers.{layer}.{name}")
            for number, name in enumerate(("q_proj", "k_proj", "v_proj")):
                rows = slice(number * SMALL.width, (number + 1) * SMALL.width)
                joined = f"visual_encoder.blocks.{layer}.attn.qkv"
                part = {kind: tensors[f"{joined}.{kind}"][rows] for kind in ("weight", "bias")}
                same(None, f"{vision}.layers.{layer}.self_attention.{name}", part)
        towers = [("text_encoder", number, number - SMALL.text_layers, "sacl.fusion_model") for number in (2, 3)]
        if task == "question_answering":
            towers += [("text_decoder", number, number, "answer_decoder") for number in (0, 1)]
        for part, theirs_number, our_number, tower in towers:
            for theirs, name in BERT_NAMES.items():
                same(f"{part}.encoder.layer.{theirs_number}.{theirs}", f"{tower}.layers.{our_number}.{name}")
        for name in (name for name in ours if name.startswith("sacl.text_model.")):
            assert torch.equal(ours[name], tensors[name.replace("sacl.text_model.", "text_encoder.")]), name
            seen.add(name)

        heads = {
            "pretraining": {"itm_head": "itm_head", "vision_proj": "sacl.visual_projection"},
            "retrieval": {"itm_head": "itm_head", "text_proj": "sacl.text_projection"},
            "question_answering": {"text_decoder.embeddings.LayerNorm": "answer_decoder.embedding_layer_norm"},
            "classification": {"cls_head.0": "classifier.dense", "cls_head.2": "classifier.out_proj"},
        }
        for theirs, name in heads[task].items():
            same(theirs, name)
        if task in ("pretraining", "retrieval"):
            same("vision_proj", "sacl.visual_projection")
            same("text_proj", "sacl.text_projection")
            assert ours["sacl.logit_scale"].item() == pytest.approx(math.log(1 / 0.043), abs=1e-6)
        if task in ("pretraining", "question_answering"):
            part = "text_encoder" if task == "pretraining" else "text_decoder"
            same(f"{part}.cls.predictions.transform.dense", "mlm_head.dense")
            same(f"{part}.cls.predictions.transform.LayerNorm", "mlm_head.layer_norm")
            same(f"{part}.cls.predictions.decoder", "mlm_head.decoder")
        if task == "question_answering":
            words = "answer_decoder.word_embedding.weight"
            assert torch.equal(ours[words], tensors["text_decoder.embeddings.word_embeddings.weight"])
            assert not torch.equal(ours[words], model.get_input_embeddings().weight)
            positions = tensors["text_decoder.embeddings.position_embeddings.weight"]
            positions = positions + tensors["text_decoder.embeddings.token_type_embeddings.weight"][0]
            assert torch.equal(ours["answer_decoder.position_embedding.weight"], positions)
            seen |= {words, "answer_decoder.position_embedding.weight"}
        seen |= {f"{vision}.embeddings.class_embedding", f"{vision}.embeddings.position_embedding"}
        contrast = {name for name in ours if name.startswith(("sacl.logit_scale", "sacl.visual_p", "sacl.text_p"))}
        assert seen | contrast == set(ours)

    @pytest.mark.parametrize("task", ["question_answering", "classification"])
    def test_what_a_checkpoint_does_not_have_is_that_of_a_new_model_and_always_the_same(
        self, task, converted, tokenizer, tmp_path
    ):
        _, report, model = converted(task)
        assert len(report.initialized) == 5
        weight = model.sacl.visual_projection.weight
        assert weight.shape == (256, SMALL.width)
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert model.sacl.logit_scale.item() == pytest.approx(math.log(1 / 0.07))
        convert_albef_checkpoint(save(albef_checkpoint(task), tmp_path / "a.pth"), tmp_path / "b", tokenizer=tokenizer)
        again = MODEL_CLASSES[task].from_pretrained(tmp_path / "b")
        assert torch.equal(again.sacl.visual_projection.weight, weight)

    def test_head_that_was_trained_apart_from_the_words_stays_apart(self, tmp_path):
        tensors = albef_checkpoint("pretraining")
        tensors["text_encoder.cls.predictions.decoder.weight"] += 1
        convert_albef_checkpoint(save(tensors, tmp_path / "a.pth"), tmp_path / "b", tokenizer=None)
        model = SaclForPreTraining.from_pretrained(tmp_path / "b")
        assert not model.config.tie_word_embeddings
        words = tensors["text_encoder.bert.embeddings.word_embeddings.weight"]
        assert torch.equal(model.mlm_head.decoder.weight, words + 1)
        assert torch.equal(model.get_input_embeddings().weight, words)


class TestForward:
    @pytest.fixture(autouse=True)
    def without_gradient(self):
        with torch.no_grad():
            yield

    @pytest.mark.parametrize("task", ["pretraining", "retrieval"])
    def test_contrast_and_matching(self, task, converted, batch):
        tensors, _, model = converted(task)
        albef = Albef(tensors)
        pixels, texts = batch["pixel_values"], (batch["input_ids"], batch["attention_mask"])
        image = albef.see(pixels)
        assert_close(model.sacl.vision_model(pixels).last_hidden_state, image)
        image_embeds = albef.embeds("vision_proj", image)
        text_embeds = albef.embeds("text_proj", albef.read(*texts))
        output = model.sacl(**batch)
        assert_close(output.image_embeds, image_embeds)
        assert_close(output.text_embeds, text_embeds)
        expected = image_embeds @ text_embeds.T
        assert_close(output.logits_per_image * tensors["temp"], expected)
        assert output.logits_per_image[0, 0].item() == pytest.approx(expected[0, 0].item() / 0.043, abs=1e-4)
        for image_of_text in ([0, 1], [1, 0]):
            fused = albef.fuse(*texts, image[image_of_text])
            vision = model.sacl.get_image_features(pixels)
            tokens = model.sacl.get_text_features(*texts).last_hidden_state
            match = model.match(tokens, vision, texts[1], image_index=torch.tensor(image_of_text))
            assert_close(match, albef.linear("itm_head", fused[:, 0]))

    def test_masked_words(self, converted, batch):
        tensors, _, model = converted("pretraining")
        albef = Albef(tensors)
        masked = batch["input_ids"].clone()
        masked[:, 2] = 4
        positions = torch.tensor([[2, 4], [2, 0]])
        output = model(**batch, mlm_input_ids=masked, mlm_positions=positions, with_itm=False)
        fused = albef.fuse(masked, batch["attention_mask"], albef.see(batch["pixel_values"]))
        expected = albef.predict("text_encoder", fused)
        assert_close(output.mlm_logits, torch.stack([expected[row, positions[row]] for row in range(2)]))

    def test_answers(self, converted, batch):
        tensors, _, model = converted("question_answering")
        albef = Albef(tensors)
        answers = torch.tensor([[2, 7, 3, 0], [2, 8, 9, 3]])
        labels = answers.masked_fill(answers == 0, -100)
        mask = batch["attention_mask"]
        question = albef.fuse(batch["input_ids"], mask, albef.see(batch["pixel_values"]))
        logits = albef.answer(answers, question, mask)
        output = model(**batch, labels=labels)
        assert_close(output.logits[0, :2], logits[0, :2])
        assert_close(output.logits[1], logits[1, :-1])
        losses = nn.functional.cross_entropy(logits[:, :-1].mT, labels[:, 1:], reduction="none").sum(1)
        assert output.loss.item() == pytest.approx(losses.mean().item(), abs=1e-5)
        options = {"answer_input_ids": answers, "answer_attention_mask": (answers != 0).long()}
        scores, rows = model.rank_answers(**batch, **options, k=2)
        of_row_0 = dict(zip(rows[0].tolist(), scores[0].tolist(), strict=True))
        assert of_row_0[0] == pytest.approx(-losses[0].item(), abs=1e-5)

    def test_answers_are_written_from_the_first_token_to_the_last(self, converted, batch, tokenizer):
        tensors, _, model = converted("question_answering")
        settings = model.generation_config
        assert (settings.decoder_start_token_id, settings.eos_token_id, settings.pad_token_id) == (2, 3, 0)
        albef, mask = Albef(tensors), batch["attention_mask"]
        question = albef.fuse(batch["input_ids"], mask, albef.see(batch["pixel_values"]))
        expected = torch.full((2, 1), tokenizer.cls_token_id)
        for _ in range(4):
            best = albef.answer(expected, question, mask)[:, -1].argmax(-1, keepdim=True)
            expected = torch.cat([expected, best.masked_fill((expected == 3).any(1, keepdim=True), 0)], 1)
        written = model.generate(**batch, max_new_tokens=4)
        assert torch.equal(written, expected[:, : written.shape[1]])

    def test_entailment(self, converted, batch):
        tensors, _, model = converted("classification")
        albef = Albef(tensors)
        fused = albef.fuse(batch["input_ids"], batch["attention_mask"], albef.see(batch["pixel_values"]))
        expected = albef.linear("cls_head.2", albef.linear("cls_head.0", fused[:, 0]).relu())
        assert_close(model(**batch).logits, expected)
        assert model.config.id2label == {0: "contradiction", 1: "neutral", 2: "entailment"}
        assert model.config.label2id == {"contradiction": 0, "neutral": 1, "entailment": 2}

    def test_epsilons_are_albefs(self, batch, tokenizer, tmp_path, monkeypatch):
        """Of embeddings so small that another epsilon would show."""
        tensors = albef_checkpoint("retrieval")
        for name in tensors:
            if "embed" in name and "LayerNorm" not in name or name.endswith("cls_token"):
                tensors[name] = tensors[name] * 0.01
        convert_albef_checkpoint(save(tensors, tmp_path / "a.pth"), tmp_path / "b", tokenizer=tokenizer)
        model = SaclForImageTextRetrieval.from_pretrained(tmp_path / "b")
        albef, texts = Albef(tensors), (batch["input_ids"], batch["attention_mask"])

        def see_and_read():
            return albef.see(batch["pixel_values"]), albef.read(*texts)

        image, text = see_and_read()
        assert_close(model.sacl.vision_model(batch["pixel_values"]).last_hidden_state, image)
        assert_close(model.sacl.get_text_features(*texts).last_hidden_state, text)
        for name, value in (("VISION_EPS", 1e-5), ("TEXT_EPS", 1e-6)):
            monkeypatch.setitem(globals(), name, value)
        other_image, other_text = see_and_read()
        assert (other_image - image).abs().max() > 1e-3 and (other_text - text).abs().max() > 1e-3


class TestImageSize:
    @torch.no_grad()
    def test_positions_are_resampled_as_albef_does(self, batch, tokenizer, tmp_path):
        tensors = albef_checkpoint("retrieval")
        file = save(tensors, tmp_path / "albef.pth")
        report = convert_albef_checkpoint(file, tmp_path / "larger", image_size=48, tokenizer=tokenizer)
        assert (report.source_image_size, report.image_size) == (32, 48)
        assert "positions resampled from 32 to 48 pixels" in report.summary()
        first, grid = tensors["visual_encoder.pos_embed"].split([1, 16], dim=1)
        grid = grid.reshape(-1, 4, 4, 128).permute(0, 3, 1, 2)
        grid = nn.functional.interpolate(grid, size=(6, 6), mode="bicubic", align_corners=False)
        tensors["visual_encoder.pos_embed"] = torch.cat([first, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
        model = SaclForImageTextRetrieval.from_pretrained(tmp_path / "larger")
        assert model.config.vision_config.image_size == 48
        pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
        assert_close(model.sacl.vision_model(pixels).last_hidden_state, Albef(tensors).see(pixels))
        processor = AutoProcessor.from_pretrained(tmp_path / "larger")
        image = Image.new("RGB", (70, 30), "red")
        assert processor(images=image, text="a", return_tensors="pt").pixel_values.shape == (1, 3, 48, 48)

    def test_size_that_patches_do_not_divide(self, tmp_path):
        file = save(albef_checkpoint("retrieval"), tmp_path / "albef.pth")
        with pytest.raises(ValueError, match=r"`image_size` \(50\) must be a multiple of `patch_size` \(8\)"):
            convert_albef_checkpoint(file, tmp_path / "model", image_size=50, tokenizer=None)
        assert not (tmp_path / "model").exists()


class RunsCode:
    def __reduce__(self):
        return print, ("code of the file has run",)


class TestFile:
    def refused(self, file, match, folder):
        with pytest.raises((ValueError, OSError), match=match):
            convert_albef_checkpoint(file, folder / "model", tokenizer=None)
        assert not (folder / "model").exists()

    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_is_refused_and_not_run(self, zipped, tmp_path, capsys):
        content = {"model": albef_checkpoint("retrieval"), "config": RunsCode()}
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        self.refused(tmp_path / "a.pth", "asks to run code, `.*print`, and is refused", tmp_path)
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
    def test_truncated(self, zipped, share, tmp_path):
        content = {"model": albef_checkpoint("retrieval")}
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        whole = (tmp_path / "a.pth").read_bytes()
        (tmp_path / "a.pth").write_bytes(whole[: int(share * len(whole))])
        self.refused(tmp_path / "a.pth", "cut off or damaged: download it again", tmp_path)

    @pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>Not found</html>", bytes(1000)])
    def test_something_else(self, content, tmp_path):
        (tmp_path / "a.pth").write_bytes(content)
        self.refused(tmp_path / "a.pth", "is no checkpoint: it begins with", tmp_path)

    @pytest.mark.parametrize(
        "content, found",
        [
            ([torch.ones(2)], "found a list"),
            ({}, "found a dict with nothing in it"),
            ({"epoch": 3, "weights": {"a": torch.ones(2)}}, "found a dict with 'epoch', 'weights'"),
            ({"model": {"a": 3}}, "found a dict with 'a'"),
        ],
    )
    def test_other_content(self, content, found, tmp_path):
        torch.save(content, tmp_path / "a.pth")
        self.refused(tmp_path / "a.pth", f"expected a dict with tensors under 'model', {found}", tmp_path)

    def test_no_file(self, tmp_path):
        self.refused(tmp_path / "b.pth", "There is no file .*b.pth", tmp_path)

    def test_names_twice(self, tmp_path):
        tensors = albef_checkpoint("pretraining")
        name = "text_encoder.bert.embeddings.LayerNorm.bias"
        tensors[name.replace("bert.", "")] = tensors[name]
        self.refused(save(tensors, tmp_path / "a.pth"), "`text_encoder.embeddings.LayerNorm.bias` twice", tmp_path)

    @pytest.mark.parametrize(
        "name, value, match",
        [
            ("visual_encoder.norm.bias", torch.full((128,), torch.nan), "`visual_encoder.norm.bias` must hold finite"),
            ("itm_head.bias", torch.tensor([1, 2]), "`itm_head.bias` must hold finite numbers .* torch.int64"),
            ("temp", torch.tensor(0.0), "`temp`.* must be positive, got 0.0"),
        ],
    )
    def test_values_that_cannot_be(self, name, value, match, tmp_path):
        tensors = {**albef_checkpoint("retrieval"), name: value}
        self.refused(save(tensors, tmp_path / "a.pth"), match, tmp_path)

    @torch.no_grad()
    def test_other_ways_to_save_the_same(self, converted, batch, tmp_path):
        tensors, _, model = converted("retrieval")
        expected = model.sacl(**batch).logits_per_image
        torch.save(tensors, tmp_path / "bare.pth", _use_new_zipfile_serialization=False)
        torch.save({"model": {f"module.{name}": t for name, t in tensors.items()}}, tmp_path / "distributed.pth")
        save_file(tensors, tmp_path / "safe.safetensors")
        with_bert = {name.replace("text_encoder.", "text_encoder.bert."): t for name, t in tensors.items()}
        save(with_bert, tmp_path / "bert.pth")
        for file in ("bare.pth", "distributed.pth", "safe.safetensors", "bert.pth"):
            convert_albef_checkpoint(tmp_path / file, tmp_path / f"from_{file}", tokenizer=None)
            again = SaclForImageTextRetrieval.from_pretrained(tmp_path / f"from_{file}")
            assert torch.equal(again.sacl(**batch).logits_per_image, expected)

    def test_half_precision_becomes_single(self, tmp_path):
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in albef_checkpoint("retrieval").items()}
        convert_albef_checkpoint(save(tensors, tmp_path / "a.pth"), tmp_path / "b", tokenizer=None)
        model = SaclForImageTextRetrieval.from_pretrained(tmp_path / "b")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert torch.equal(model.itm_head.weight, tensors["itm_head.weight"].float())


class TestProcessor:
    def test_texts_begin_with_cls_and_have_no_end(self, converted, tokenizer):
        _, report, model = converted("pretraining")
        processor = AutoProcessor.from_pretrained(report.output_dir)
        assert type(processor).__name__ == "SaclProcessor"
        tokens = processor.tokenizer(["a red bus", "the cat"], padding=True)
        red_bus = tokenizer.convert_tokens_to_ids(["[CLS]", "a", "red", "bus"])
        the_cat = tokenizer.convert_tokens_to_ids(["[CLS]", "the", "cat", "[PAD]"])
        assert tokens["input_ids"] == [red_bus, the_cat]
        assert processor.tokenizer("A RED [SEP]").input_ids == tokenizer.convert_tokens_to_ids(
            ["[CLS]", "a", "red", "[SEP]"]
        )
        pair = tokenizer("a red", "bus").input_ids
        assert processor.tokenizer("a red", "bus").input_ids == pair
        assert processor.tokenizer.decode(red_bus, skip_special_tokens=True) == "a red bus"
        assert processor.tokenizer.model_max_length == SMALL.positions
        assert processor.tokenizer.mask_token_id == tokenizer.mask_token_id
        # What was given is as it was.
        assert tokenizer("a red bus").input_ids[-1] == tokenizer.sep_token_id

    def test_images_are_resized_and_normalised_as_in_albef(self, converted):
        _, report, _ = converted("pretraining")
        processor = AutoProcessor.from_pretrained(report.output_dir)
        pixels = np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8)
        image = Image.fromarray(pixels.repeat(8, 0).repeat(8, 1))
        found = processor(images=image, text="a", return_tensors="pt").pixel_values[0]
        resized = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float64) / 255
        mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        expected = torch.from_numpy((resized - mean) / std).permute(2, 0, 1)
        # One of 256 steps, where the backend rounds otherwise than PIL.
        assert (found - expected).abs().max() <= 1.01 / 255 / min(std)

    def test_model_is_written_without_a_tokenizer(self, tmp_path, capsys):
        file = save(albef_checkpoint("question_answering"), tmp_path / "a.pth")
        report = convert_albef_checkpoint(file, tmp_path / "model", tokenizer=str(tmp_path / "nowhere"))
        assert len(report.notes) == 1
        assert "has no processor, since the tokenizer" in report.notes[0]
        assert "nowhere" in report.summary()
        assert not (tmp_path / "model" / "processor_config.json").exists()
        model = SaclForQuestionAnswering.from_pretrained(tmp_path / "model")
        # Of bert-base-uncased.
        assert (model.generation_config.decoder_start_token_id, model.generation_config.eos_token_id) == (101, 102)
        assert "was asked for" in convert_albef_checkpoint(file, tmp_path / "none", tokenizer=None).notes[0]

    def test_tokenizer_of_another_vocabulary(self, tiny_tokenizer, tmp_path):
        file = save(albef_checkpoint("retrieval"), tmp_path / "a.pth")
        with pytest.raises(ValueError, match=rf"has {len(tiny_tokenizer)} words, the checkpoint 31"):
            convert_albef_checkpoint(file, tmp_path / "model", tokenizer=tiny_tokenizer)
        assert not (tmp_path / "model").exists()


class TestReport:
    def test_says_what_became_of_everything(self, converted):
        tensors, report, model = converted("pretraining")
        written = json.loads(open(f"{report.output_dir}/conversion.json").read())
        assert written == report.to_dict()
        names = {name.replace(".bert.", ".") for name in tensors}
        assert report.mapped.keys() | report.dropped.keys() == names
        assert report.mapped["visual_encoder.blocks.1.attn.qkv.bias"] == [
            f"sacl.vision_model.layers.1.self_attention.{part}_proj.bias" for part in "qkv"
        ]
        count = report.num_parameters
        assert count["checkpoint"] == sum(tensor.numel() for tensor in tensors.values())
        assert count["mapped"] + count["dropped"] == count["checkpoint"]
        assert count["mapped"] == count["model"] == sum(parameter.numel() for parameter in model.parameters())
        assert report.temperature == pytest.approx(0.043)
        file = f"{report.output_dir}/../albef.pth"
        assert report.sha256 == hashlib.sha256(open(file, "rb").read()).hexdigest()
        assert (report.source, report.task, report.initialized) == ("albef.pth", "pretraining", {})

    def test_words_of_the_summary(self, converted):
        _, report, _ = converted("question_answering")
        summary = report.summary()
        assert summary.startswith(f"albef.pth (SHA-256 {report.sha256})\n-> {report.output_dir}: SaclForQuestionAns")
        assert "momentum teacher's copy" in summary
        assert "not in the checkpoint, 66,049 numbers" in summary

    def test_readme_names_source_and_licence(self, converted):
        _, report, _ = converted("question_answering")
        text = open(f"{report.output_dir}/README.md").read()
        assert text.startswith("---\nlicense: bsd-3-clause\n")
        assert "pipeline_tag: visual-question-answering\n" in text
        assert report.sha256 in text and "github.com/salesforce/ALBEF" in text and "@inproceedings{li2021align" in text

    def test_folder_holds_what_travels_and_nothing_else(self, converted):
        _, report, _ = converted("question_answering")
        expected = {f"{module}.py" for module in MODULES}
        expected |= {"README.md", "config.json", "conversion.json", "generation_config.json", "model.safetensors"}
        expected |= {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
        assert set(os.listdir(report.output_dir)) == expected
        assert type(AutoModelForVisualQuestionAnswering.from_pretrained(report.output_dir)) is SaclForQuestionAnswering


class TestCommandLine:
    def test_converts_and_says_so(self, tokenizer, tmp_path, capsys):
        file = save(albef_checkpoint("pretraining"), tmp_path / "ALBEF.pth")
        tokenizer.save_pretrained(tmp_path / "words")
        arguments = [file, str(tmp_path / "model"), "--task", "retrieval", "--tokenizer", str(tmp_path / "words")]
        assert main(arguments) == 0
        assert "SaclForImageTextRetrieval, 32 pixels" in capsys.readouterr().out
        SaclForImageTextRetrieval.from_pretrained(tmp_path / "model")
        assert main(arguments) == 1
        assert "is not an empty folder" in capsys.readouterr().err
        assert main([*arguments, "--overwrite"]) == 0

    def test_what_cannot_be_done_is_one_line(self, tmp_path, capsys):
        assert main([str(tmp_path / "ALBEF.pth"), str(tmp_path / "model")]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("There is no file") and printed.err.count("\n") == 1


class TestAnswerWordsOfTheirOwn(TextTowerTests, ModelTests):
    """`share_answer_word_embeddings=False`, which ALBEF's decoder needs, does all that a model must do."""

    model_class = SaclForQuestionAnswering
    without_gradient = ("sacl.text_projection", "sacl.visual_projection", "sacl.logit_scale")
    inputs = test_question_answering.TestSaclForQuestionAnswering.inputs

    @pytest.fixture
    def config(self, tiny_config):
        tiny_config.share_answer_word_embeddings = False
        return tiny_config

    def test_start_as_those_of_the_text_tower(self, config, tmp_path):
        pretrained = stir(build(SaclForPreTraining, config))
        pretrained.save_pretrained(tmp_path)
        model = SaclForQuestionAnswering.from_pretrained(tmp_path)
        own = model.answer_decoder.word_embedding.weight
        assert torch.equal(own, model.get_input_embeddings().weight)
        assert own is not model.get_input_embeddings().weight
        assert model.mlm_head.decoder.weight is own

    def test_are_resized_with_the_others(self, config):
        model = stir(build(SaclForQuestionAnswering, config))
        before = model.answer_decoder.word_embedding.weight.detach().clone()
        model.resize_token_embeddings(105)
        own = model.answer_decoder.word_embedding.weight
        assert own.shape == model.get_input_embeddings().weight.shape == (105, 32)
        assert torch.equal(own[:99], before)
        assert model.mlm_head.decoder.weight is own
        assert model.mlm_head.decoder.bias.shape == (105,)
