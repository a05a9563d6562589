# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The dual encoders of transformers under one trainer: each learns, evaluates, resumes, and is what is saved."""

import logging

import pytest
import torch
from PIL import Image as PILImage
from transformers import AutoModel, AutoProcessor, TimmWrapperImageProcessor, VisionTextDualEncoderProcessor

from trainer import PairCollator, SaclTrainer, embed_pairs
from trainer.embedding import text_options

from .dual_encoders import DUAL_ENCODERS, make_dual_encoder


# What a model has but a softmax over candidates does not use: SigLIP's bias belongs to its sigmoid loss.
UNUSED = {"logit_bias"}
every_model = pytest.mark.parametrize("name", DUAL_ENCODERS)


@pytest.fixture
def fine_tune(make_arguments, tiny_tokenizer, pairs):
    """A trainer of the named model, without chance in its data; further keywords are training arguments."""

    def make(name, **arguments):
        model, processor = make_dual_encoder(name, tiny_tokenizer)
        options = {"per_device_train_batch_size": 12, "learning_rate": 2e-3, "momentum": 0.9, "queue_size": 8}
        return SaclTrainer(
            model,
            make_arguments(**{**options, **arguments}),
            data_collator=PairCollator(processor, mlm_probability=0, caption_sampling="first").for_model(model),
            train_dataset=pairs,
            eval_dataset=pairs,
            processing_class=processor,
        )

    return make


@pytest.fixture
def warnings_of(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("trainer")]


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@every_model
class TestEveryDualEncoder:
    @pytest.mark.parametrize("objective", ["sacl", "infonce"])
    def test_loss_falls_and_all_that_the_contrast_uses_moves(self, fine_tune, name, objective):
        trainer = fine_tune(name, objective=objective, max_steps=20)
        before = {key: weight.detach().clone() for key, weight in trainer.model.named_parameters()}
        metrics_before = trainer.evaluate()
        trainer.train()
        metrics = trainer.evaluate()
        assert metrics["eval_loss"] < 0.8 * metrics_before["eval_loss"]
        assert metrics["eval_text_to_image_mean_rank"] < metrics_before["eval_text_to_image_mean_rank"]
        unmoved = {key for key, weight in trainer.model.named_parameters() if torch.equal(weight, before[key])}
        assert unmoved == UNUSED & before.keys()
        assert len(trainer.queue) == 8
        for key, weight in trainer.teacher.model.named_parameters():
            assert torch.equal(weight, before[key]) == (key in unmoved), key

    def test_resumes(self, fine_tune, name):
        options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 6}
        whole = fine_tune(name, **options)
        whole.train()
        resumed = fine_tune(name, **options)
        resumed.train(resume_from_checkpoint=f"{resumed.args.output_dir}/checkpoint-2")
        assert losses(whole) == losses(resumed)
        for left, right in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(left, right)

    def test_what_is_saved_loads_by_its_auto_class(self, fine_tune, name, pairs, tmp_path):
        trainer = fine_tune(name, max_steps=1, warmup_steps=0)
        trainer.train()
        trainer.save_model(str(tmp_path / "saved"))
        expected = embed_pairs(trainer.model, pairs, trainer.processing_class, show_progress=False)
        loaded = AutoModel.from_pretrained(tmp_path / "saved")
        assert type(loaded) is type(trainer.model)
        found = embed_pairs(loaded, pairs, AutoProcessor.from_pretrained(tmp_path / "saved"), show_progress=False)
        assert torch.equal(found.image_embeds, expected.image_embeds)
        assert torch.equal(found.text_embeds, expected.text_embeds)

    def test_chunks_have_the_gradient_of_the_batch(self, fine_tune, name):
        results = []
        for chunk_size in (None, 5):
            trainer = fine_tune(name, contrastive_chunk_size=chunk_size, regulation_warmup=0)
            trainer.create_optimizer()
            trainer.current_gradient_accumulation_steps = 1
            loss = trainer.training_step(trainer.model, trainer.data_collator(list(trainer.train_dataset)))
            gradients = {key: weight.grad for key, weight in trainer.model.named_parameters()}
            results.append((loss, {key: grad for key, grad in gradients.items() if grad is not None}))
        (loss, whole), (chunked_loss, chunked) = results
        assert whole.keys() == chunked.keys()
        torch.testing.assert_close(chunked_loss, loss, atol=1e-5, rtol=0)
        for key, gradient in whole.items():
            torch.testing.assert_close(chunked[key], gradient, atol=1e-5, rtol=1e-3, msg=key)

    def test_training_sees_what_evaluation_sees(self, fine_tune, name, pairs):
        """Without augmentation, a batch gives the embeddings that the processor gives."""
        trainer = fine_tune(name)
        trainer.model.eval()
        with torch.no_grad():
            outputs = trainer.model(**trainer._model_inputs(trainer.data_collator(list(pairs))))
        expected = embed_pairs(trainer.model, pairs, trainer.processing_class, show_progress=False)
        torch.testing.assert_close(outputs.image_embeds, expected.image_embeds, atol=1e-5, rtol=0)
        torch.testing.assert_close(outputs.text_embeds, expected.text_embeds, atol=1e-5, rtol=0)

    def test_needs_no_collator(self, make_arguments, tiny_tokenizer, pairs, name):
        model, processor = make_dual_encoder(name, tiny_tokenizer)
        trainer = SaclTrainer(model, make_arguments(max_steps=1), train_dataset=pairs, processing_class=processor)
        trainer.train()
        lengths = text_options(model, processor, None)
        tokens = trainer.data_collator([pairs[0]])["input_ids"]
        assert tokens.shape[1] == (lengths["max_length"] if lengths["padding"] == "max_length" else 5)


class TestSiglip:
    """Texts of one length and no mask: the text embedding is read off the last position."""

    def test_texts_are_padded_as_the_model_was_trained(self, tiny_tokenizer, pairs):
        model, processor = make_dual_encoder("siglip", tiny_tokenizer)
        plain = PairCollator(processor, mlm_probability=0)
        fitting = plain.for_model(model)
        assert plain([pairs[0]])["input_ids"].shape == (1, 5)
        batch = fitting([pairs[0]])
        assert batch["input_ids"].shape == (1, 16) and "attention_mask" not in batch
        assert fitting.for_model(model) is fitting
        chosen = PairCollator(processor, mlm_probability=0, max_length=8, pad_to_multiple_of=8)
        assert chosen.for_model(model) is chosen

    @pytest.mark.parametrize("fitting", [True, False])
    def test_a_collator_that_pads_otherwise_is_told(self, make_arguments, tiny_tokenizer, pairs, warnings_of, fitting):
        model, processor = make_dual_encoder("siglip", tiny_tokenizer)
        collator = PairCollator(processor, mlm_probability=0)
        collator = collator.for_model(model) if fitting else collator
        SaclTrainer(model, make_arguments(), data_collator=collator, train_dataset=pairs)
        assert any("for_model(model)" in message for message in warnings_of()) != fitting

    def test_other_models_keep_their_collator(self, tiny_tokenizer):
        for name in ("clip", "chinese_clip", "vision_and_text", "siglip2"):
            model, processor = make_dual_encoder(name, tiny_tokenizer)
            collator = PairCollator(processor, mlm_probability=0)
            assert collator.for_model(model) is collator, name


class TestSiglip2:
    @pytest.fixture
    def wide(self, pairs):
        """A picture that does not fill the square of patches."""
        return {**pairs[0], "image": PILImage.new("RGB", (64, 20), "red")}

    def test_all_that_the_processor_returns_reaches_the_model(self, fine_tune, wide):
        trainer = fine_tune("siglip2")
        seen = {}
        trainer.model.vision_model.register_forward_pre_hook(
            lambda _, args, inputs: seen.update(inputs), with_kwargs=True
        )
        batch = trainer.data_collator([wide])
        trainer.compute_loss(trainer.model, batch)
        expected = trainer.processing_class(images=[wide["image"]], return_tensors="pt")
        assert set(expected) == {"pixel_values", "pixel_attention_mask", "spatial_shapes"}
        assert not expected["pixel_attention_mask"].all()
        for key, value in expected.items():
            assert torch.equal(seen[key], value), key

    def test_images_keep_their_shape_under_an_augmentation_of_ones_own(self, tiny_tokenizer, wide):
        _, processor = make_dual_encoder("siglip2", tiny_tokenizer)
        plain = PairCollator(processor, mlm_probability=0)
        same = PairCollator(processor, image_transform=lambda image: image, mlm_probability=0)
        rows = [wide, {**wide, "image": PILImage.new("RGB", (20, 20), "blue")}]
        for key, value in plain(rows).items():
            assert torch.equal(same(rows)[key], value), key

    def test_no_augmentation_is_said(self, make_arguments, tiny_tokenizer, pairs, warnings_of):
        model, processor = make_dual_encoder("siglip2", tiny_tokenizer)
        trainer = SaclTrainer(model, make_arguments(), train_dataset=pairs, processing_class=processor)
        assert trainer.data_collator.image_transform is None
        assert any("not augmented" in message for message in warnings_of())


class TestVisionAndText:
    def test_the_best_model_is_loaded_though_it_is_saved_under_other_names(self, fine_tune):
        steps = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
        # The loss falls, so that the checkpoint with the greatest is not the last.
        best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
        trainer = fine_tune("vision_and_text", **steps, **best, max_steps=3, learning_rate=1e-4)
        trainer.train()
        assert not trainer.state.best_model_checkpoint.endswith("checkpoint-3")
        best = AutoModel.from_pretrained(trainer.state.best_model_checkpoint).state_dict()
        for key, weight in trainer.model.state_dict().items():
            assert torch.equal(weight, best[key]), key


class TestTimm:
    def test_its_image_processor_cannot_follow_an_augmentation(self, tiny_tokenizer):
        model, processor = make_dual_encoder("timm", tiny_tokenizer)
        values = {"input_size": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        processor = VisionTextDualEncoderProcessor(TimmWrapperImageProcessor(values), tiny_tokenizer)
        plain = PairCollator(processor, mlm_probability=0)
        with pytest.raises(ValueError, match="TimmWrapperImageProcessor has no `do_resize`.*ViTImageProcessor"):
            plain.for_training()
