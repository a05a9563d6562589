# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The card of a model: what it claims is what the facts say, its snippets run, and what is in the data is harmless."""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoProcessor, Trainer, TrainingArguments, ZeroShotImageClassificationPipeline, set_seed

from hub_cards import (
    CardFacts,
    DatasetFacts,
    EvaluationResult,
    FoundImages,
    ObjectiveFacts,
    merge_seeds,
    validate_card,
    write_model_card,
)
from hub_cards.model_card import model_metadata
from modeling_sacl import (
    SaclForImagesAndTextClassification,
    SaclForImageTextClassification,
    SaclForImageTextRetrieval,
    SaclForPreTraining,
    SaclForQuestionAnswering,
    SaclModel,
)
from tests.trainer.dual_encoders import make_dual_encoder
from trainer.run_facts import collect_facts


LOG = [{"step": step, "loss": 5.0 / step, "temperature": 0.07} for step in (1, 2, 3)]


def make_facts(**options) -> CardFacts:
    metrics = {"text_to_image_recall@10": 36.4, "image_to_text_median_rank": 12.0, "loss": 5.0}
    defaults = {
        "model_name": "sacl-emoji",
        "model_class": "SaclForPreTraining",
        "model_type": "sacl",
        "license": "apache-2.0",
        "tags": ["sacl"],
        "train_datasets": [DatasetFacts(name="Emoji pairs", split="train", rows=8072, license="mit")],
        "objective": ObjectiveFacts("sacl", "Weights.", "@inproceedings{a,}", {"regulation_strength": 1.0}, True),
        "results": [EvaluationResult(DatasetFacts(name="Emoji pairs", split="test", rows=668), metrics)],
        "seed": 42,
        "steps": 3,
    }
    return CardFacts(**{**defaults, **options})


def body_of(card: Path) -> str:
    return card.read_text(encoding="utf-8").split("\n---\n", 1)[1]


class TestWhatItSays:
    def test_is_a_valid_card_with_pictures(self, tmp_path):
        found = FoundImages(["a <b>$5_dog$"], [[Image.new("RGB", (8, 8), "red")]], [[1.0]], 9, "the test data")
        weights = [0.4, 0.8, 1.0, 1.3]
        card = write_model_card(
            tmp_path,
            make_facts(found=found, regulation_weights=weights, regulated_pairs="2 texts", log_history=LOG),
        )
        assert validate_card(card) == []
        assert sorted(path.name for path in (tmp_path / "card").iterdir()) == [
            "curves.png",
            "facts.json",
            "found.png",
            "weights.png",
        ]
        # As the stock library reads it.
        data = ModelCard.load(card).data
        assert (data.license, data.library_name, data.pipeline_tag) == (
            "apache-2.0",
            "transformers",
            "zero-shot-image-classification",
        )
        values = {result.metric_type: result.metric_value for result in data.eval_results}
        assert values == {"text_to_image_recall_at_10": 36.4, "image_to_text_median_rank": 12.0}
        assert "| Text to image, recall@10 | 36.4 |" in body_of(card)

    def test_absent_is_absent(self, tmp_path):
        text = body_of(write_model_card(tmp_path, CardFacts("nothing")))
        for word in ("Energy", "Hardware", "kWh", "Time:", "Curves", "card/", "seed", "SACL", "None", "Citation"):
            assert word not in text
        assert "This run was not evaluated" in text
        assert "was not recorded" in text
        assert [problem for problem in validate_card(tmp_path) if "missing" not in problem] == []

    def test_what_is_known_is_said(self, tmp_path):
        facts = make_facts(duration=7200.0, first_step=10, energy=0.12, emissions=0.05, hardware="2 x H100")
        text = write_model_card(tmp_path, facts).read_text()
        assert "Time: 2.0 hours, counted from step 10, at which the run was resumed" in text
        assert "0.120 kWh, 0.050 kg" in text
        assert yaml.safe_load(text.split("---")[1])["co2_eq_emissions"]["emissions"] == 50

    def test_limits_fit_the_objective(self, tmp_path):
        def limits(objective):
            return body_of(write_model_card(tmp_path, make_facts(objective=objective)))

        assert "which may blur fine differences" in limits(ObjectiveFacts("sacl", regulates=True))
        assert "under 0.5 were left out" in limits(
            ObjectiveFacts("sacl", settings={"filter_threshold": 0.5}, regulates=True)
        )
        assert "counted as a negative in full" in limits(ObjectiveFacts("infonce"))
        assert "softened by a teacher" in limits(ObjectiveFacts("albef"))
        assert "400 million" in limits(None)

    def test_sources_are_cited_once(self, tmp_path):
        albef = "@inproceedings{li2021albef,\n}"
        facts = make_facts(objective=ObjectiveFacts("albef", citation=albef), has_patch_selection=True)
        text = body_of(write_model_card(tmp_path, facts))
        assert text.count("li2021albef") == 1 and text.count("jiang2022trips") == 1
        assert "trips" not in body_of(write_model_card(tmp_path, make_facts()))

    def test_measured_earlier_is_said(self, tmp_path):
        result = EvaluationResult(DatasetFacts(), {"mean_recall": 3.0}, step=2)
        text = body_of(write_model_card(tmp_path, make_facts(results=[result])))
        assert "Measured at step 2 of 3; the model has learned on since." in text

    def test_pictures_of_another_run_go(self, tmp_path):
        write_model_card(tmp_path, make_facts(regulation_weights=[0.5, 1.5]))
        write_model_card(tmp_path, make_facts(), draw=False)
        assert (tmp_path / "card" / "weights.png").exists()
        card = write_model_card(tmp_path, make_facts(steps=4), draw=False)
        assert not list((tmp_path / "card").glob("*.png"))
        assert "card/" not in body_of(card)

    def test_without_matplotlib(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        find_spec = __import__("importlib.util").util.find_spec
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda name, *rest: None if name == "matplotlib" else find_spec(name, *rest)
        )
        card = write_model_card(tmp_path, make_facts(log_history=LOG))
        assert "card/" not in body_of(card)
        assert validate_card(card) == []


class TestHarmlessness:
    EVIL = (
        "<script>alert(1)</script> ![x](http://evil/x.png) [click](javascript:alert(1))\n\n# Heading\n"
        "<!-- /sacl:generated results -->\n```\n| $\\frac{$ `x` <img src=x onerror=alert(1)>"
    )

    def test_text_from_outside_is_text(self, tmp_path):
        facts = make_facts(
            model_name=self.EVIL,
            model_class=self.EVIL,
            hardware=self.EVIL,
            versions={self.EVIL: self.EVIL},
            architecture={self.EVIL: self.EVIL},
            hyperparameters={self.EVIL: self.EVIL},
            train_datasets=[
                DatasetFacts(name=self.EVIL, split=self.EVIL, license=self.EVIL, license_details=self.EVIL)
            ],
            results=[EvaluationResult(DatasetFacts(name=self.EVIL, split=self.EVIL), {self.EVIL: 1.0})],
            found=FoundImages([self.EVIL], [[Image.new("RGB", (8, 8))]], [[0.5]], 1, self.EVIL),
        )
        card = write_model_card(tmp_path, facts)
        text = body_of(card)
        # As a reader's browser would have it: no tag, no picture, no link and no heading of it.
        markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
        tags: list[tuple[str, dict]] = []
        reader = HTMLParser()
        reader.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
        reader.feed(markdown.render(text))
        names = {tag for tag, _ in tags}
        assert {"h2", "table", "img", "code"} <= names and "script" not in names
        assert {attributes["src"].partition("/")[0] for tag, attributes in tags if tag == "img"} == {"card"}
        assert all(attributes["href"].startswith("https://") for tag, attributes in tags if tag == "a")
        assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
        assert [tag for tag, _ in tags].count("h1") == 1
        # And it can be taken apart again.
        assert write_model_card(tmp_path, facts).read_text() == card.read_text()


class TestSeeds:
    RUNS = [{"seed": seed, "trained": {"test": {"mean_recall": 40.0 + seed, "loss": 1.0}}} for seed in (1, 2, 3)]

    def test_mean_and_deviation(self, tmp_path):
        (result,) = merge_seeds(self.RUNS, dataset="Emoji pairs")
        assert result.over_seeds("mean_recall") == (42.0, 1.0, [1, 2, 3])
        card = write_model_card(tmp_path, make_facts(results=[result]))
        assert "| Mean recall | 42.0 ± 1.0 |" in body_of(card)
        (found,) = ModelCard.load(card).data.eval_results
        assert found.metric_value == 42.0
        assert found.metric_args == {"seeds": [1, 2, 3], "mean": 42.0, "standard_deviation": 1.0}
        assert "mean of 3 seeds" in found.metric_name

    def test_beside_the_models_own(self, tmp_path):
        (result,) = merge_seeds(self.RUNS)
        result.metrics = {"mean_recall": 42.5}
        facts = make_facts(results=[result])
        assert "| Mean recall | 42.5 (42.0 ± 1.0) |" in body_of(write_model_card(tmp_path, facts))
        (metric,) = model_metadata(facts)["model-index"][0]["results"][0]["metrics"]
        assert (metric["value"], metric["args"]["mean"]) == (42.5, 42.0)

    def test_files_and_one_seed(self, tmp_path):
        (tmp_path / "metrics.json").write_text(json.dumps(self.RUNS[0]))
        (result,) = merge_seeds([tmp_path / "metrics.json"])
        assert result.over_seeds("mean_recall") is None
        assert "| Mean recall | 41.0 |" in body_of(write_model_card(tmp_path, make_facts(results=[result])))

    @pytest.mark.parametrize(
        ("runs", "message"),
        [
            ([], "no run"),
            (RUNS[:1] * 2, "seed 1, like a run before it"),
            ([{"seed": 1}], "metrics by split"),
            (
                [RUNS[0], {"seed": 5, "trained": {"test": {"mean_recall": 1.0}}}],
                "seeds 1 and 5 were not measured alike",
            ),
        ],
    )
    def test_refusals(self, runs, message):
        with pytest.raises(ValueError, match=message):
            merge_seeds(runs)


class TestMemory:
    def test_facts_survive(self, tmp_path):
        facts = make_facts(found=FoundImages(["a"], [[Image.new("RGB", (8, 8))]], [[1.0]], 1, "x"))
        facts.results += merge_seeds(TestSeeds.RUNS)
        facts.save(tmp_path)
        loaded = CardFacts.load(tmp_path)
        assert facts.found.images
        facts.found.images = []
        assert loaded == facts

    def test_the_card_can_be_written_again_from_them(self, tmp_path):
        facts = make_facts(found=FoundImages(["a"], [[Image.new("RGB", (8, 8))]], [[1.0]], 1, "x"))
        before = write_model_card(tmp_path, facts).read_text()
        assert write_model_card(tmp_path, CardFacts.load(tmp_path)).read_text() == before
        assert (tmp_path / "card" / "found.png").exists()

    def test_what_cannot_be_read_says_so(self, tmp_path):
        with pytest.raises(ValueError, match="saved without a card"):
            CardFacts.load(tmp_path)
        (tmp_path / "card").mkdir()
        (tmp_path / "card" / "facts.json").write_text('{"results": 3}')
        with pytest.raises(ValueError, match="delete it and write the card anew"):
            CardFacts.load(tmp_path)


@pytest.fixture
def stock_trainer(tmp_path, tiny_processor):
    def make(model, processor=tiny_processor):
        args = TrainingArguments(str(tmp_path / "model"), use_cpu=True, report_to="none")
        return Trainer(model, args, processing_class=processor)

    return make


@pytest.fixture
def run_snippets(tmp_path, monkeypatch, capsys):
    """Runs the snippets of a saved model's card, one after another like a reader; what they print."""

    def run(trainer) -> list[str]:
        folder = tmp_path / "model"
        trainer.save_model(str(folder))
        facts = collect_facts(trainer, license="mit")
        facts.model_id = str(folder)
        card = write_model_card(folder, facts)
        assert validate_card(card) == []
        snippets = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
        for name, color in (("photo", "red"), ("left", "green"), ("right", "blue")):
            Image.new("RGB", (40, 30), color).save(tmp_path / f"{name}.jpg")
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        names, printed = {}, []
        for snippet in snippets:
            exec(compile(snippet, "card", "exec"), names)
            printed.append(capsys.readouterr().out)
        return printed

    return run


class TestSnippets:
    """They are executed as they stand, but for the name of the model."""

    @pytest.mark.parametrize("model_class", [SaclModel, SaclForPreTraining, SaclForImageTextRetrieval])
    def test_dual_encoders(self, model_class, tiny_config, stock_trainer, run_snippets):
        printed = run_snippets(stock_trainer(model_class(tiny_config)))
        assert len(printed) == (4 if model_class is SaclForImageTextRetrieval else 3)
        assert all(text.strip() for text in printed)
        assert "tensor([[" in printed[0]
        assert "'label': 'cat'" in printed[-1]

    @pytest.mark.parametrize("name", ["clip", "siglip", "vision_and_text"])
    def test_other_dual_encoders(self, name, tiny_tokenizer, stock_trainer, run_snippets, monkeypatch):
        model, processor = make_dual_encoder(name, tiny_tokenizer)
        if name == "siglip":
            # The stock pipeline pads to the 64 tokens that published models take.
            pipeline = ZeroShotImageClassificationPipeline.preprocess
            short = {"max_length": 16}
            monkeypatch.setattr(
                ZeroShotImageClassificationPipeline,
                "preprocess",
                lambda self, *inputs, **options: pipeline(self, *inputs, **{**options, "tokenizer_kwargs": short}),
            )
        printed = run_snippets(stock_trainer(model, processor))
        assert len(printed) == 3 and "cat" in printed[2]

    def test_question_answering(self, tiny_config, tiny_tokenizer, stock_trainer, run_snippets):
        model = SaclForQuestionAnswering(tiny_config)
        tokens = {"decoder_start_token_id": tiny_tokenizer.cls_token_id, "eos_token_id": tiny_tokenizer.sep_token_id}
        model.generation_config.update(**tokens, pad_token_id=0)
        printed = run_snippets(stock_trainer(model))
        assert len(printed) == 3
        assert {"red", "green", "blue"} == set(re.findall(r"'(\w+)'", printed[1]))

    @pytest.mark.parametrize("model_class", [SaclForImageTextClassification, SaclForImagesAndTextClassification])
    def test_classification(self, model_class, tiny_config, stock_trainer, run_snippets):
        tiny_config.id2label = {0: "true", 1: "false"}
        printed = run_snippets(stock_trainer(model_class(tiny_config)))
        assert len(printed) == 3
        assert printed[0].strip() in ("true", "false")
        assert set(re.findall(r"'(\w+)':", printed[1])) == {"true", "false"}

    @pytest.mark.parametrize("model_class", [SaclModel, SaclForPreTraining])
    def test_adapters(self, model_class, tiny_config, tiny_processor, stock_trainer, run_snippets, tmp_path):
        from peft import LoraConfig, get_peft_model

        set_seed(0)
        base = model_class(tiny_config)
        base.save_pretrained(tmp_path / "base")
        config = LoraConfig(r=2, target_modules=["q_proj", "query"], init_lora_weights=False)
        adapters = get_peft_model(base, config)
        trainer = stock_trainer(adapters)
        base.config._name_or_path = "user/base"
        facts = collect_facts(trainer)
        assert (facts.adapted_class, facts.base_model) == (model_class.__name__, ["user/base"])
        metadata = model_metadata(facts)
        assert (metadata["library_name"], metadata["base_model"]) == ("peft", ["user/base"])
        assert "lora" in metadata["tags"]
        assert 0 < facts.num_trained_parameters < facts.num_parameters / 2

        card = write_model_card(tmp_path / "card", facts).read_text()
        text = card.replace("user/base", str(tmp_path / "base"))
        adapters.save_pretrained(tmp_path / "model")
        tiny_processor.save_pretrained(tmp_path / "model")
        assert AutoProcessor.from_pretrained(tmp_path / "model")
        first = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
        Image.new("RGB", (40, 30), "red").save(tmp_path / "photo.jpg")
        names: dict = {}
        first = first.replace('"model"', f'"{tmp_path / "model"}"').replace("photo.jpg", str(tmp_path / "photo.jpg"))
        exec(compile(first, "card", "exec"), names)
        assert type(names["model"]) is SaclModel
        with torch.no_grad():
            encoder = adapters.eval().get_base_model()
            expected = getattr(encoder, "sacl", encoder).get_text_features(**names["text_inputs"]).pooler_output
        expected = torch.nn.functional.normalize(expected, dim=-1)
        assert torch.allclose(names["text_embeds"], expected, atol=1e-5)
