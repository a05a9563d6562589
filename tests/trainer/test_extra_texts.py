# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Texts beyond the pairs' own, from the caption to the loss: swapped words as negatives, several captions at once."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from modeling_sacl import SaclForPreTraining, SaclModel
from trainer import PairCollator
from trainer.data import swap_words
from trainer.data.seeding import seeded
from trainer.extra_texts import compare_extra_texts, with_extra_texts
from trainer.objectives import (
    ExtraTexts,
    InfoNCEObjective,
    OneToKObjective,
    SwappedCaptionsObjective,
    TextFeatures,
)

from .dual_encoders import make_dual_encoder
from .test_objective_families import CONTRAST, loss_of
from .test_objectives import check_slopes, cosine, make_batch, unit


OBJECTIVES = {"negclip": SwappedCaptionsObjective(), "one_to_k": OneToKObjective()}
PER_PAIR = 2


def make(seed=0, **options):
    """A batch with two further texts for each pair, of which some do not count, and the leaves of its gradient."""
    batch, leaves = make_batch(seed=seed, **options)
    embeds = batch.student.anchors.image_embeds
    generator = torch.Generator().manual_seed(100 + seed)
    leaves.extra = unit(len(embeds), PER_PAIR, embeds.shape[1], generator=generator).to(embeds.dtype).requires_grad_()
    texts = TextFeatures(leaves.extra, torch.rand(len(embeds), PER_PAIR, generator=generator) < 0.7)
    return replace(batch, extra_texts=ExtraTexts(texts, texts)), leaves


def reference(name, batch):
    """The loss as a loop over the anchors of both directions."""
    scale, own_ids = batch.logit_scale.item(), batch.student.anchors.pair_ids.tolist()
    images, texts, ids = [], [], []
    for part in batch.student.candidates:
        images += part.image_embeds.tolist()
        texts += part.text_embeds.tolist()
        ids += part.pair_ids.tolist()
    extra = [
        (text, None if name == "negclip" else own_ids[i])
        for i, row in enumerate(batch.extra_texts.candidates.embeds.tolist())
        for k, text in enumerate(row)
        if name == "one_to_k" or batch.extra_texts.candidates.counted[i, k]
    ]

    def loss(anchor, own_id, candidates):
        scores = [math.exp(scale * cosine(anchor, candidate)) for candidate, _ in candidates]
        own = [score for score, (_, pair_id) in zip(scores, candidates, strict=True) if pair_id == own_id]
        return -math.fsum(math.log(score / math.fsum(scores)) for score in own) / len(own)

    all_texts, all_images = [*zip(texts, ids, strict=True), *extra], list(zip(images, ids, strict=True))
    queries = list(zip(batch.student.anchors.text_embeds.tolist(), own_ids, strict=True))
    queries += extra if name == "one_to_k" else []
    anchors = zip(batch.student.anchors.image_embeds.tolist(), own_ids, strict=True)
    image_to_text = [loss(image, own_id, all_texts) for image, own_id in anchors]
    text_to_image = [loss(text, own_id, all_images) for text, own_id in queries]
    return math.fsum(image_to_text) / len(image_to_text) / 2 + math.fsum(text_to_image) / len(text_to_image) / 2


class TestFormulas:
    @pytest.mark.parametrize("block_size", [None, 3])
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("queued", [0, 6])
    @pytest.mark.parametrize("teacher", [True, False])
    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_loss_is_that_of_the_formula(self, name, teacher, queued, seed, block_size):
        batch, _ = make(queued=queued, teacher=teacher, seed=seed)
        assert batch.positive_mask.sum(dim=1).max() > 1 and not batch.extra_texts.anchors.counted.all()
        loss = OBJECTIVES[name](batch, block_size).losses["itc_loss"]
        assert loss.item() == pytest.approx(reference(name, batch), abs=1e-10, rel=0)

    @pytest.mark.parametrize("block_size", [None, 3])
    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_gradients_are_the_slopes_of_the_formula(self, name, block_size):
        batch, leaves = make()
        OBJECTIVES[name](batch, block_size).losses["itc_loss"].backward()
        assert all(leaf.grad is not None for leaf in vars(leaves).values())
        check_slopes(leaves, lambda: reference(name, batch))

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_garbage_is_not_hidden(self, name):
        batch, leaves = make()
        with torch.no_grad():
            leaves.extra[0, 0] = torch.nan
        assert loss_of(OBJECTIVES[name], batch).isnan()

    def test_negatives_that_do_not_count_leave_infonce(self):
        batch, _ = make()
        texts = batch.extra_texts.anchors._replace(counted=torch.zeros(5, PER_PAIR, dtype=torch.bool))
        batch = replace(batch, extra_texts=ExtraTexts(texts, texts))
        torch.testing.assert_close(loss_of(OBJECTIVES["negclip"], batch), loss_of(InfoNCEObjective(), batch))
        metrics = OBJECTIVES["negclip"](batch).metrics
        assert metrics["negative_captions"] == 0 and metrics["negative_caption_accuracy"].isnan()

    def test_repeated_captions_count_as_one(self):
        """K times the same text: its share of the softmax is split, and is the same in sum."""
        batch, _ = make(queued=0)
        texts = batch.student.anchors.text_embeds[:, None]
        repeated = TextFeatures(texts, torch.ones(5, 1, dtype=torch.bool))
        loss = loss_of(OneToKObjective(), replace(batch, extra_texts=ExtraTexts(repeated, repeated)))
        expected = loss_of(InfoNCEObjective(), batch) + math.log(2) / 2
        torch.testing.assert_close(loss, expected)

    def test_metrics_say_what_was_found(self):
        batch, _ = make(queued=0)
        images, texts, _ = batch.student.anchors
        negatives = batch.extra_texts.anchors
        rows = [(i, k) for i in range(5) for k in range(PER_PAIR)]
        counted = [(i, k) for i, k in rows if negatives.counted[i, k]]
        found = [images[i] @ texts[i] > images[i] @ negatives.embeds[i, k] for i, k in counted]
        metrics = SwappedCaptionsObjective()(batch).metrics
        assert metrics["negative_caption_accuracy"].item() == pytest.approx(sum(found).item() / len(counted))
        assert metrics["negative_captions"].item() == pytest.approx(len(counted) / len(rows))
        agreement = sum(texts[i] @ negatives.embeds[i, k] for i, k in rows) / len(rows)
        torch.testing.assert_close(OneToKObjective()(batch).metrics["caption_agreement"], agreement)

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_a_sample_has_the_texts_of_its_anchors(self, name):
        batch, _ = make(batch_size=300, queued=0, dtype=torch.float32)
        sample = batch.sample()
        assert torch.equal(sample.student.anchors.image_embeds, batch.student.anchors.image_embeds[::2])
        assert torch.equal(sample.extra_texts.anchors.embeds, batch.extra_texts.anchors.embeds[::2])
        assert all(value.isfinite() for value in OBJECTIVES[name](batch).metrics.values())

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_without_further_texts_raises(self, name):
        with pytest.raises(ValueError, match=f"`{name}`.*`extra_texts`"):
            OBJECTIVES[name](make_batch()[0])


def swaps(caption):
    found = set()
    for seed in range(40):
        with seeded(seed):
            found.add(swap_words(caption))
    return found


class TestSwapWords:
    @pytest.mark.parametrize(
        ("caption", "expected"),
        [
            ("a red bus and a blue car", {"a blue bus and a red car", "a red car and a blue bus"}),
            ("the horse is on the grass", {"the grass is on the horse"}),
            ("Horses on the beach", {"Beach on the horses"}),
            ("singer: dark skin tone", {"tone: dark skin singer"}),
            (
                "a cat's toy beside a well-known dog",
                {"a cat's dog beside a well-known toy", "a well-known toy beside a cat's dog"},
            ),
            # Words of one phrase stay: "a bus red" says the same.
            ("a big red bus", {None}),
            # What stands in no order stays.
            ("a cat and a dog", {None}),
            ("cat, dog, horse", {None}),
            ("a red bus and a red car", {None}),
            # But here there is one.
            ("a cat under a dog", {"a dog under a cat"}),
            ("a bus, a Bus", {None}),
            ("bus", {None}),
            ("", {None}),
            ("这是一辆红色的公共汽车", {None}),
        ],
    )
    def test_says_something_else_with_the_same_words(self, caption, expected):
        assert swaps(caption) == expected

    def test_is_drawn_from_the_global_generator(self):
        caption = "a red bus, a blue car and a green house on a wide road"
        assert len(swaps(caption)) > 5
        for seed in range(5):
            results = []
            for _ in range(2):
                with seeded(seed):
                    results.append(swap_words(caption))
            assert results[0] == results[1] != caption


ROWS = [
    {"caption": "a red cat and a blue dog", "pair_id": 1},
    {"caption": "a bus", "pair_id": 2},
    # Its negative is another caption of the row.
    {"captions": ["a bus on a house", "A house  on a bus"], "pair_id": 3},
    {"captions": ["a dog", "a cat", "a red dog on a blue bus"], "pair_id": 4},
]


class TestCollator:
    @pytest.fixture
    def rows(self, pairs):
        return [{"image": pairs[0]["image"], **row} for row in ROWS]

    def texts(self, collator, ids):
        return [collator.processor.tokenizer.decode(row, skip_special_tokens=True) for row in ids]

    def test_negatives_are_made_of_the_captions(self, tiny_processor, rows):
        collator = PairCollator(tiny_processor, negative_caption=swap_words).for_evaluation()
        batch, plain = collator(rows), PairCollator(tiny_processor).for_evaluation()(rows)
        assert batch["negative_input_ids"].shape == batch["negative_attention_mask"].shape == batch["input_ids"].shape
        for name in ("input_ids", "attention_mask", "mlm_labels", "mlm_input_ids"):
            assert torch.equal(batch[name], plain[name]), name
        texts, negatives = self.texts(collator, batch["input_ids"]), self.texts(collator, batch["negative_input_ids"])
        assert sorted(negatives[0].split()) == sorted(texts[0].split()) and negatives[0] != texts[0]
        assert negatives[1:] == texts[1:]
        assert (batch["caption_ids"] == batch["negative_caption_ids"]).tolist() == [False, True, True, True]

    def test_evaluation_makes_the_same_negatives_each_time(self, tiny_processor, rows):
        collator = PairCollator(tiny_processor, negative_caption=swap_words)
        first, again = (collator.for_evaluation()(rows)["negative_input_ids"] for _ in range(2))
        assert torch.equal(first, again)
        drawn = {tuple(collator(rows)["negative_input_ids"][0].tolist()) for _ in range(20)}
        assert len(drawn) == 2

    def test_a_tagger_of_ones_own_takes_its_place(self, tiny_processor, rows):
        collator = PairCollator(tiny_processor, negative_caption=lambda caption: "a house").for_evaluation()
        assert set(self.texts(collator, collator(rows)["negative_input_ids"])) == {"a house"}

    def test_several_captions_of_each_row(self, tiny_processor, rows):
        collator = PairCollator(tiny_processor, captions_per_image=3)
        batch = collator.for_evaluation()(rows)
        assert batch["further_input_ids"].shape == (4, 2, batch["input_ids"].shape[1])
        assert batch["further_attention_mask"].shape == batch["further_input_ids"].shape
        assert "negative_input_ids" not in batch
        first = self.texts(collator, batch["input_ids"])
        further = [self.texts(collator, ids) for ids in batch["further_input_ids"]]
        assert further[0] == [first[0]] * 2
        assert [first[2], *further[2]] == ["a bus on a house", "a house on a bus", "a bus on a house"]
        assert [first[3], *further[3]] == ["a dog", "a cat", "a red dog on a blue bus"]
        drawn = collator(rows)
        assert {
            *self.texts(collator, drawn["further_input_ids"][3]),
            *self.texts(collator, drawn["input_ids"][3:]),
        } == {
            "a dog",
            "a cat",
            "a red dog on a blue bus",
        }

    def test_number_of_captions_is_checked(self, tiny_processor):
        with pytest.raises(ValueError, match="`captions_per_image`.*got 0"):
            PairCollator(tiny_processor, captions_per_image=0)


class TestJoining:
    INPUTS = {"input_ids": torch.arange(6).view(2, 3), "negative_input_ids": torch.arange(6, 12).view(2, 3)}

    def test_further_texts_come_below_those_of_the_pairs(self):
        joined, per_pair = with_extra_texts(self.INPUTS, "negative", {"input_ids"}, "")
        assert per_pair == 1 and joined["input_ids"].tolist() == torch.arange(12).view(4, 3).tolist()
        several = {"input_ids": torch.zeros(2, 3), "further_input_ids": torch.ones(2, 4, 3)}
        joined, per_pair = with_extra_texts(several, "further", {"input_ids"}, "")
        assert per_pair == 4 and joined["input_ids"].sum(dim=1).tolist() == [0, 0, *[3] * 8]

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"input_ids": torch.zeros(2, 3)}, "no `negative_input_ids`.*Take those."),
            ({**INPUTS, "attention_mask": torch.ones(2, 3)}, "no `negative_attention_mask`"),
            ({**INPUTS, "negative_input_ids": torch.zeros(2, 5)}, r"`negative_input_ids`.*got \(2, 5\)"),
            ({**INPUTS, "negative_input_ids": torch.zeros(3, 3)}, r"`negative_input_ids`.*got \(3, 3\)"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, inputs, message):
        with pytest.raises(ValueError, match=message):
            with_extra_texts(inputs, "negative", {"input_ids", "attention_mask"}, "Take those.")

    def test_captions_of_the_batch_do_not_count_twice(self):
        inputs = {"caption_ids": torch.tensor([1, 2, 3]), "negative_caption_ids": torch.tensor([4, 3, 3])}
        texts = compare_extra_texts(torch.zeros(3, 1, 5), inputs, "negative", [3], local=True)
        assert texts.anchors.counted.flatten().tolist() == [True, False, False]
        assert compare_extra_texts(torch.zeros(3, 2, 5), {}, "negative", [3], True).candidates.counted.all()


COLLATORS = {"negclip": {"negative_caption": swap_words}, "one_to_k": {"captions_per_image": 3}}


class TestTraining:
    @pytest.fixture
    def composed(self, pairs):
        """The pairs, with captions long enough to swap, and several."""
        captions = [[f"{caption} and a big green bus", caption] for caption in pairs["caption"]]
        return pairs.remove_columns("caption").add_column("captions", captions)

    @pytest.fixture
    def trainer_of(self, make_trainer, tiny_processor, composed):
        def make(name, model=None, processor=tiny_processor, **arguments):
            collator = PairCollator(
                processor, caption_sampling="first", mlm_probability=0.0, **COLLATORS.get(name, {})
            )
            options = {
                "data_collator": collator.for_model(model).for_evaluation(),
                "processing_class": processor,
                "train_dataset": composed,
                "eval_dataset": composed,
            }
            return make_trainer(model, objective=name, trainer_options=options, **{**CONTRAST, **arguments})

        return make

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_trains_logs_and_evaluates(self, trainer_of, make_model, name):
        trainer = trainer_of(name, make_model(SaclModel), queue_size=7)
        trainer.train()
        logged = [entry for entry in trainer.state.log_history if "itc_loss" in entry]
        metric = {"negclip": "negative_caption_accuracy", "one_to_k": "caption_agreement"}[name]
        assert len(logged) == 2 and all(math.isfinite(entry[metric]) for entry in logged)
        assert math.isfinite(trainer.evaluate()["eval_loss"])
        assert len(trainer.queue) == 7
        assert trainer.predict(trainer.eval_dataset).predictions[1].shape == (12, 20)

    @pytest.mark.parametrize("name", ["negclip", "one_to_k"])
    def test_needs_no_collator(self, make_trainer, make_model, composed, name):
        options = {"data_collator": None, "train_dataset": composed}
        trainer = make_trainer(make_model(SaclModel), objective=name, **CONTRAST, trainer_options=options)
        trainer.train()
        assert math.isfinite(trainer.state.log_history[0]["itc_loss"])

    @pytest.mark.parametrize("model_name", ["clip", "siglip", "vision_and_text"])
    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_any_dual_encoder_embeds_them_in_one_forward(self, trainer_of, tiny_tokenizer, model_name, name):
        model, processor = make_dual_encoder(model_name, tiny_tokenizer)
        trainer = trainer_of(name, model, processor, momentum=None)
        calls = []
        model.register_forward_pre_hook(lambda *_: calls.append(1))
        batch = trainer.data_collator(list(trainer.train_dataset))
        with torch.no_grad():
            loss, outputs = trainer.compute_loss(model.eval(), dict(batch), return_outputs=True)
        assert len(calls) == 1 and loss.isfinite()
        kind = {"negclip": "negative", "one_to_k": "further"}[name]
        alone = dict(batch)
        for key in ("input_ids", "attention_mask"):
            if key in batch:
                alone[key] = batch[f"{kind}_{key}"].view(12, -1, batch[key].shape[1])[:, -1]
        with torch.no_grad():
            expected = model(**trainer._model_inputs(alone)).text_embeds
        torch.testing.assert_close(outputs["extra_text_embeds"][:, -1], expected, atol=1e-5, rtol=0)
        assert len(outputs["text_embeds"]) == 12

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_chunks_have_the_gradient_of_the_batch(self, trainer_of, make_model, name):
        results = []
        for chunk_size in (None, 5):
            model = make_model(SaclModel).double()
            trainer = trainer_of(name, model, contrastive_chunk_size=chunk_size, per_device_train_batch_size=12)
            trainer.create_optimizer()
            trainer.current_gradient_accumulation_steps = 1
            inputs = trainer.data_collator(list(trainer.train_dataset))
            inputs["pixel_values"] = inputs["pixel_values"].double()
            inputs["pair_ids"][1] = inputs["pair_ids"][7]
            loss = trainer.training_step(model, inputs)
            results.append({"loss": loss, **{k: p.grad for k, p in model.named_parameters() if p.grad is not None}})
        whole, chunked = results
        assert whole.keys() == chunked.keys()
        for key, tensor in whole.items():
            torch.testing.assert_close(chunked[key], tensor, atol=1e-8, rtol=0, msg=key)

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_fusion_sees_the_pairs_alone(self, make_trainer, make_model, tiny_processor, composed, name):
        """Matching and masked language modeling are what they are without further texts."""
        losses = []
        for objective in ("infonce", name):
            collator = PairCollator(tiny_processor, **COLLATORS.get(objective, {})).for_evaluation()
            options = {"data_collator": collator, "train_dataset": composed}
            trainer = make_trainer(make_model(SaclForPreTraining), objective=objective, trainer_options=options)
            torch.manual_seed(0)
            trainer.compute_loss(trainer.model.eval(), trainer.data_collator(list(composed)))
            losses.append(trainer._curves.drain("eval"))
        for part in ("itm_loss", "mlm_loss"):
            assert losses[0][part] == pytest.approx(losses[1][part], abs=1e-5)
        assert losses[0]["itc_loss"] < losses[1]["itc_loss"]

    def test_texts_of_no_image_must_be_announced(self, make_model, batch):
        model = make_model(SaclForPreTraining).eval()
        inputs = {name: torch.cat([batch[name]] * 2) for name in ("input_ids", "attention_mask")}
        inputs["pixel_values"] = batch["pixel_values"]
        with pytest.raises(ValueError, match="12 texts and 6 images"):
            model(**inputs)
        outputs = model(**inputs, num_extra_texts=6, return_loss=True)
        assert len(outputs.text_embeds) == 12 and len(outputs.itm_labels) == 18 and outputs.loss.isfinite()

    def test_a_collator_without_them_is_refused(self, make_trainer, make_model):
        trainer = make_trainer(make_model(SaclModel), objective="negclip", **CONTRAST)
        with pytest.raises(ValueError, match="no `negative_input_ids`.*negative_caption=swap_words"):
            trainer.train()

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_a_cached_text_tower_is_refused(self, make_arguments, name):
        with pytest.raises(ValueError, match=f"'{name}'.*`lock_text=False`"):
            make_arguments(objective=name, lock_text=True, cache_locked_towers=True, **CONTRAST)

    def test_one_caption_is_not_several(self, make_arguments):
        with pytest.raises(ValueError, match="`captions_per_image`.*got 1"):
            make_arguments(objective="one_to_k", captions_per_image=1)

    def test_features_can_stand_for_texts(self, make_trainer):
        """A model of feature vectors, whose collator gives those of the negatives as floating `negative_input_ids`."""

        class Heads(nn.Module):
            def __init__(self):
                super().__init__()
                self.image, self.text = nn.Linear(4, 3), nn.Linear(5, 3)
                self.logit_scale = nn.Parameter(torch.tensor(2.0))

            def forward(self, input_ids, pixel_values):
                return {"image_embeds": self.image(pixel_values), "text_embeds": self.text(input_ids)}

        def collate(rows):
            generator = torch.Generator().manual_seed(len(rows))
            shapes = {"pixel_values": (4,), "input_ids": (5,), "negative_input_ids": (5,)}
            batch = {name: torch.randn(len(rows), *size, generator=generator) for name, size in shapes.items()}
            return {**batch, "pair_ids": torch.arange(len(rows))}

        options = {"data_collator": collate, "processing_class": None}
        trainer = make_trainer(Heads(), objective="negclip", momentum=None, trainer_options=options)
        trainer.train()
        assert trainer.state.log_history[0]["negative_captions"] == 1
