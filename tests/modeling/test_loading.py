# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""A saved folder is all that a user needs: with this package by the Auto classes, else by `trust_remote_code`."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForVisualQuestionAnswering,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
    logging,
    pipeline,
)
from transformers.testing_utils import CaptureLogger

import modeling_sacl
from modeling_sacl import (
    SaclConfig,
    SaclForImagesAndTextClassification,
    SaclForImageTextClassification,
    SaclForImageTextRetrieval,
    SaclForPreTraining,
    SaclForQuestionAnswering,
    SaclFusionModel,
    SaclModel,
    SaclProcessor,
    SaclVisionModel,
)
from tests.without_the_package import WITHOUT_THE_PACKAGE

from .common import assert_same, build, random_masked_batch, stir


LABELS = ["red bus", "dog", "blue house"]
HEADS = (
    SaclForImageTextClassification,
    SaclForQuestionAnswering,
    SaclForImageTextRetrieval,
    SaclForImagesAndTextClassification,
)


@pytest.fixture
def config(tiny_config, tiny_tokenizer) -> SaclConfig:
    tiny_config.text_config.vocab_size = len(tiny_tokenizer)
    return tiny_config


@pytest.fixture
def image() -> Image.Image:
    pixels = torch.randint(0, 256, (40, 56, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.fixture
def pretrained(config, tiny_processor, tmp_path) -> tuple[SaclForPreTraining, Path]:
    """A pre-training model, and the folder it is saved in, with its processor."""
    model = stir(build(SaclForPreTraining, config))
    model.save_pretrained(tmp_path / "pretrained")
    tiny_processor.save_pretrained(tmp_path / "pretrained")
    return model, tmp_path / "pretrained"


@pytest.fixture
def dual_encoder(config, tiny_processor, tmp_path) -> tuple[SaclModel, Path]:
    model = stir(build(SaclModel, config))
    model.save_pretrained(tmp_path / "dual")
    tiny_processor.save_pretrained(tmp_path / "dual")
    return model, tmp_path / "dual"


@pytest.fixture
def inputs(tiny_processor, image):
    return tiny_processor(text=LABELS, images=[image] * 3, return_tensors="pt")


class TestAutoClasses:
    @pytest.mark.parametrize(
        ("auto_class", "expected"),
        [
            (AutoModel, SaclModel),
            (AutoModelForPreTraining, SaclForPreTraining),
            (AutoModelForSequenceClassification, SaclForImageTextClassification),
            (AutoModelForVisualQuestionAnswering, SaclForQuestionAnswering),
            (AutoModelForZeroShotImageClassification, SaclModel),
        ],
    )
    @pytest.mark.parametrize("saved", ["pretrained", "dual_encoder"])
    def test_any_folder_loads_by_any_auto_class(self, auto_class, expected, saved, inputs, request):
        model, folder = request.getfixturevalue(saved)
        loaded = auto_class.from_pretrained(folder)
        assert type(loaded) is expected
        assert not loaded.training
        with torch.no_grad():
            assert_same(loaded.base_model(**inputs), model.base_model(**inputs))
            assert_same(
                loaded.base_model.get_fusion_features(**inputs), model.base_model.get_fusion_features(**inputs)
            )

    def test_classes_load_each_others_checkpoints(self, pretrained, dual_encoder):
        model, folder = pretrained
        base, report = SaclModel.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"]
        assert_same(base.state_dict(), model.sacl.state_dict())

        model, folder = dual_encoder
        full, report = SaclForPreTraining.from_pretrained(folder, output_loading_info=True)
        assert {key.split(".")[0] for key in report["missing_keys"]} == {"itm_head", "mlm_head"}
        assert_same(full.sacl.state_dict(), model.state_dict())
        # The new heads are initialised, and the tie holds: nothing is left as memory was.
        assert full.mlm_head.decoder.weight is full.get_input_embeddings().weight
        assert full.mlm_head.dense.weight.abs().max() < 1
        assert full.mlm_head.dense.bias.count_nonzero() == 0
        assert (full.mlm_head.layer_norm.weight == 1).all()

    def test_config_and_processor(self, pretrained, config, inputs, image):
        _, folder = pretrained
        loaded = AutoConfig.from_pretrained(folder)
        assert type(loaded) is SaclConfig
        assert loaded.architectures == ["SaclForPreTraining"]
        assert loaded.projection_dim == config.projection_dim
        processor = AutoProcessor.from_pretrained(folder)
        assert type(processor) is SaclProcessor
        assert_same(processor(text=LABELS, images=[image] * 3, return_tensors="pt"), inputs)

    def test_parts_of_the_processor(self, pretrained, tiny_processor, inputs, image):
        _, folder = pretrained
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert type(tokenizer) is type(tiny_processor.tokenizer)
        assert torch.equal(tokenizer(LABELS, padding=True, return_tensors="pt")["input_ids"], inputs["input_ids"])
        image_processor = AutoImageProcessor.from_pretrained(folder)
        assert torch.equal(image_processor(image, return_tensors="pt")["pixel_values"][0], inputs["pixel_values"][0])

    @pytest.mark.parametrize(
        ("model_class", "key"), [(SaclVisionModel, "vision_config"), (SaclFusionModel, "fusion_encoder_config")]
    )
    def test_towers_alone(self, model_class, key, config, tmp_path):
        model = build(model_class, getattr(config, key))
        model.save_pretrained(tmp_path)
        loaded = AutoModel.from_pretrained(tmp_path)
        assert type(loaded) is model_class
        assert_same(loaded.state_dict(), model.state_dict())

    def test_from_config(self, config):
        assert type(AutoModel.from_config(config)) is SaclModel
        assert type(AutoModelForPreTraining.from_config(config)) is SaclForPreTraining

    def test_options_in_from_pretrained(self, pretrained):
        _, folder = pretrained
        assert AutoModel.from_pretrained(folder, attn_implementation="eager").config._attn_implementation == "eager"
        assert AutoModel.from_pretrained(folder, dtype=torch.bfloat16).dtype == torch.bfloat16
        assert AutoConfig.from_pretrained(folder, logit_scale_init_value=1.0).logit_scale_init_value == 1.0
        with pytest.raises(TypeError, match="projecton_dim"):
            SaclModel.from_pretrained(folder, projecton_dim=3)

    def test_local_code_beats_the_copy_in_the_folder(self, pretrained):
        _, folder = pretrained
        (folder / "modeling_sacl.py").write_text("raise ImportError('the copy was run')")
        assert type(AutoModel.from_pretrained(folder, trust_remote_code=True)) is SaclModel


class TestQuietness:
    """A report of missing or unexpected weights is for what is wrong, not for what was asked for."""

    @staticmethod
    def logged(function) -> str:
        logger = logging.get_logger("transformers")
        with CaptureLogger(logger) as captured:
            function()
        return captured.out

    def test_dual_encoder_from_a_pretraining_checkpoint(self, pretrained, capfd):
        _, folder = pretrained
        for function in (SaclModel.from_pretrained, AutoModel.from_pretrained):
            output = self.logged(lambda function=function: function(folder))
            assert "UNEXPECTED" not in output
            assert "MISSING" not in output
        printed = capfd.readouterr()
        assert "UNEXPECTED" not in printed.out + printed.err

    def test_new_heads_are_reported(self, dual_encoder):
        _, folder = dual_encoder
        assert "MISSING" in self.logged(lambda: SaclForPreTraining.from_pretrained(folder))

    def test_foreign_weights_are_reported(self, dual_encoder):
        _, folder = dual_encoder
        weights = load_file(folder / "model.safetensors")
        save_file({**weights, "stranger.weight": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
        assert "stranger" in self.logged(lambda: SaclModel.from_pretrained(folder))


class TestPipeline:
    @pytest.mark.parametrize("saved", ["pretrained", "dual_encoder"])
    def test_zero_shot_image_classification(self, saved, image, tiny_processor, request):
        model, folder = request.getfixturevalue(saved)
        classifier = pipeline("zero-shot-image-classification", model=str(folder))
        assert type(classifier.model) is SaclModel
        results = classifier(image, candidate_labels=LABELS, hypothesis_template="a photo of a {}.")
        text = [f"a photo of a {label}." for label in LABELS]
        with torch.no_grad():
            output = model.base_model(**tiny_processor(text=text, images=image, return_tensors="pt"))
        expected = dict(zip(LABELS, output.logits_per_image.softmax(dim=-1)[0].tolist(), strict=True))
        assert {result["label"]: result["score"] for result in results} == pytest.approx(expected, abs=1e-6)
        assert len({round(score, 6) for score in expected.values()}) == 3

    def test_model_given_as_object(self, dual_encoder, tiny_processor, image):
        model, folder = dual_encoder
        classifier = pipeline(
            "zero-shot-image-classification",
            model=model,
            tokenizer=tiny_processor.tokenizer,
            image_processor=tiny_processor.image_processor,
        )
        by_folder = pipeline("zero-shot-image-classification", model=str(folder))
        for left, right in zip(
            classifier(image, candidate_labels=LABELS), by_folder(image, candidate_labels=LABELS), strict=True
        ):
            assert left["label"] == right["label"]
            assert left["score"] == pytest.approx(right["score"], abs=1e-6)


LOAD = """
import importlib.util, json, logging, sys
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForZeroShotImageClassification, AutoProcessor, pipeline,
)

folder, heads, answers = sys.argv[1:]
report = {"refused": {}, "modules": {}}

for auto_class in (AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor):
    for options in ({}, {"trust_remote_code": False}):
        try:
            auto_class.from_pretrained(folder, **options)
            message = "it was loaded"
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
        report["refused"][f"{auto_class.__name__} {options}"] = message
assert not any(name.startswith("transformers_modules") and "sacl" in name for name in sys.modules)

def load(auto_class, path=folder):
    loaded = auto_class.from_pretrained(path, trust_remote_code=True)
    key = f"{auto_class.__name__} {len(report['modules'])}"
    report["modules"][key] = [type(loaded).__module__, type(loaded).__name__]
    return loaded

torch.manual_seed(0)
inputs = load_file(f"{answers}/inputs.safetensors")
image = Image.open(f"{answers}/image.png")
config, processor = load(AutoConfig), load(AutoProcessor)
report["projection_dim"] = config.projection_dim
model, pretraining = load(AutoModel), load(AutoModelForPreTraining)
load(AutoModelForZeroShotImageClassification)
plain = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}

with torch.no_grad():
    outputs = dict(model(**plain).items())
    tensors = {name: outputs[name] for name in ("image_embeds", "text_embeds", "logits_per_image")}
    tensors["fused"] = model.get_fusion_features(**plain).last_hidden_state
    torch.manual_seed(0)
    trained = pretraining(**inputs, return_loss=True)
    tensors.update({name: trained[name] for name in ("loss", "itm_logits", "mlm_logits")})
    # Patch selection, asked for in both ways: in loading, and of the loaded model.
    options = {"trust_remote_code": True, "vision_config": {"patch_keep_rate": 0.5}}
    tensors["selected_in_loading"] = AutoModel.from_pretrained(folder, **options)(**plain).image_embeds
    model.set_patch_selection(keep_rate=0.5)
    tensors["selected_by_setter"] = model(**plain).image_embeds
prepared = processor(text=["a red bus", "dog"], images=image, return_tensors="pt")
tensors.update({f"processor.{name}": value for name, value in prepared.items()})
classifier = pipeline("zero-shot-image-classification", model=folder, trust_remote_code=True)
report["scores"] = {r["label"]: r["score"] for r in classifier(image, candidate_labels=["red bus", "dog"])}

# Every head, those without an Auto class by their module.
from transformers import AutoModelForSequenceClassification, AutoModelForVisualQuestionAnswering
from transformers.dynamic_module_utils import get_class_from_dynamic_module

for name, place in {
    "SaclForImageTextClassification": AutoModelForSequenceClassification,
    "SaclForQuestionAnswering": AutoModelForVisualQuestionAnswering,
    "SaclForImageTextRetrieval": "retrieval_sacl",
    "SaclForImagesAndTextClassification": "images_and_text_sacl",
}.items():
    path = f"{heads}/{name}"
    if isinstance(place, str):
        place = get_class_from_dynamic_module(f"{place}.{name}", path)
    head = place.from_pretrained(path, trust_remote_code=True)
    report["modules"][name] = [type(head).__module__, type(head).__name__]
    two = name == "SaclForImagesAndTextClassification"
    given = {**plain, "pixel_values": plain["pixel_values"][:, None].repeat(1, 2, 1, 1, 1)} if two else plain
    with torch.no_grad():
        if name == "SaclForQuestionAnswering":
            tensors[name] = head.generate(**given, max_new_tokens=3, decoder_start_token_id=2, eos_token_id=3)
        else:
            torch.manual_seed(0)
            output = head(**given)
            tensors[name] = output.itm_logits if "itm_logits" in output else output.logits
    # Of one head all others can be made: the folder has the code of every class.
    head.save_pretrained(f"{answers}/{name}")

# Saved again from the copies, and loaded again.
pretraining.save_pretrained(f"{answers}/again")
processor.save_pretrained(f"{answers}/again")
with torch.no_grad():
    tensors["again.image_embeds"] = load(AutoModel, f"{answers}/again")(**plain).image_embeds
load(AutoProcessor, f"{answers}/again")

save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, f"{answers}/outputs.safetensors")
assert importlib.util.find_spec("modeling_sacl") is None and "modeling_sacl" not in sys.modules
json.dump(report, open(f"{answers}/report.json", "w"))
"""


@pytest.fixture(scope="module")
def answer() -> dict:
    """What a Python without this package made of the folder: tensors, a report, and what it printed."""
    return {}


class TestWithoutThePackage:
    @pytest.fixture
    def foreign(self, answer, pretrained, config, tiny_processor, image, tmp_path):
        """One process for all tests: it takes its time to start. The folders are the same each time."""
        model, folder = pretrained
        heads = tmp_path / "heads"
        models = {head.__name__: stir(build(head, config)) for head in HEADS}
        inputs = random_masked_batch(model.config)
        if not answer:
            answers = tmp_path / "answers"
            answers.mkdir()
            save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, answers / "inputs.safetensors")
            image.save(answers / "image.png")
            for name, head in models.items():
                head.save_pretrained(heads / name)
            environment = {
                **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
                "HF_HOME": str(tmp_path / "home"),
                "HF_MODULES_CACHE": str(tmp_path / "modules"),
                "HF_HUB_OFFLINE": "1",
            }
            process = subprocess.run(
                [sys.executable, "-I", "-c", WITHOUT_THE_PACKAGE + LOAD, str(folder), str(heads), str(answers)],
                env=environment,
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,  # Nobody is there to say yes when the loading asks for trust.
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert process.returncode == 0, process.stderr[-3000:]
            answer.update(
                tensors=load_file(answers / "outputs.safetensors"),
                report=json.loads((answers / "report.json").read_text()),
                printed=process.stdout + process.stderr,
                again={path.name for path in (answers / "again").iterdir()},
                config=json.loads((answers / "again" / "config.json").read_text()),
                heads={name: {path.name for path in (answers / name).iterdir()} for name in models},
            )
        return {**answer, "model": model, "models": models, "inputs": inputs, "folder": folder}

    def test_refuses_to_run_code_unasked(self, foreign):
        refused = foreign["report"]["refused"]
        assert len(refused) == 8
        for attempt, message in refused.items():
            assert "trust_remote_code=True" in message, (attempt, message)

    def test_classes_come_from_the_folder(self, foreign):
        modules = foreign["report"]["modules"]
        assert [name for _, name in modules.values()] == [
            "SaclConfig",
            "SaclProcessor",
            "SaclModel",
            "SaclForPreTraining",
            "SaclModel",
            *(head.__name__ for head in HEADS),
            "SaclModel",
            "SaclProcessor",
        ]
        assert all(module.startswith("transformers_modules.") for module, _ in modules.values())
        assert foreign["report"]["projection_dim"] == 20

    def test_outputs_are_equal_to_the_last_bit(self, foreign):
        model, tensors, inputs = foreign["model"], foreign["tensors"], foreign["inputs"]
        plain = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        with torch.no_grad():
            output = model.sacl(**plain)
            for name in ("image_embeds", "text_embeds", "logits_per_image"):
                assert torch.equal(tensors[name], output[name]), name
            assert torch.equal(tensors["fused"], model.sacl.get_fusion_features(**plain).last_hidden_state)
            torch.manual_seed(0)
            trained = model(**inputs, return_loss=True)
            for name in ("loss", "itm_logits", "mlm_logits"):
                assert torch.equal(tensors[name], trained[name]), name

    @pytest.mark.parametrize("head", HEADS)
    def test_every_head(self, foreign, head):
        model, inputs = foreign["models"][head.__name__], foreign["inputs"]
        plain = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}
        if head is SaclForImagesAndTextClassification:
            plain["pixel_values"] = plain["pixel_values"][:, None].repeat(1, 2, 1, 1, 1)
        with torch.no_grad():
            if head is SaclForQuestionAnswering:
                expected = model.generate(**plain, max_new_tokens=3, decoder_start_token_id=2, eos_token_id=3)
            else:
                torch.manual_seed(0)
                output = model(**plain)
                expected = output.itm_logits if "itm_logits" in output else output.logits
        assert torch.equal(foreign["tensors"][head.__name__], expected)
        code = {path.name for path in foreign["folder"].glob("*.py")}
        assert code == {f"{module}.py" for module in modeling_sacl.configuration_sacl.MODULES}
        assert code <= foreign["heads"][head.__name__]

    def test_patch_selection(self, foreign):
        plain = {name: foreign["inputs"][name] for name in ("input_ids", "attention_mask", "pixel_values")}
        model = foreign["model"].sacl
        unpruned = model(**plain).image_embeds
        model.set_patch_selection(keep_rate=0.5)
        expected = model(**plain).image_embeds
        assert not torch.allclose(expected, unpruned)
        for name in ("selected_in_loading", "selected_by_setter"):
            assert torch.equal(foreign["tensors"][name], expected), name

    def test_processor_prepares_the_same_inputs(self, foreign, tiny_processor, image):
        expected = tiny_processor(text=["a red bus", "dog"], images=image, return_tensors="pt")
        prefix = "processor."
        found = {k.removeprefix(prefix): v for k, v in foreign["tensors"].items() if k.startswith(prefix)}
        assert_same(found, expected)

    def test_pipeline(self, foreign, image):
        results = pipeline("zero-shot-image-classification", model=str(foreign["folder"]))(
            image, candidate_labels=["red bus", "dog"]
        )
        assert foreign["report"]["scores"] == pytest.approx({r["label"]: r["score"] for r in results}, abs=1e-6)

    def test_nothing_is_reported_as_unexpected(self, foreign):
        assert "UNEXPECTED" not in foreign["printed"]
        assert "Traceback" not in foreign["printed"]

    def test_saved_again_it_is_complete(self, foreign):
        expected = {path.name for path in foreign["folder"].iterdir()}
        assert foreign["again"] == expected
        assert foreign["config"]["auto_map"] == modeling_sacl.configuration_sacl.AUTO_MAP
        assert torch.equal(foreign["tensors"]["again.image_embeds"], foreign["tensors"]["image_embeds"])


class TestFolder:
    def test_holds_the_code_and_says_which_class_is_where(self, pretrained):
        _, folder = pretrained
        auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
        assert set(auto_map) == {
            "AutoConfig",
            "AutoModel",
            "AutoModelForPreTraining",
            "AutoModelForSequenceClassification",
            "AutoModelForVisualQuestionAnswering",
            "AutoModelForZeroShotImageClassification",
            "AutoProcessor",
        }
        for reference in auto_map.values():
            module, name = reference.split(".")
            assert f"class {name}(" in (folder / f"{module}.py").read_text()
        assert json.loads((folder / "processor_config.json").read_text())["auto_map"] == {
            "AutoProcessor": "processing_sacl.SaclProcessor"
        }

    def test_every_class_of_the_package_has_the_same_map(self, dual_encoder, pretrained, tmp_path):
        maps = [
            json.loads((folder / "config.json").read_text())["auto_map"] for folder in (dual_encoder[1], pretrained[1])
        ]
        assert maps[0] == maps[1]

    def test_code_is_the_code_of_the_package(self, pretrained):
        _, folder = pretrained
        source = Path(modeling_sacl.__file__).parent
        copies = list(folder.glob("*.py"))
        assert len(copies) >= 5
        for copy in copies:
            assert copy.read_text() == (source / copy.name).read_text()

    def test_code_imports_nothing_that_a_user_may_lack(self):
        allowed = {"torch", "transformers", "huggingface_hub", *sys.stdlib_module_names}
        for path in Path(modeling_sacl.__file__).parent.glob("*_sacl.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    assert {alias.name.split(".")[0] for alias in node.names} <= allowed, path.name
                if isinstance(node, ast.ImportFrom):
                    # Level 1 with a name is `from .sibling import`, the only relative import that is copied.
                    sibling = node.level == 1 and node.module and "." not in node.module
                    assert sibling or (node.level == 0 and node.module.split(".")[0] in allowed), path.name
                    assert node.module != "__future__", path.name
