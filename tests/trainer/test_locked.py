# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Locked towers: they stay as they are, and a run that asks them once is the run that asks them every time."""

import copy
import logging
import pickle
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, Image
from peft import LoraConfig
from torch import nn
from transformers import BertConfig, TimmWrapperConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

from modeling_sacl import SaclForPreTraining, SaclModel
from trainer import PairCollator, SaclTrainer, SaclTrainingArguments, add_tower_features
from trainer import features as features_module
from trainer.data import collator as collator_module
from trainer.locked import cached_towers, check_cacheable, lock_towers, without_tower_features

from .dual_encoders import DUAL_ENCODERS, TEXT, WITHOUT_DROPOUT, make_dual_encoder


COLUMNS = {"vision": "vision_tower_features", "text": "text_tower_features"}
CONTRAST = {"itm_weight": 0.0, "mlm_weight": 0.0}
BOTH = {"lock_vision": True, "lock_text": True}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Features are kept for one test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def make(make_model, tiny_tokenizer, tiny_processor):
    """A tiny model and its processor, by name."""

    def make(name):
        if name == "sacl":
            return make_model(SaclModel), tiny_processor
        if name == "sacl_pretraining":
            return make_model(SaclForPreTraining), tiny_processor
        return make_dual_encoder(name, tiny_tokenizer)

    return make


@pytest.fixture
def lock(make, make_arguments, pairs):
    """A trainer without chance in its data; keywords are training arguments."""

    def lock(name="clip", dataset=None, collator=None, trainer_options=None, **arguments):
        model, processor = make(name) if isinstance(name, str) else name
        plain = PairCollator(processor, mlm_probability=0, caption_sampling="first").for_model(model)
        return SaclTrainer(
            model,
            make_arguments(**{**CONTRAST, "max_steps": 3, "warmup_steps": 0, **arguments}),
            data_collator=plain if collator is None else collator,
            train_dataset=pairs if dataset is None else dataset,
            processing_class=processor,
            **(trainer_options or {}),
        )

    return lock


@pytest.fixture
def warnings_of(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("trainer")]


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def count_calls(module):
    """How often anything inside the module computes from now on."""
    calls = Counter()
    for part in module.modules():
        if part is not module:
            part.register_forward_pre_hook(lambda *_: calls.update(["calls"]))
    return calls


def broken(dataset):
    """The same rows with images that nothing can read."""
    dataset = dataset.cast_column("image", Image(decode=False))
    nothing = {"bytes": b"no image", "path": None}
    return Dataset.from_list([{**row, "image": nothing} for row in dataset], features=dataset.features)


class TestLockTowers:
    @pytest.mark.parametrize("options", [{"lock_vision": True}, {"lock_text": True}, BOTH], ids=" and ".join)
    @pytest.mark.parametrize("name", ["clip", "sacl", "vision_and_text"])
    def test_towers_stay_and_the_rest_moves(self, lock, name, options):
        trainer = lock(name, **options, momentum=0.9, queue_size=5)
        before = weights(trainer.model)
        trainer.train()
        locked = {{"lock_vision": "vision_model.", "lock_text": "text_model."}[option] for option in options}
        for key, now in weights(trainer.model).items():
            # The contrast has no use for a fusion encoder.
            stays = key.startswith((*locked, "fusion_model."))
            assert torch.equal(now, before[key]) == stays, key
        teacher = dict(trainer.teacher.model.named_parameters())
        for key, parameter in trainer.model.named_parameters():
            assert (teacher[key] is parameter) == key.startswith(tuple(locked)), key

    def test_heads_and_fusion_learn_on_a_locked_tower(self, lock, plain_collator):
        trainer = lock("sacl_pretraining", lock_vision=True, itm_weight=1.0, mlm_weight=1.0, collator=plain_collator)
        before = weights(trainer.model)
        trainer.train()
        for key, now in weights(trainer.model).items():
            assert torch.equal(now, before[key]) == key.startswith("sacl.vision_model."), key

    def test_adapters_in_a_locked_tower_are_locked_too(self, lock):
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        trainer = lock(lock_vision=True, trainer_options={"peft_config": config})
        before = weights(trainer.model)
        trainer.train()
        moved = {key for key, now in weights(trainer.model).items() if not torch.equal(now, before[key])}
        assert moved and all("text_model." in key and "lora" in key for key in moved)

    def test_running_statistics_stay(self, lock, tiny_tokenizer):
        config = VisionTextDualEncoderConfig.from_vision_text_configs(
            TimmWrapperConfig(architecture="test_resnet", hidden_size=96),
            BertConfig(**TEXT, **WITHOUT_DROPOUT),
            projection_dim=20,
        )
        _, processor = make_dual_encoder("vision_and_text", tiny_tokenizer)
        trainer = lock((VisionTextDualEncoderModel(config), processor), lock_vision=True, momentum=None)
        before = {name: buffer.clone() for name, buffer in trainer.model.named_buffers() if "running" in name}
        assert before
        trainer.train()
        for name, buffer in trainer.model.named_buffers():
            assert name not in before or torch.equal(buffer, before[name]), name

    def test_training_mode_does_not_reach_it(self, make):
        model, _ = make("vision_and_text")
        lock_towers(model, text=True)
        model.train()
        assert not any(module.training for module in model.text_model.modules())
        assert all(module.training for module in model.vision_model.modules()) and model.training
        model.eval()
        assert not any(module.training for module in model.modules())
        # Whoever lets it learn again gets it back as it was.
        model.text_model.requires_grad_(True)
        model.train()
        assert all(module.training for module in model.modules())

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
    def test_the_lock_goes_where_the_tower_goes(self, make, duplicate):
        model, _ = make("clip")
        lock_towers(model, vision=True)
        twin = duplicate(model)
        twin.vision_model.requires_grad_(True)
        twin.train()
        assert twin.vision_model.training and not model.train().vision_model.training

    def test_dropout_has_no_effect(self, make, plain_collator, pairs):
        model, _ = make("vision_and_text")
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.5
        batch = plain_collator([pairs[0], pairs[1]])
        inputs = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
        model.train()
        assert not torch.equal(model(**inputs).text_embeds, model(**inputs).text_embeds)
        lock_towers(model, text=True)
        model.train()
        assert torch.equal(model(**inputs).text_embeds, model(**inputs).text_embeds)

    def test_nothing_left_to_train_raises(self, lock, make):
        with pytest.raises(
            ValueError, match="`lock_vision` and `lock_text` nothing.*`SiglipModel` has no projections"
        ):
            lock("siglip", **BOTH)
        adapters = LoraConfig(r=2, target_modules=r"vision_model.*\.q_proj")
        with pytest.raises(ValueError, match="`lock_vision` nothing is left to train"):
            lock(lock_vision=True, trainer_options={"peft_config": adapters})
        model, _ = make("siglip")
        with pytest.raises(ValueError):
            lock_towers(model, vision=True, text=True)
        assert all(parameter.requires_grad for parameter in model.parameters())

    def test_a_model_without_such_a_tower_raises(self, make):
        model, _ = make("clip")
        model.pictures = model.vision_model
        del model.vision_model
        with pytest.raises(ValueError, match="`CLIPModel` has no `vision_model` that could be locked .`lock_vision`"):
            lock_towers(model, vision=True)

    def test_settings_that_contradict_each_other_raise(self, tmp_path):
        with pytest.raises(ValueError, match=r"`vision_learning_rate` \(1e-05\).*`lock_vision`"):
            SaclTrainingArguments(str(tmp_path), lock_vision=True, vision_learning_rate=1e-5)
        with pytest.raises(ValueError, match="`cache_locked_towers` needs a locked tower"):
            SaclTrainingArguments(str(tmp_path), cache_locked_towers=True)


class TestAddTowerFeatures:
    def test_are_what_the_projections_are_given(self, make, plain_collator, pairs):
        model, processor = make("clip")
        model.train()
        with_features = add_tower_features(pairs, model, processor, batch_size=5, show_progress=False)
        assert with_features["caption"][:] == pairs["caption"][:]
        assert all(module.training for module in model.modules())
        batch = PairCollator(processor, mlm_probability=0)(list(pairs))
        model.eval()
        with torch.no_grad():
            vision = model.vision_model(batch["pixel_values"]).pooler_output
            text = model.text_model(batch["input_ids"], batch["attention_mask"]).pooler_output
        for column, expected in ((COLUMNS["vision"], vision), (COLUMNS["text"], text)):
            torch.testing.assert_close(torch.tensor(with_features[column][:]), expected, atol=1e-5, rtol=0)

    def test_one_tower_at_a_time(self, make, pairs):
        model, processor = make("clip")
        both = add_tower_features(pairs, model, processor, show_progress=False)
        alone = add_tower_features(pairs, model, processor, text=False, show_progress=False)
        assert set(alone.column_names) == {*pairs.column_names, COLUMNS["vision"]}
        then = add_tower_features(alone, model, processor, show_progress=False)
        for column in COLUMNS.values():
            assert then[column][:] == both[column][:]
        assert add_tower_features(then, model, processor, show_progress=False) is then

    def test_rows_in_another_order_keep_their_features(self, make, pairs):
        model, processor = make("clip")
        order = [7, 3, 3, 0]
        features = add_tower_features(pairs, model, processor, show_progress=False)[COLUMNS["vision"]][:]
        chosen = add_tower_features(pairs.select(order), model, processor, show_progress=False)
        assert chosen["caption"][:] == [pairs["caption"][row] for row in order]
        expected = torch.tensor(features)[order]
        torch.testing.assert_close(torch.tensor(chosen[COLUMNS["vision"]][:]), expected, atol=1e-5, rtol=0)

    def test_goes_on_where_it_was_interrupted(self, make, pairs, monkeypatch):
        monkeypatch.setattr(features_module, "_ROWS_PER_FILE", 4)
        model, processor = make("clip")
        seen = []

        def watch(_, inputs, keywords):
            seen.append(len(keywords["pixel_values"]))
            if len(seen) == 3:
                raise KeyboardInterrupt

        hook = model.vision_model.register_forward_pre_hook(watch, with_kwargs=True)
        options = {"text": False, "batch_size": 4, "show_progress": False}
        with pytest.raises(KeyboardInterrupt):
            add_tower_features(pairs, model, processor, **options)
        result = add_tower_features(pairs, model, processor, **options)
        # The third call is repeated, the first two are not.
        assert seen == [4, 4, 4, 4]
        hook.remove()
        with torch.no_grad():
            pixels = processor(images=pairs["image"][:], return_tensors="pt")["pixel_values"]
            expected = model.eval().vision_model(pixels).pooler_output
        torch.testing.assert_close(torch.tensor(result[COLUMNS["vision"]][:]), expected, atol=1e-5, rtol=0)

    def test_several_processes_begin_at_different_files(self, make, pairs, tmp_path, monkeypatch):
        monkeypatch.setattr(features_module, "_ROWS_PER_FILE", 3)
        model, processor = make("clip")
        options = {"text": False, "show_progress": False}
        alone = add_tower_features(pairs, model, processor, cache_dir=tmp_path / "alone", **options)
        written, write = [], features_module._write_features
        monkeypatch.setattr(features_module, "rank", lambda: 1)
        monkeypatch.setattr(features_module, "world_size", lambda: 2)
        monkeypatch.setattr(
            features_module, "_write_features", lambda *given: (written.append(given[2].start), write(*given))
        )
        second = add_tower_features(pairs, model, processor, cache_dir=tmp_path / "second", **options)
        assert written == [6, 9, 0, 3]
        assert second[COLUMNS["vision"]][:] == alone[COLUMNS["vision"]][:]

    def test_other_weights_and_other_lengths_have_other_features(self, make, pairs):
        model, processor = make("clip")
        first = add_tower_features(pairs, model, processor, show_progress=False)
        with torch.no_grad():
            model.vision_model.post_layernorm.bias.add_(1.0)
        second = add_tower_features(pairs, model, processor, max_length=4, show_progress=False)
        for column in COLUMNS.values():
            assert first[column][0] != second[column][0]

    def test_an_unreadable_image_costs_its_pair(self, make, pairs):
        model, processor = make("clip")
        rows = list(pairs.cast_column("image", Image(decode=False)).select(range(3)))
        rows[1]["image"] = {"bytes": b"no image", "path": None}
        dataset = Dataset.from_list(rows).cast_column("image", Image())
        rows = list(add_tower_features(dataset, model, processor, show_progress=False).remove_columns("image"))
        collator = PairCollator(processor, mlm_probability=0)
        assert collator(rows)["pair_ids"].tolist() == [100, 102]
        assert collator.skipped == {"features that are not finite": 1}

    def test_streams_empty_data_and_several_captions_raise(self, make, pairs):
        model, processor = make("clip")
        with pytest.raises(ValueError, match="Vision tower features.*IterableDataset"):
            add_tower_features(pairs.to_iterable_dataset(), model, processor)
        with pytest.raises(ValueError, match="no rows"):
            add_tower_features(pairs.select([]), model, processor)
        captions = [[caption] for caption in pairs["caption"]]
        captions[5] = ["a red cat", " ", "a cat"]
        several = pairs.remove_columns("caption").add_column("captions", captions)
        with pytest.raises(ValueError, match="Row 5 has 2 captions.*a row of its own.*lock_text=False"):
            add_tower_features(several, model, processor)
        assert COLUMNS["vision"] in add_tower_features(several, model, processor, text=False).column_names


class TestCachedTowers:
    def test_answer_with_the_features_and_nothing_stays_behind(self, make, pairs):
        model, processor = make("clip")
        model.eval()
        collator = PairCollator(processor, mlm_probability=0)
        rows = list(add_tower_features(pairs, model, processor, show_progress=False))
        batch = collator(rows)
        assert "pixel_values" not in batch
        with torch.no_grad():
            inputs = collator(list(pairs))
            expected = model(**{name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")})
            with pytest.raises(RuntimeError, match="inside"), cached_towers(model, batch) as inputs:
                calls = count_calls(model.vision_model)
                found = model(**{name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")})
                raise RuntimeError("inside")
        torch.testing.assert_close(found.image_embeds, expected.image_embeds, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.text_embeds, expected.text_embeds, atol=1e-5, rtol=0)
        assert not calls and "pixel_values" not in batch
        assert "forward" not in vars(model.vision_model) and "forward" not in vars(model.text_model)


class TestCachedTraining:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            *((name, {"lock_vision": True}) for name in (*DUAL_ENCODERS, "sacl", "sacl_pretraining")),
            *((name, {"lock_text": True}) for name in ("clip", "siglip")),
            *((name, BOTH) for name in ("clip", "chinese_clip", "sacl", "vision_and_text")),
        ],
        ids=lambda value: value if isinstance(value, str) else " and ".join(value),
    )
    def test_is_the_run_without_cache(self, lock, name, options):
        options = {**options, "momentum": 0.9, "queue_size": 7, "gradient_accumulation_steps": 2, "max_steps": 4}
        # Adam would blow up the rounding errors of gradients that should be 0, such as those of key biases.
        options |= {"optim": "sgd", "learning_rate": 0.05}
        runs = []
        for cached in (False, True):
            trainer = lock(name, **options, cache_locked_towers=cached)
            trainer.train()
            runs.append((losses(trainer), weights(trainer.model), trainer.queue.features()))
        (plain, plain_weights, queue), (cached, cached_weights, cached_queue) = runs
        assert len(plain) == 4 and cached == pytest.approx(plain, abs=1e-5)
        for key, weight in plain_weights.items():
            torch.testing.assert_close(cached_weights[key], weight, atol=1e-4, rtol=0, msg=key)
        for ours, theirs in zip(cached_queue, queue, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("objective", ["sacl", "albef"])
    def test_chunks_are_the_whole_batch(self, lock, objective):
        runs = []
        for chunk_size in (None, 4):
            trainer = lock(
                **BOTH,
                cache_locked_towers=True,
                objective=objective,
                per_device_train_batch_size=12,
                contrastive_chunk_size=chunk_size,
                momentum=0.9,
                queue_size=7,
            )
            trainer.train()
            runs.append(losses(trainer))
        assert runs[1] == pytest.approx(runs[0], abs=1e-5)

    def test_neither_computes_towers_nor_decodes_images(self, lock, pairs, monkeypatch):
        trainer = lock(**BOTH, cache_locked_towers=True, momentum=0.9, queue_size=7)
        models = (trainer.model, trainer.teacher.model)
        calls = [count_calls(tower) for model in models for tower in (model.vision_model, model.text_model)]
        monkeypatch.setattr(collator_module, "decode_image", lambda image: pytest.fail("an image was decoded"))
        trainer.train()
        assert trainer.state.global_step == 3 and not any(calls)

    def test_augmentation_is_left_out(self, lock, make, pairs):
        model, processor = make("clip")

        def augment(image):
            raise AssertionError("an image was augmented")

        collator = PairCollator(processor, mlm_probability=0, image_transform=augment)
        lock((model, processor), lock_vision=True, cache_locked_towers=True, collator=collator).train()

    def test_columns_that_are_there_are_used(self, lock, make, pairs, monkeypatch, warnings_of):
        model, processor = make("clip")
        dataset = add_tower_features(pairs, model, processor, show_progress=False)
        expected = lock((copy.deepcopy(model), processor), dataset, **BOTH, cache_locked_towers=True)
        expected.train()
        assert not warnings_of()
        monkeypatch.setattr("trainer.locked._TowerEncoder.encode", lambda *_: pytest.fail("a tower was asked again"))
        # Whatever became of the images since.
        for later in (broken(dataset), dataset.remove_columns("image")):
            trainer = lock((copy.deepcopy(model), processor), later, **BOTH, cache_locked_towers=True)
            trainer.train()
            assert losses(trainer) == losses(expected)
            assert any("taken on trust" in message for message in warnings_of())

    def test_features_are_found_again(self, lock, monkeypatch):
        options = {**BOTH, "cache_locked_towers": True}
        lock(**options)
        monkeypatch.setattr("trainer.locked._TowerEncoder.encode", lambda *_: pytest.fail("a tower was asked again"))
        lock(**options).train()

    def test_a_guide_goes_with_it(self, lock, make, pairs):
        guide, _ = make("clip")
        runs = []
        for cached in (False, True):
            options = {"cache_locked_towers": cached, "guide_schedule": "constant", "queue_size": 7}
            trainer = lock("vision_and_text", **BOTH, **options, trainer_options={"guide_model": guide})
            trainer.train()
            runs.append(losses(trainer))
            assert trainer.guide_queue.features() is not None
        assert runs[1] == pytest.approx(runs[0], abs=1e-5)

    def test_resumes(self, lock):
        options = {**BOTH, "cache_locked_towers": True, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        options |= {"momentum": 0.9, "queue_size": 7}
        whole = lock(**options)
        whole.train()
        resumed = lock(**options)
        resumed.train(resume_from_checkpoint=f"{resumed.args.output_dir}/checkpoint-2")
        assert losses(resumed) == losses(whole)

    def test_evaluation_asks_the_towers(self, lock, make, pairs):
        model, processor = make("clip")
        dataset = add_tower_features(pairs, model, processor, show_progress=False)
        metrics = []
        for eval_dataset in (pairs, dataset):
            trainer = lock((copy.deepcopy(model), processor), dataset, **BOTH, cache_locked_towers=True)
            calls = count_calls(trainer.model.vision_model)
            found = trainer.evaluate(eval_dataset)
            times = ("time", "_per_second")
            metrics.append({name: value for name, value in found.items() if not name.endswith(times)})
            assert calls["calls"] > 0
        assert metrics[0] == metrics[1]

    def test_a_tower_that_learns_is_not_answered_for(self, lock, make, pairs):
        model, processor = make("clip")
        dataset = add_tower_features(pairs, model, processor, show_progress=False)
        for options, kept in (
            ({}, set()),
            ({"lock_vision": True}, set()),
            ({"lock_vision": True, "cache_locked_towers": True}, {COLUMNS["vision"]}),
        ):
            trainer = lock((copy.deepcopy(model), processor), dataset, **options)
            assert set(trainer.train_dataset.column_names) - set(pairs.column_names) == kept
            # Images are not even read where nothing asks for them.
            assert ("image" in trainer.train_dataset.column_names) == (not kept)
            trainer.train()
        assert without_tower_features(pairs) is pairs

    def test_columns_of_other_weights_raise(self, lock, make, pairs):
        model, processor = make("clip")
        dataset = add_tower_features(pairs, model, processor, show_progress=False)
        with torch.no_grad():
            model.vision_model.post_layernorm.weight.mul_(-1.0)
        with pytest.raises(ValueError, match="vision_tower_features.*other weights.*remove them"):
            lock((model, processor), dataset, lock_vision=True, cache_locked_towers=True)

    def test_texts_are_cut_as_the_collator_cuts_them(self, lock, make):
        model, processor = make("clip")
        collator = PairCollator(processor, mlm_probability=0, caption_sampling="first", max_length=4)
        runs = []
        for cached in (False, True):
            trainer = lock(
                (copy.deepcopy(model), processor), collator=collator, lock_text=True, cache_locked_towers=cached
            )
            trainer.train()
            runs.append(losses(trainer))
        assert runs[1] == pytest.approx(runs[0], abs=1e-5)

    def test_a_model_of_which_more_than_a_vector_is_used_raises(self, lock, make):
        model, processor = make("clip")
        embed = model.get_image_features

        def all_tokens(*args, **kwargs):
            outputs = embed(*args, **kwargs)
            outputs.pooler_output = outputs.pooler_output + outputs.last_hidden_state.sum(dim=1)[:, :20]
            return outputs

        model.get_image_features = all_tokens
        with pytest.raises(ValueError, match="more than one vector of a tower of `CLIPModel` is used"):
            lock((model, processor), lock_vision=True, cache_locked_towers=True)

    def test_a_tower_without_a_vector_raises(self, lock, make):
        model, processor = make("clip")

        def project_all_tokens(pixel_values):
            return model.visual_projection(model.vision_model(pixel_values).last_hidden_state).mean(dim=1)

        model.get_image_features = project_all_tokens
        with pytest.raises(ValueError, match="vision tower of `CLIPModel` cannot be cached"):
            lock((model, processor), lock_vision=True, cache_locked_towers=True)

    @pytest.mark.parametrize(
        ("weights", "advice"),
        [
            ({"itm_weight": 1.0}, "Set `itm_weight=0`, or"),
            ({"mlm_weight": 0.5}, "Set `mlm_weight=0`, or"),
            ({"itm_weight": 1.0, "mlm_weight": 1.0}, "Set `itm_weight=0` and `mlm_weight=0`, or"),
        ],
    )
    def test_losses_of_the_fusion_encoder_raise(self, lock, weights, advice):
        with pytest.raises(ValueError, match=f"all their tokens. {advice}"):
            lock("sacl_pretraining", lock_vision=True, cache_locked_towers=True, **weights)

    def test_several_gpus_in_one_process_raise(self):
        args = SimpleNamespace(cache_locked_towers=True, n_gpu=2)
        with pytest.raises(ValueError, match="a process for each of the 2 GPUs.*torchrun"):
            check_cacheable(args, set())

    def test_several_captions_raise_before_anything_is_computed(self, lock, pairs):
        several = pairs.remove_columns("caption").add_column("captions", [["a cat", "a red cat"]] * len(pairs))
        with pytest.raises(ValueError, match="Row 0 has 2 captions"):
            lock(dataset=several, **BOTH, cache_locked_towers=True)
        lock(dataset=several, lock_vision=True, cache_locked_towers=True).train()

    def test_a_collator_that_knows_nothing_of_it_raises(self, lock, make):
        model, processor = make("clip")
        plain = PairCollator(processor, mlm_probability=0)

        def collate(rows):
            return plain([{name: row[name] for name in ("image", "caption", "pair_id")} for row in rows])

        with pytest.raises(ValueError, match="data collator leaves out 'vision_tower_features'"):
            lock((model, processor), collator=collate, lock_vision=True, cache_locked_towers=True)
