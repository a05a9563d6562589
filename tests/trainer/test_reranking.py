# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Re-ranking against pairs looked at one by one, and rankings against obvious loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import CLIPConfig, CLIPModel

from modeling_sacl import SaclForImageTextRetrieval, SaclForPreTraining, SaclModel
from trainer import evaluate_retrieval, find_candidates, match_pairs
from trainer.evaluation.ranking import Ranking, rank_pairs, summarize_rankings
from trainer.evaluation.reranking import Candidates, rerank


DIRECTIONS = ("image_to_text", "text_to_image")


@pytest.fixture(params=["all patches", "image", "text"])
def model(request, without_dropout):
    if request.param != "all patches":
        without_dropout.vision_config.hidden_size = without_dropout.text_config.hidden_size
        without_dropout.fusion_encoder_config.encoder_hidden_size = without_dropout.text_config.hidden_size
        without_dropout.vision_config.patch_selection_guide = request.param
        without_dropout.vision_config.patch_keep_rate = 0.5
    torch.manual_seed(0)
    model = SaclForImageTextRetrieval(without_dropout).eval()
    # So that matches differ by more than rounding.
    nn.init.normal_(model.itm_head.weight, std=2.0)
    return model


@torch.no_grad()
def log_odds_of(model, processor, image, text) -> float:
    """A pair that meets no other."""
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    fused = model.sacl.get_fusion_features(inputs["input_ids"], inputs["pixel_values"], inputs["attention_mask"])
    no_match, match = model.itm_head(fused.last_hidden_state[0, 0]).tolist()
    return match - no_match


class TestMatchPairs:
    @pytest.mark.parametrize("batch_size", [1, 5, 128])
    def test_equals_pairs_looked_at_alone(self, model, tiny_processor, pairs, batch_size):
        images, texts = (
            pairs["image"],
            [f"{caption} on the house ." * (row % 3) + caption for row, caption in enumerate(pairs["caption"])],
        )
        generator = torch.Generator().manual_seed(0)
        counts = [12, 0, 1, 9, 8, 7, 2, 12, 3, 0, 10, 1]
        candidates = [torch.randperm(12, generator=generator)[:count] for count in counts]
        found = match_pairs(
            model, images, texts, candidates, tiny_processor, batch_size=batch_size, show_progress=False
        )
        assert [len(scores) for scores in found] == counts
        for image, rows, scores in zip(images, candidates, found, strict=True):
            expected = [log_odds_of(model, tiny_processor, image, texts[row]) for row in rows]
            assert scores.tolist() == pytest.approx(expected, abs=1e-5)

    def test_keys_and_values_are_computed_once_for_each_image(self, make_model, tiny_processor, pairs):
        model = make_model(SaclForImageTextRetrieval)
        projected = []
        for layer in model.sacl.fusion_model.layers:
            layer.cross_attention.k_proj.register_forward_hook(lambda *args: projected.append(len(args[2])))
        candidates = [torch.arange(12)] * 12
        match_pairs(model, pairs["image"], pairs["caption"], candidates, tiny_processor, batch_size=5)
        assert sum(projected) == 12 * len(model.sacl.fusion_model.layers)

    def test_texts_are_read_once_and_only_those_needed(self, make_model, tiny_processor, pairs):
        model = make_model(SaclForPreTraining)
        read = []
        model.sacl.text_model.register_forward_hook(lambda *args: read.append(len(args[2].last_hidden_state)))
        candidates = [torch.tensor([3, 5]), torch.tensor([5])]
        match_pairs(model, pairs["image"][:2], pairs["caption"], candidates, tiny_processor, show_progress=False)
        assert sum(read) == 2

    def test_model_is_left_as_it_was(self, make_model, tiny_processor, pairs):
        model = make_model(SaclForImageTextRetrieval).train()
        (scores,) = match_pairs(model, pairs["image"][:1], ["a dog"], [torch.tensor([0])], tiny_processor)
        assert model.training and all(module.training for module in model.modules())
        assert all(parameter.grad is None for parameter in model.parameters())
        scores.add_(1)  # An ordinary tensor.

    def test_wrong_numbers_raise(self, make_model, tiny_processor, pairs):
        model = make_model(SaclForImageTextRetrieval)
        with pytest.raises(ValueError, match="more images than `candidates`, of which there are 1"):
            match_pairs(model, pairs["image"][:2], ["a dog"], [torch.tensor([0])], tiny_processor)
        with pytest.raises(ValueError, match="1 images, but `candidates` for 2"):
            match_pairs(model, pairs["image"][:1], ["a dog"], [torch.tensor([0])] * 2, tiny_processor)
        with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
            match_pairs(model, pairs["image"][:1], ["a dog"], [torch.tensor([0])], tiny_processor, batch_size=0)

    def test_model_without_the_head_raises(self, make_model, tiny_processor, pairs):
        with pytest.raises(TypeError, match="`SaclModel` has no matching head.*`SaclForImageTextRetrieval`"):
            match_pairs(make_model(SaclModel), pairs["image"][:1], ["a dog"], [torch.tensor([0])], tiny_processor)


# ------------------------------------------------------------------------------------------------------------ ranking


def random_embeddings(count, dim=4, seed=0):
    embeds = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return nn.functional.normalize(embeds, dim=-1)


class TestFindCandidates:
    @pytest.mark.parametrize("chunk_size", [1, 3, 100])
    def test_equals_a_stable_sort(self, chunk_size):
        queries = random_embeddings(7)
        candidates = random_embeddings(11, seed=1).repeat(2, 1)[:20]  # Many ties.
        found = find_candidates(queries, candidates, k=6, chunk_size=chunk_size)
        for query in range(7):
            cosines = [round(float(queries[query].double() @ other.double()) * 2**24) for other in candidates]
            expected = sorted(range(20), key=lambda row: (-cosines[row], row))[:6]
            assert found.rows[query].tolist() == expected
            torch.testing.assert_close(found.cosines[query], candidates[expected] @ queries[query])

    def test_more_than_there_are(self):
        assert find_candidates(random_embeddings(2), random_embeddings(3), k=10).rows.shape == (2, 3)

    def test_none_raises(self):
        with pytest.raises(ValueError, match="`k` must be at least 1"):
            find_candidates(random_embeddings(2), random_embeddings(3), k=0)


def reference_rerank(rows, scores, query_id, candidate_ids, first_rank, grade_of):
    """One query, one candidate at a time."""
    matching = [score for row, score in zip(rows, scores, strict=True) if candidate_ids[row] == query_id]
    rank = first_rank
    if matching:
        others = [score for row, score in zip(rows, scores, strict=True) if candidate_ids[row] != query_id]
        rank = 1 + sum(score >= max(matching) for score in others)
    order = sorted(zip(rows, scores, strict=True), key=lambda item: (-item[1], grade_of(item[0])))[:10]
    return rank, sum(grade_of(row) / math.log2(place + 1) for place, (row, _) in enumerate(order, start=1))


class TestRerank:
    @settings(deadline=None, max_examples=60)
    @given(data=st.data(), num_candidates=st.integers(1, 15), graded=st.booleans())
    def test_equals_an_obvious_loop(self, data, num_candidates, graded):
        k = data.draw(st.integers(min(10, num_candidates), num_candidates))
        candidate_ids = torch.tensor(
            data.draw(st.lists(st.integers(0, 3), min_size=num_candidates, max_size=num_candidates))
        )
        query_ids = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=4)))
        rows = torch.stack([torch.tensor(data.draw(st.permutations(range(num_candidates)))[:k]) for _ in query_ids])
        scores = torch.tensor([[data.draw(st.integers(-2, 2)) / 2 for _ in range(k)] for _ in query_ids])
        grades = torch.rand(len(query_ids), num_candidates, generator=torch.Generator().manual_seed(num_candidates))
        grades[grades < 0.5] = 0.0
        first = Ranking(
            torch.full_like(query_ids, 99), torch.zeros(len(query_ids)), torch.full((len(query_ids),), 7.0)
        )
        ranking = rerank(
            first,
            Candidates(rows, torch.zeros_like(scores)),
            scores,
            query_ids,
            candidate_ids,
            (lambda queries, others: grades[queries][:, others]) if graded else None,
        )
        assert torch.equal(ranking.ideal_dcg, first.ideal_dcg)
        for query, query_id in enumerate(query_ids.tolist()):

            def grade_of(row, query=query, query_id=query_id):
                return grades[query, row].item() if graded else float(candidate_ids[row] == query_id)

            rank, dcg = reference_rerank(
                rows[query].tolist(), scores[query].tolist(), query_id, candidate_ids.tolist(), 99, grade_of
            )
            assert ranking.ranks[query] == rank
            assert ranking.dcg[query].item() == pytest.approx(dcg, abs=1e-12)

    def test_by_the_cosines_themselves_nothing_changes(self):
        images, texts = random_embeddings(40), random_embeddings(60, seed=1)
        ids = torch.arange(60) % 25
        first = rank_pairs(images, texts, ids[:40], ids)
        for direction, queries, others, query_ids, other_ids in (
            ("image_to_text", images, texts, ids[:40], ids),
            ("text_to_image", texts, images, ids, ids[:40]),
        ):
            found = find_candidates(queries, others, k=12)
            again = rerank(first[direction], found, found.cosines * 1000, query_ids, other_ids)
            for name in ("ranks", "dcg", "ideal_dcg"):
                torch.testing.assert_close(getattr(again, name), getattr(first[direction], name), msg=name)

    def test_equal_but_for_rounding_is_equal(self):
        """What two batches make of one pair differs in the last digits, which must not decide."""
        scores = torch.tensor([[3.000001, 3.0] + [0.0] * 8])
        first = Ranking(torch.tensor([1]), torch.tensor([1.0]), torch.tensor([1.0]))
        ids = torch.tensor([5] + [6] * 9)
        ranking = rerank(first, Candidates(torch.arange(10)[None], scores), scores, torch.tensor([5]), ids)
        assert ranking.ranks.tolist() == [2]


class TestEvaluateRetrieval:
    @pytest.fixture
    def arguments(self, model, pairs, tiny_processor):
        return {"model": model, "dataset": pairs, "processor": tiny_processor, "show_progress": False}

    def test_equals_a_matrix_of_pairs(self, model, arguments, tiny_processor, pairs):
        metrics = evaluate_retrieval(**arguments, rerank_top_k=12)
        matrix = torch.tensor(
            [[log_odds_of(model, tiny_processor, row["image"], text) for text in pairs["caption"]] for row in pairs]
        )
        for direction, scores in (("image_to_text", matrix), ("text_to_image", matrix.T)):
            ranks = [1 + sum(other >= row[place] - 1e-4 for other in row) - 1 for place, row in enumerate(scores)]
            for k in (1, 5, 10):
                expected = 100 * sum(rank <= k for rank in ranks) / 12
                assert metrics[f"itm_{direction}_recall@{k}"] == pytest.approx(expected)
            assert metrics[f"itm_{direction}_mean_rank"] == pytest.approx(sum(ranks) / 12)

    def test_first_stage_is_as_without(self, arguments):
        plain = evaluate_retrieval(**arguments)
        both = evaluate_retrieval(**arguments, rerank_top_k=10)
        assert {name: value for name, value in both.items() if not name.startswith("itm_")} == plain
        for prefix in ("itm", "itm_itc"):
            assert {name.removeprefix(f"{prefix}_") for name in both if name.startswith(f"{prefix}_")} >= set(plain)

    def test_a_list_of_rows_gives_the_same(self, arguments, pairs):
        expected = evaluate_retrieval(**arguments, rerank_top_k=10)
        assert evaluate_retrieval(**{**arguments, "dataset": list(pairs)}, rerank_top_k=10) == expected

    def test_grades_are_asked_for_by_rows_of_the_data(self, arguments, pairs):
        colors = [caption.split()[1] for caption in pairs["caption"]]

        def same_color(image_rows, text_rows):
            return torch.tensor([[float(colors[i] == colors[t]) for t in text_rows] for i in image_rows])

        metrics = evaluate_retrieval(**arguments, rerank_top_k=12, relevance=same_color)
        for score in ("itm", "itm_itc"):
            for direction in DIRECTIONS:
                assert 0 < metrics[f"{score}_{direction}_ndcg@10"] <= 100
        assert metrics["itm_text_to_image_ndcg@10"] != metrics["text_to_image_ndcg@10"]

    def test_itm_itc_adds_the_cosine_over_the_temperature(self, model, arguments):
        with torch.no_grad():
            model.sacl.logit_scale.fill_(20.0)  # The cosine decides.
        metrics = evaluate_retrieval(**arguments, rerank_top_k=12)
        for direction in DIRECTIONS:
            assert metrics[f"itm_itc_{direction}_mean_rank"] == metrics[f"{direction}_mean_rank"]

    def test_too_few_candidates_raise(self, arguments):
        with pytest.raises(ValueError, match="`rerank_top_k` must be 0 or at least 10, got 5"):
            evaluate_retrieval(**arguments, rerank_top_k=5)

    def test_model_without_the_head_raises_before_it_embeds(self, pairs, tiny_processor):
        clip = CLIPModel(CLIPConfig(text_config={"num_hidden_layers": 1}, vision_config={"num_hidden_layers": 1}))
        with pytest.raises(TypeError, match="`CLIPModel` has no matching head"):
            evaluate_retrieval(clip, pairs, tiny_processor, rerank_top_k=10)

    def test_metrics_are_those_of_the_rankings(self):
        ranking = Ranking(torch.tensor([1, 6, 0]), torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.0, 1.0, 0.0]))
        metrics = summarize_rankings(dict.fromkeys(DIRECTIONS, ranking), (1, 10))
        assert metrics["image_to_text_recall@1"] == 50 and metrics["image_to_text_recall@10"] == 100
        assert metrics["image_to_text_ndcg@10"] == 75 and metrics["image_to_text_queries_without_match"] == 1
