# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The guide: what it embeds, how its features are kept, and how it hands over to the model."""

import math

import pytest
import torch
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from modeling_sacl import regulation_weights
from modeling_sacl.loss_sacl import mix_similarities
from trainer import Guide, PairCollator, SaclTrainer, add_guide_features, embed_pairs
from trainer import features as features_module


def text_encoder(vocab_size: int) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    return BertModel(config).eval()


def image_encoder() -> ViTModel:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=16
    )
    return ViTModel(config, add_pooling_layer=False).eval()


@pytest.fixture
def processor(tiny_processor):
    return tiny_processor


@pytest.fixture
def model(make_model):
    return make_model().eval()


class TestMixSimilarities:
    @pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
    def test_equals_the_formula(self, alpha):
        generator = torch.Generator().manual_seed(0)
        guide, model = (2 * torch.rand(2, 5, 7, generator=generator, dtype=torch.float64) - 1).unbind()
        scores = alpha * guide.exp() + (1 - alpha) * model.exp()
        assert torch.allclose(mix_similarities(guide, model, alpha).exp(), scores, atol=1e-12)

    def test_gives_the_weights_of_the_paper(self):
        generator = torch.Generator().manual_seed(0)
        guide, model = (2 * torch.rand(2, 4, 4, generator=generator, dtype=torch.float64) - 1).unbind()
        weights = regulation_weights(mix_similarities(guide, model, 0.3), strength=1.0)
        for row in range(4):
            raw = {
                column: 1 / (0.3 * math.exp(guide[row, column]) + 0.7 * math.exp(model[row, column]))
                for column in range(4)
                if column != row
            }
            mean = sum(raw.values()) / len(raw)
            for column, weight in raw.items():
                assert abs(weights[row, column].item() - weight / mean) < 1e-10

    @pytest.mark.parametrize("alpha", [-0.1, 1.1])
    def test_share_out_of_range_raises(self, alpha):
        with pytest.raises(ValueError, match="alpha"):
            mix_similarities(torch.zeros(2, 2), torch.zeros(2, 2), alpha)


class TestGuide:
    def test_dual_encoder_embeds_both_sides_like_evaluation(self, model, processor, pairs):
        guide = Guide(model, processor)
        assert guide.columns == ("guide_image_embeds", "guide_text_embeds")
        features = guide.encode(list(pairs))
        embeddings = embed_pairs(model, pairs, processor, show_progress=False)
        assert torch.allclose(
            features["guide_image_embeds"][embeddings.image_rows], embeddings.image_embeds, atol=1e-6
        )
        assert torch.allclose(features["guide_text_embeds"][embeddings.text_rows], embeddings.text_embeds, atol=1e-6)

    def test_text_encoder_is_mean_pooled(self, processor, pairs):
        encoder = text_encoder(len(processor.tokenizer))
        guide = Guide(encoder, processor.tokenizer)
        assert guide.columns == ("guide_text_embeds",)
        features = guide.encode(list(pairs))["guide_text_embeds"]
        for row, feature in zip(pairs, features, strict=True):
            tokens = encoder(**processor.tokenizer([row["caption"]], return_tensors="pt")).last_hidden_state[0]
            expected = torch.nn.functional.normalize(tokens.mean(dim=0), dim=-1)
            assert torch.allclose(feature, expected, atol=1e-5)

    def test_image_encoder_reads_the_class_token(self, processor, pairs):
        encoder = image_encoder()
        guide = Guide(encoder, processor.image_processor)
        assert guide.columns == ("guide_image_embeds",)
        features = guide.encode(list(pairs))["guide_image_embeds"]
        assert features.shape == (len(pairs), 16)
        assert torch.allclose(features.norm(dim=-1), torch.ones(len(pairs)), atol=1e-5)

    def test_sentence_transformer_brings_its_own_tokenizer(self, pairs):
        class SentenceTransformer(torch.nn.Module):
            def encode(self, texts, show_progress_bar):
                return torch.tensor([[len(text), 1.0] for text in texts]).numpy()

        features = Guide(SentenceTransformer()).encode(list(pairs))["guide_text_embeds"]
        length = len(pairs[0]["caption"])
        assert torch.allclose(features[0], torch.tensor([length, 1.0]) / math.hypot(length, 1.0))

    def test_several_captions_are_averaged(self, processor):
        guide = Guide(text_encoder(len(processor.tokenizer)), processor.tokenizer)
        apart = [guide.encode([{"caption": caption}])["guide_text_embeds"][0] for caption in ("red", "blue circle")]
        together = guide.encode([{"captions": ["red", "blue circle"]}])["guide_text_embeds"][0]
        assert torch.allclose(together, torch.nn.functional.normalize(sum(apart), dim=-1), atol=1e-6)

    def test_nothing_to_embed_raises(self):
        with pytest.raises(ValueError, match="Linear"):
            Guide(torch.nn.Linear(2, 2), None)


class TestAddGuideFeatures:
    def test_rows_keep_their_features(self, model, processor, pairs, tmp_path, monkeypatch):
        monkeypatch.setattr(features_module, "_ROWS_PER_FILE", 5)
        guide = Guide(model, processor)
        with_features = add_guide_features(pairs, guide, batch_size=2, cache_dir=tmp_path, show_progress=False)
        expected = guide.encode(list(pairs))
        assert with_features["caption"][:] == pairs["caption"][:]
        for column in guide.columns:
            assert torch.allclose(torch.tensor(with_features[column][:]), expected[column], atol=1e-6)
        assert add_guide_features(with_features, guide, cache_dir=tmp_path) is with_features

    def test_goes_on_where_it_was_interrupted(self, model, processor, pairs, tmp_path, monkeypatch):
        monkeypatch.setattr(features_module, "_ROWS_PER_FILE", 4)
        guide, calls = Guide(model, processor), []
        encode = guide.encode

        def interrupted(rows):
            calls.append(len(rows))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return encode(rows)

        guide.encode = interrupted
        with pytest.raises(KeyboardInterrupt):
            add_guide_features(pairs, guide, batch_size=4, cache_dir=tmp_path, show_progress=False)
        result = add_guide_features(pairs, guide, batch_size=4, cache_dir=tmp_path, show_progress=False)
        # The third call is repeated, the first two are not.
        assert sum(calls) == len(pairs) + 4
        guide.encode = encode
        column = guide.columns[0]
        assert torch.allclose(torch.tensor(result[column][:]), guide.encode(list(pairs))[column], atol=1e-6)

    def test_another_guide_has_other_features(self, model, processor, pairs, tmp_path):
        first = add_guide_features(pairs, Guide(model, processor), cache_dir=tmp_path, show_progress=False)
        torch.manual_seed(1)
        other = type(model)(model.config).eval()
        second = add_guide_features(pairs, Guide(other, processor), cache_dir=tmp_path, show_progress=False)
        assert first["guide_text_embeds"][0] != second["guide_text_embeds"][0]

    def test_streams_and_empty_data_raise(self, model, processor, pairs, tmp_path):
        with pytest.raises(ValueError, match="IterableDataset"):
            add_guide_features(pairs.to_iterable_dataset(), Guide(model, processor))
        with pytest.raises(ValueError, match="no rows"):
            add_guide_features(pairs.select([]), Guide(model, processor))


class TestTrainingWithAGuide:
    @pytest.fixture
    def trainer(self, model, processor, make_arguments):
        def make(pairs, guide, **options):
            args = make_arguments(**{"max_steps": 4, "per_device_train_batch_size": 4, **options})
            return SaclTrainer(model, args, train_dataset=pairs, processing_class=processor, guide_model=guide)

        return make

    @pytest.mark.parametrize(
        ("schedule", "duration", "shares"),
        [
            ("linear", 1.0, [1.0, 0.75, 0.5, 0.25]),
            ("linear", 0.5, [1.0, 0.5, 0.0, 0.0]),
            ("cosine", 1.0, [1.0, 0.8536, 0.5, 0.1464]),
            ("constant", 1.0, [1.0, 1.0, 1.0, 1.0]),
        ],
    )
    def test_hands_over_by_schedule(self, model, processor, pairs, trainer, schedule, duration, shares):
        trainer = trainer(pairs, Guide(model, processor), guide_schedule=schedule, guide_duration=duration)
        seen = []
        objective = trainer.objective

        def watch(batch, block_size):
            seen.append((batch.guide_share, batch.guide is not None, batch.regulation_strength))
            return objective(batch, block_size)

        trainer.objective = watch
        trainer.train()
        assert [share for share, _, _ in seen] == pytest.approx(shares, abs=1e-4)
        assert [given for _, given, _ in seen] == [share > 0 for share in shares]
        # With a guide the strength needs no warm-up.
        assert [strength for _, _, strength in seen] == [1.0] * 4

    def test_weights_come_from_the_guide(self, processor, pairs, trainer):
        guide = Guide(text_encoder(len(processor.tokenizer)), processor.tokenizer)
        trainer = trainer(pairs, guide, guide_schedule="constant", queue_size=6, max_steps=3)
        column = trainer.train_dataset.with_format("torch")
        features = {int(row["pair_id"]): row["guide_text_embeds"] for row in column}
        batches = []
        objective = trainer.objective

        def watch(batch, block_size):
            batches.append((batch, trainer.queue.features(), trainer.guide_queue.features()))
            return objective(batch, block_size)

        trainer.objective = watch
        trainer.train()
        batch, queued, guide_queued = batches[-1]
        assert torch.equal(queued.pair_ids, guide_queued.pair_ids)
        for pair_id, embeds in zip(guide_queued.pair_ids.tolist(), guide_queued.text_embeds, strict=True):
            assert torch.allclose(embeds, features[pair_id])
        captions = batch.guide.anchors.text_embeds
        assert torch.equal(batch.guide.anchors.image_embeds, captions)
        for similarity in batch.similarity:
            assert similarity.shape == batch.positive_mask.shape
            torch.testing.assert_close(similarity[:, : len(captions)], captions @ captions.T)

    def test_features_that_are_there_are_used(self, model, processor, pairs, trainer, tmp_path, monkeypatch):
        guide = Guide(model, processor)
        with_features = add_guide_features(pairs, guide, cache_dir=tmp_path, show_progress=False)
        monkeypatch.setattr(guide, "encode", lambda rows: pytest.fail("the guide was asked again"))
        trainer(with_features, guide, max_steps=1).train()

    def test_features_that_are_not_finite_cost_their_pair(self, processor, pairs):
        rows = [{**row, "guide_text_embeds": [0.6, 0.8]} for row in pairs.select(range(3))]
        rows[1]["guide_text_embeds"] = [math.nan, 0.0]
        collator = PairCollator(processor)
        batch = collator(rows)
        assert batch["guide_text_embeds"].shape == (2, 2)
        assert sum(collator.skipped.values()) == 1
