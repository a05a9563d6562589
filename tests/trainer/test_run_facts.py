# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What a trainer tells of its run is true of it, holds nothing personal, and disturbs nothing."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from hub_cards import CardError, CardFacts, validate_card
from modeling_sacl import SaclModel, regulation_weights
from tests.trainer.dual_encoders import make_dual_encoder
from trainer import embed_pairs, verify_checkpoint
from trainer.objectives import OBJECTIVES
from trainer.run_facts import collect_facts, dataset_facts, describe_objective


def facts_of(folder) -> CardFacts:
    return CardFacts.load(folder)


@pytest.fixture
def make_evaluating(make_trainer, pairs):
    """A trainer that evaluates; of a small model with contrast alone, unless told otherwise."""

    def make(trainer_options=None, **options):
        options = {"mlm_weight": 0.0, "itm_weight": 0.0, "momentum": None, **options}
        return make_trainer(trainer_options={"eval_dataset": pairs, **(trainer_options or {})}, **options)

    return make


class TestWhatItTells:
    def test_run_with_everything(self, make_trainer, pairs):
        trainer = make_trainer(trainer_options={"eval_dataset": pairs}, max_steps=3, vision_learning_rate=1e-5)
        trainer.train()
        metrics = trainer.evaluate()
        facts = collect_facts(trainer)
        assert (facts.model_class, facts.model_type) == ("SaclForPreTraining", "sacl")
        assert facts.num_parameters == sum(weight.numel() for weight in trainer.model.parameters())
        assert (facts.steps, facts.seed, facts.first_step) == (3, 42, 0)
        assert facts.train_datasets[0].rows == 12
        assert facts.objective.name == "sacl" and "SRCL" in facts.objective.description
        assert facts.hyperparameters["max_steps"] == 3
        assert facts.hyperparameters["vision_learning_rate"] == 1e-5
        assert "adam_beta1" not in facts.hyperparameters  # its default
        assert facts.duration == trainer.state.log_history[-2]["train_runtime"]
        (result,) = facts.results
        assert result.metrics["text_to_image_recall@1"] == metrics["eval_text_to_image_recall@1"]
        assert result.step is None and result.dataset.rows == 12
        # The weights are those of the negatives of the sample, which is all twelve pairs.
        embeddings = embed_pairs(trainer.model, pairs, trainer.processing_class, show_progress=False)
        weights = regulation_weights(embeddings.text_embeds @ embeddings.image_embeds.T)
        expected = weights[~torch.eye(12, dtype=torch.bool)].sort().values
        assert facts.regulation_weights == pytest.approx(expected.tolist(), abs=1e-4)
        assert len(facts.found.queries) == 6
        best = (embeddings.text_embeds @ embeddings.image_embeds.T)[0].argmax().item()
        assert facts.found.images[0][0].tobytes() == pairs[best]["image"].convert("RGB").tobytes()
        assert facts.found.grades[0][0] == float(best == 0)
        assert json.loads(json.dumps(facts.hyperparameters)) == facts.hyperparameters

    def test_nothing_done_yet(self, make_trainer):
        facts = collect_facts(make_trainer(trainer_options={"train_dataset": None}))
        assert (facts.steps, facts.epochs, facts.duration, facts.energy, facts.results) == (None, None, None, None, [])
        assert facts.train_datasets == [] and facts.found is None

    def test_nothing_personal(self, make_trainer, tmp_path):
        trainer = make_trainer(hub_token="hf_secret", run_name="my-run", hub_model_id="me/model")
        trainer.model.config._name_or_path = str(tmp_path)
        trainer.create_model_card()
        folder = Path(trainer.args.output_dir)
        for text in (folder / "README.md").read_text(), (folder / "card" / "facts.json").read_text():
            for secret in ("hf_secret", str(tmp_path), "my-run"):
                assert secret not in text
        assert 'from_pretrained("me/model"' in (folder / "README.md").read_text()

    def test_energy_is_read_and_never_invented(self, make_trainer, tmp_path):
        trainer = make_trainer()
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "emissions.csv").write_text("emissions,energy_consumed\n0.1,0.2\n0.01,0.02\n")
        facts = collect_facts(trainer)
        assert (facts.energy, facts.emissions) == (0.02, 0.01)
        (tmp_path / "run" / "emissions.csv").write_text("emissions\nmuch\n")
        assert collect_facts(trainer).energy is None

    def test_what_the_data_know_of_themselves(self, pairs):
        assert dataset_facts(pairs).name is None
        named = pairs.select(range(3))
        named.info.dataset_name, named.info.license, named.info.homepage = "shapes", "mit", "file:///home/me"
        facts = dataset_facts(named)
        assert (facts.name, facts.license, facts.homepage, facts.rows) == ("shapes", "mit", None, 3)

    def test_data_of_the_hub(self, tmp_path, pairs):
        commit = "0123456789abcdef" * 2 + "01234567"
        folder = tmp_path / "user___shapes" / "default" / "0.0.0" / commit
        folder.mkdir(parents=True)
        pairs.save_to_disk(tmp_path / "saved")
        file = next((tmp_path / "saved").glob("*.arrow")).rename(folder / "shapes-train.arrow")
        facts = dataset_facts(Dataset.from_file(str(file)))
        assert (facts.repo_id, facts.revision) == ("user/shapes", commit)

    def test_other_objectives_and_models(self, make_evaluating, tiny_tokenizer):
        for name, objective in OBJECTIVES.items():
            description = describe_objective(objective)
            assert "Source:" in description and "Args:" not in description, name
        model, processor = make_dual_encoder("siglip", tiny_tokenizer)
        options = {"processing_class": processor, "data_collator": None}
        trainer = make_evaluating(options, model=model, objective="infonce")
        facts = collect_facts(trainer)
        assert facts.objective.name == "infonce" and not facts.objective.regulates
        assert facts.regulation_weights == [] and facts.found is not None
        assert facts.text_options == {"padding": "max_length", "truncation": True, "max_length": 16}

    def test_a_broken_image_costs_its_own_picture_only(self, make_evaluating, pairs):
        broken = pairs.to_list()
        broken[0]["image"] = {"bytes": b"broken", "path": None}
        broken = Dataset.from_list(broken).cast_column("image", pairs.features["image"])
        trainer = make_evaluating({"eval_dataset": broken})
        assert collect_facts(trainer).found.num_candidates == len(pairs) - 1

    def test_what_only_a_person_knows(self, make_trainer, tmp_path):
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "README.md").write_text("---\npretty_name: Shapes\nlicense: mit\n---\n# x\n")
        trainer = make_trainer()
        trainer.create_model_card(
            language="en",
            license="mit",
            dataset=str(tmp_path / "data"),
            finetuned_from="user/base",
            tasks="feature-extraction",
        )
        # It is remembered for every card that follows.
        trainer.save_model(str(tmp_path / "model"))
        facts = facts_of(tmp_path / "model")
        assert (facts.language, facts.license, facts.base_model) == (["en"], "mit", ["user/base"])
        assert (facts.train_datasets[0].name, facts.train_datasets[0].license) == ("Shapes", "mit")
        assert "pipeline_tag: feature-extraction" in (tmp_path / "model" / "README.md").read_text()


class TestWhenItIsWritten:
    def test_with_every_checkpoint_and_model(self, make_evaluating, tmp_path):
        trainer = make_evaluating(
            max_steps=4, save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2
        )
        trainer.train()
        run = Path(trainer.args.output_dir)
        for step in (2, 4):
            folder = run / f"checkpoint-{step}"
            facts = facts_of(folder)
            assert facts.steps == step
            assert facts.results[0].step is None
            assert [problem for problem in validate_card(folder) if "license" not in problem] == []
            # It is part of what the seal vouches for.
            verify_checkpoint(folder)
            assert "README.md" in json.loads((folder / "checkpoint_manifest.json").read_text())["files"]
        trainer.save_model(str(tmp_path / "model"))
        assert (tmp_path / "model" / "card" / "curves.png").exists()
        assert (tmp_path / "model" / "card" / "found.png").exists()

    def test_scores_of_an_earlier_step_are_said_to_be(self, make_evaluating):
        trainer = make_evaluating(max_steps=3, eval_strategy="steps", eval_steps=2)
        trainer.train()
        # As it is in the midst of training: a trainer evaluates once more at the end.
        history = trainer.state.log_history
        history[:] = [entry for entry in history if "eval_loss" not in entry or entry["step"] < 3]
        assert collect_facts(trainer, pictures=False).results[0].step == 2

    def test_scores_of_the_best_model_are_its_own(self, make_evaluating):
        scores = iter([3.0, 9.0, 1.0])

        class Scores(TrainerCallback):
            """Makes the second of three evaluations the best."""

            def on_evaluate(self, args, state, control, metrics, **kwargs):
                metrics["eval_mean_recall"] = state.log_history[-1]["eval_mean_recall"] = next(scores)

        trainer = make_evaluating(
            {"callbacks": [Scores()]},
            max_steps=3,
            save_strategy="steps",
            save_steps=1,
            eval_strategy="steps",
            eval_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="mean_recall",
            greater_is_better=True,
        )
        trainer.train()
        (result,) = collect_facts(trainer, pictures=False).results
        assert result.metrics["mean_recall"] == 9.0

    def test_named_evaluation_data(self, make_evaluating, pairs):
        sets = {"shapes": pairs, "some": pairs.select(range(6))}
        trainer = make_evaluating({"eval_dataset": sets})
        trainer.evaluate()
        trainer.evaluate(pairs.select(range(4)), metric_key_prefix="test")
        found = {result.dataset.split: result for result in collect_facts(trainer, pictures=False).results}
        assert set(found) == {"shapes", "some", "test"}
        assert found["some"].dataset.rows == 6 and found["test"].dataset.rows is None

    def test_drawing_disturbs_no_chance(self, make_evaluating):
        """A card in the midst of training changes neither draws nor the mode of the model."""
        losses = []
        for with_card in (False, True):
            trainer = make_evaluating(max_steps=4, model=None)

            class Card(TrainerCallback):
                def on_step_end(self, args, state, control, **kwargs):
                    if state.global_step == 2:
                        trainer.create_model_card()  # noqa: B023

            if with_card:
                trainer.add_callback(Card())
            trainer.train()
            losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        assert losses[0] == losses[1]

    def test_a_broken_card_costs_no_model(self, make_trainer, tmp_path, caplog):
        trainer = make_trainer()
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "README.md").write_text("---\nlicense: [\n---\n# Mine\n")
        trainer.save_model(str(tmp_path / "model"))
        assert SaclModel.from_pretrained(tmp_path / "model")
        assert (tmp_path / "model" / "README.md").read_text().endswith("# Mine\n")
        with pytest.raises(CardError, match="Put it right"):
            trainer.create_model_card(output_dir=tmp_path / "model")

    def test_beside_adapters(self, make_trainer, tmp_path):
        from peft import LoraConfig

        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "query", "value"])
        trainer = make_trainer(trainer_options={"peft_config": config}, momentum=None)
        trainer.train()
        trainer.create_model_card(finetuned_from="user/base", license="mit")
        for _ in range(2):
            trainer.save_model(str(tmp_path / "adapter"))
            text = (tmp_path / "adapter" / "README.md").read_text()
            # What peft writes into it is gone.
            assert "More Information Needed" not in text and "Framework versions" not in text
            assert "library_name: peft" in text and "- user/base" in text
        assert validate_card(tmp_path / "adapter") == []
