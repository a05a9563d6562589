# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Gradient caching: the step chunk by chunk is the step of the whole batch."""

import pytest
import torch
from transformers import set_seed

from trainer import SaclTrainer
from trainer.contrast import GlobalBatch
from trainer.grad_cache import GradientCache, RandomState, split_batch


class TestSplitBatch:
    @pytest.mark.parametrize("size", [1, 3, 4, 9])
    def test_parts_make_the_batch(self, size):
        batch = {"a": torch.arange(8), "b": torch.arange(16).view(8, 2)}
        parts = split_batch(batch, size)
        assert all(len(part["a"]) <= size for part in parts)
        for name, tensor in batch.items():
            assert torch.equal(torch.cat([part[name] for part in parts]), tensor)


class TestRandomState:
    def test_replays_and_leaves_no_trace(self):
        state = RandomState()
        first, after = torch.rand(3), torch.get_rng_state()
        with state.replayed():
            assert torch.equal(torch.rand(3), first)
        assert torch.equal(torch.get_rng_state(), after)


class TestGradientCache:
    def test_chunks_carry_the_gradient_of_the_whole(self):
        """Of a loss of all rows and of a scalar of the model, with dropout, in chunks of unequal size."""
        torch.manual_seed(0)
        tower = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5)).double()
        scale = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        batch = {"images": torch.randn(7, 3).double(), "texts": torch.randn(7, 3).double()}
        chunks = split_batch(batch, 3)

        def embed(chunk):
            return {"image_embeds": tower(chunk["images"]), "text_embeds": tower(chunk["texts"]), "scale": scale * 2}

        def contrast(image_embeds, text_embeds, scale):
            return (scale * image_embeds @ text_embeds.T).logsumexp(dim=1).square().mean()

        before = torch.get_rng_state()
        cache = GradientCache(chunks, embed, lambda outputs: {"scale": outputs["scale"]})
        cache.take_gradient(contrast(**cache.leaves))
        for index, chunk in enumerate(chunks):
            with cache.replayed(index):
                outputs = embed(chunk)
            cache.carried(index, outputs).backward()
        parameters = [*tower.parameters(), scale]
        carried = [parameter.grad.clone() for parameter in parameters]

        torch.set_rng_state(before)
        whole = [embed(chunk) for chunk in chunks]
        images, texts = (torch.cat([part[name] for part in whole]) for name in ("image_embeds", "text_embeds"))
        expected = torch.autograd.grad(contrast(images, texts, whole[0]["scale"]), parameters)
        for ours, theirs in zip(carried, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


class TestCachedStep:
    @pytest.fixture
    def gradients(self, make_model, make_arguments, plain_collator, pairs):
        """Gradients, loss and trainer after one step on all twelve pairs."""

        def run(chunk_size, double=True, collator=None, prepare=None, **options):
            model = make_model()
            model = model.double() if double else model
            if prepare is not None:
                prepare(model)
            args = make_arguments(
                per_device_train_batch_size=12, contrastive_chunk_size=chunk_size, regulation_warmup=0, **options
            )
            trainer = SaclTrainer(model, args, data_collator=collator or plain_collator, train_dataset=pairs)
            trainer.create_optimizer()
            batch = trainer.data_collator(list(pairs))
            if double:
                batch["pixel_values"] = batch["pixel_values"].double()
            batch["pair_ids"][1] = batch["pair_ids"][7]  # positives of one another, in different chunks
            trainer.current_gradient_accumulation_steps = 1
            set_seed(3)
            loss = trainer.training_step(trainer.model, batch)
            return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, loss, trainer

        return run

    @pytest.mark.parametrize("objective", ["sacl", "infonce", "albef", "sacl_distilled"])
    @pytest.mark.parametrize("chunk_size", [1, 5, 6])
    def test_contrast_has_the_gradient_of_the_whole_batch(self, gradients, objective, chunk_size):
        options = {"objective": objective, "itm_weight": 0.0}
        whole, loss, _ = gradients(None, **options)
        cached, cached_loss, _ = gradients(chunk_size, **options)
        assert whole.keys() == cached.keys()
        for name in whole:
            assert torch.allclose(whole[name], cached[name], atol=1e-8), name
        assert torch.allclose(loss, cached_loss, atol=1e-8)

    def test_without_a_teacher_and_after_queueing(self, gradients):
        options = {"momentum": None, "itm_weight": 0.0, "mlm_weight": 0.0, "queue_size": 7}
        whole, _, plain = gradients(None, **options)
        cached, _, chunked = gradients(4, **options)
        for name in whole:
            assert torch.allclose(whole[name], cached[name], atol=1e-8), name
        for trainer in (plain, chunked):
            trainer.after_optimizer_step()
        assert torch.equal(plain.queue.features().pair_ids, chunked.queue.features().pair_ids)
        assert torch.allclose(plain.queue.features().image_embeds, chunked.queue.features().image_embeds)

    def test_dropout_is_replayed(self, gradients):
        """With other masks in the second pass the carried gradient would not be that of the embeddings compared."""

        def add_dropout(model):
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.3
            model.config.text_config.hidden_dropout_prob = 0.3

        options = {"itm_weight": 0.0, "mlm_weight": 0.0, "momentum": None, "prepare": add_dropout}
        _, loss, trainer = gradients(4, **options)
        # The same draws, whole: embed the chunks one after another, and let autograd see all of it.
        set_seed(3)
        model = trainer.model
        cached = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        model.train()
        batch = trainer.data_collator(list(trainer.train_dataset))
        batch["pixel_values"] = batch["pixel_values"].double()
        batch["pair_ids"][1] = batch["pair_ids"][7]
        outputs = [
            model(part["input_ids"], part["pixel_values"], part["attention_mask"], with_itm=False)
            for part in split_batch(batch, 4)
        ]
        joined = {name: torch.cat([output[name] for output in outputs]) for name in ("image_embeds", "text_embeds")}
        joined["logit_scale"] = model.sacl.logit_scale.exp()
        result = trainer._contrast(joined, None, None, GlobalBatch(batch, local=True))
        result.losses["itc_loss"].backward()
        assert torch.allclose(result.losses["itc_loss"], loss, atol=1e-8)
        for name, gradient in cached.items():
            expected = dict(model.named_parameters())[name].grad
            assert torch.allclose(gradient, expected, atol=1e-8), name

    def test_matching_and_language_losses_are_logged_as_means(self, gradients):
        _, loss, trainer = gradients(4, double=False)
        logs = trainer._curves.drain("train")
        total = logs["itc_loss"] + logs["itm_loss"] + logs["mlm_loss"]
        assert total == pytest.approx(loss.item(), abs=1e-4)
        assert 0 <= logs["itm_accuracy"] <= 1

    def test_trains_to_the_same_model(self, make_model, make_arguments, plain_collator, pairs):
        def train(chunk_size):
            args = make_arguments(
                per_device_train_batch_size=6,
                contrastive_chunk_size=chunk_size,
                max_steps=4,
                itm_weight=0.0,
                queue_size=5,
                gradient_accumulation_steps=2,
                optim="sgd",
                learning_rate=0.1,
            )
            trainer = SaclTrainer(make_model(), args, data_collator=plain_collator, train_dataset=pairs)
            trainer.train()
            return trainer.model.state_dict(), [log["loss"] for log in trainer.state.log_history if "loss" in log]

        (whole, losses), (chunked, chunked_losses) = train(None), train(2)
        assert losses == pytest.approx(chunked_losses, rel=1e-4)
        for name in whole:
            assert torch.allclose(whole[name], chunked[name], atol=1e-5), name
