# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Retrieval metrics against obvious loops, worked examples and enumeration; embeddings against the model's own."""

import itertools
import math
import statistics
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

from trainer.evaluation import (
    chance_retrieval_metrics,
    compute_retrieval_metrics,
    embed_pairs,
    evaluate_retrieval,
)


DIRECTIONS = ("image_to_text", "text_to_image")


def normalize(embeds):
    return nn.functional.normalize(embeds, dim=-1)


def random_problem(num_images=37, num_texts=53, dim=6, num_ids=15, seed=0):
    """Several texts per image, several images per text, repeated embeddings (exact ties)."""
    generator = torch.Generator().manual_seed(seed)
    pool = normalize(torch.randn(20, dim, generator=generator))
    image_embeds = pool[torch.randint(20, (num_images,), generator=generator)]
    text_embeds = normalize(torch.randn(num_texts, dim, generator=generator))
    text_embeds[::3] = pool[torch.randint(20, (len(text_embeds[::3]),), generator=generator)]
    image_ids = torch.randint(num_ids, (num_images,), generator=generator)
    text_ids = torch.randint(num_ids, (num_texts,), generator=generator)
    return image_embeds, text_embeds, image_ids, text_ids


def reference_metrics(image_embeds, text_embeds, image_ids, text_ids, grades=None, ks=(1, 5, 10)):
    """The definitions, one query and one candidate at a time. `grades` is a nested list, images by texts."""
    images, texts = image_embeds.double().tolist(), text_embeds.double().tolist()
    image_ids, text_ids = image_ids.tolist(), text_ids.tolist()
    steps = 2**36 if torch.float64 in (image_embeds.dtype, text_embeds.dtype) else 2**24
    result, recalls = {}, []
    for direction in DIRECTIONS:
        forward = direction == "image_to_text"
        queries, candidates = (images, texts) if forward else (texts, images)
        query_ids, candidate_ids = (image_ids, text_ids) if forward else (text_ids, image_ids)
        ranks, ndcgs, unmatched = [], [], 0
        for q, query in enumerate(queries):
            items = []
            for c, candidate in enumerate(candidates):
                similarity = round(math.fsum(a * b for a, b in zip(query, candidate, strict=True)) * steps)
                match = query_ids[q] == candidate_ids[c]
                if grades is None:
                    grade = float(match)
                else:
                    grade = grades[q][c] if forward else grades[c][q]
                items.append((similarity, match, grade))
            if any(match for _, match, _ in items):
                best = max(similarity for similarity, match, _ in items if match)
                ranks.append(1 + sum(similarity >= best and not match for similarity, match, _ in items))
            else:
                unmatched += 1
            ranking = sorted(items, key=lambda item: (-item[0], item[2]))[:10]
            dcg = sum(grade / math.log2(place + 1) for place, (_, _, grade) in enumerate(ranking, start=1))
            best_grades = sorted((grade for _, _, grade in items), reverse=True)[:10]
            ideal = sum(grade / math.log2(place + 1) for place, grade in enumerate(best_grades, start=1))
            if ideal > 0:
                ndcgs.append(dcg / ideal)
        for k in ks:
            result[f"{direction}_recall@{k}"] = 100 * statistics.mean(float(rank <= k) for rank in ranks)
            recalls.append(result[f"{direction}_recall@{k}"])
        result[f"{direction}_ndcg@10"] = 100 * statistics.mean(ndcgs)
        result[f"{direction}_median_rank"] = statistics.median(ranks)
        result[f"{direction}_mean_rank"] = statistics.mean(ranks)
        if unmatched:
            result[f"{direction}_queries_without_match"] = unmatched
    result["mean_recall"] = statistics.mean(recalls)
    return result


class Table:
    """Grades looked up in a matrix; remembers the largest block it was asked for."""

    def __init__(self, grades):
        self.grades = grades
        self.largest = 0

    def __call__(self, image_rows, text_rows):
        self.largest = max(self.largest, len(image_rows) * len(text_rows))
        return self.grades[image_rows[:, None], text_rows[None, :]]


class TestComputeRetrievalMetrics:
    def test_keys_are_the_documented_ones(self):
        metrics = compute_retrieval_metrics(torch.eye(3), torch.eye(3), torch.arange(3), torch.arange(3))
        names = ["recall@1", "recall@5", "recall@10", "ndcg@10", "median_rank", "mean_rank"]
        expected = [f"{direction}_{name}" for direction in DIRECTIONS for name in names] + ["mean_recall"]
        assert list(metrics) == expected
        assert all(type(value) is float for value in metrics.values())

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    def test_agrees_with_loops_over_every_pair(self, seed, dtype):
        image_embeds, text_embeds, image_ids, text_ids = random_problem(seed=seed)
        problem = image_embeds.to(dtype), text_embeds.to(dtype), image_ids, text_ids
        assert compute_retrieval_metrics(*problem, chunk_size=8) == pytest.approx(reference_metrics(*problem))

    @given(data=st.data())
    @settings(max_examples=60, deadline=None)
    def test_agrees_with_loops_on_anything(self, data):
        # Corners of a cube have exact cosines, so that ties are everywhere.
        corners = st.lists(st.sampled_from([-0.5, 0.5]), min_size=4, max_size=4)
        images = data.draw(st.lists(st.tuples(corners, st.integers(-2, 3)), min_size=1, max_size=13))
        texts = data.draw(st.lists(st.tuples(corners, st.integers(-2, 3)), min_size=1, max_size=13))
        if not {pair for _, pair in images} & {pair for _, pair in texts}:
            texts[0] = (texts[0][0], images[0][1])
        row = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=len(texts), max_size=len(texts))
        grades = data.draw(st.none() | st.lists(row, min_size=len(images), max_size=len(images)))
        if grades is not None:
            grades[0][0] = 0.75
        problem = (
            torch.tensor([corner for corner, _ in images]),
            torch.tensor([corner for corner, _ in texts]),
            torch.tensor([pair for _, pair in images]),
            torch.tensor([pair for _, pair in texts]),
        )
        relevance = None if grades is None else Table(torch.tensor(grades))
        ks = data.draw(st.sampled_from([(1, 5, 10), (2,), (1, 3)]))
        chunk_size = data.draw(st.integers(1, 14))
        metrics = compute_retrieval_metrics(*problem, relevance=relevance, ks=ks, chunk_size=chunk_size)
        assert metrics == pytest.approx(reference_metrics(*problem, grades=grades, ks=ks))

    @pytest.mark.parametrize("graded", [False, True])
    def test_chunk_size_changes_nothing(self, graded):
        problem = random_problem(num_images=70, num_texts=90, dim=64, seed=3)
        grades = torch.randint(5, (70, 90), generator=torch.Generator().manual_seed(0)) / 4
        relevance = Table(grades) if graded else None
        whole = compute_retrieval_metrics(*problem, relevance=relevance, chunk_size=1024)
        for chunk_size in (5, 33, 89, 90):
            assert compute_retrieval_metrics(*problem, relevance=relevance, chunk_size=chunk_size) == whole

    def test_order_of_the_rows_changes_nothing(self):
        image_embeds, text_embeds, image_ids, text_ids = random_problem(dim=64, seed=4)
        expected = compute_retrieval_metrics(image_embeds, text_embeds, image_ids, text_ids)
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            images = torch.randperm(len(image_ids), generator=generator)
            texts = torch.randperm(len(text_ids), generator=generator)
            shuffled = compute_retrieval_metrics(
                image_embeds[images], text_embeds[texts], image_ids[images], text_ids[texts], chunk_size=16
            )
            assert shuffled == pytest.approx(expected, rel=1e-12)

    def test_perfect_embeddings_are_perfect(self):
        ids = torch.arange(30).repeat_interleave(2)
        embeds = torch.eye(30)[ids]
        metrics = compute_retrieval_metrics(embeds, embeds, ids, ids, chunk_size=16)
        for name, value in metrics.items():
            assert value == (1.0 if name.endswith("_rank") else 100.0), name

    def test_worst_embeddings_are_last(self):
        # Every image is the opposite of its text and at a right angle to all others.
        metrics = compute_retrieval_metrics(torch.eye(30), -torch.eye(30), torch.arange(30), torch.arange(30))
        for direction in DIRECTIONS:
            assert metrics[f"{direction}_median_rank"] == metrics[f"{direction}_mean_rank"] == 30.0
            assert metrics[f"{direction}_recall@10"] == metrics[f"{direction}_ndcg@10"] == 0.0

    def test_any_of_several_captions_is_a_hit(self):
        # The second caption of image 0 is found first; the first one is far away.
        image_embeds = torch.eye(2)
        text_embeds = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        metrics = compute_retrieval_metrics(
            image_embeds, text_embeds, torch.tensor([0, 1]), torch.tensor([0, 0, 1]), ks=(1, 2)
        )
        assert metrics["image_to_text_recall@1"] == 100.0
        # Caption 0 sees image 1 (0) before its own image (-1).
        assert metrics["text_to_image_recall@1"] == pytest.approx(100 * 2 / 3)
        assert metrics["text_to_image_recall@2"] == 100.0
        assert metrics["text_to_image_mean_rank"] == pytest.approx(4 / 3)
        assert metrics["mean_recall"] == pytest.approx((100 + 100 + 200 / 3 + 100) / 4)

    def test_median_of_an_even_number_is_between_the_two(self):
        # Image 0 ranks its text 1st, image 1 ranks its text 2nd.
        image_embeds = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        text_embeds = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        metrics = compute_retrieval_metrics(image_embeds, text_embeds, torch.arange(2), torch.arange(2))
        assert metrics["image_to_text_median_rank"] == 1.5

    def test_queries_without_match_are_left_out_and_counted(self, caplog):
        image_embeds, text_embeds = torch.eye(4)[:3], torch.eye(4)
        metrics = compute_retrieval_metrics(
            image_embeds, text_embeds, torch.tensor([0, 1, 50]), torch.tensor([0, 1, 60, 70])
        )
        assert metrics["image_to_text_queries_without_match"] == 1.0
        assert metrics["text_to_image_queries_without_match"] == 2.0
        assert metrics["image_to_text_recall@1"] == metrics["text_to_image_recall@1"] == 100.0
        assert metrics["image_to_text_ndcg@10"] == metrics["text_to_image_ndcg@10"] == 100.0
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "1 image_to_text queries and 2 text_to_image queries" in caplog.text

    def test_embeddings_with_gradient_are_welcome(self):
        embeds = torch.eye(3, requires_grad=True)
        assert compute_retrieval_metrics(embeds, embeds, torch.arange(3), torch.arange(3))["mean_recall"] == 100.0

    def test_autocast_of_the_caller_does_not_reach_the_ranking(self):
        problem = random_problem(dim=32)
        expected = compute_retrieval_metrics(*problem)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert compute_retrieval_metrics(*problem) == expected


class TestTies:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("dim", [3, 97, 512])
    @pytest.mark.parametrize("chunk_size", [7, 1024])
    def test_constant_embeddings_score_nothing(self, dtype, dim, chunk_size):
        constant = normalize(torch.randn(1, dim, generator=torch.Generator().manual_seed(dim))).to(dtype)
        ids = torch.arange(50)
        metrics = compute_retrieval_metrics(
            constant.repeat(50, 1), constant.repeat(50, 1), ids, ids, chunk_size=chunk_size
        )
        for direction in DIRECTIONS:
            assert metrics[f"{direction}_recall@10"] == 0.0
            assert metrics[f"{direction}_ndcg@10"] == 0.0
            assert metrics[f"{direction}_mean_rank"] == 50.0

    def test_rounding_noise_is_a_tie(self):
        # Every image leans towards its own text, but by less than float32 can be trusted with.
        base = torch.zeros(40, 41, dtype=torch.float64)
        base[:, 0] = 1.0
        texts = base.clone()
        texts[:, 1:] += torch.eye(40, dtype=torch.float64) * 1e-4
        ids = torch.arange(40)
        metrics = compute_retrieval_metrics(normalize(texts).float(), normalize(texts).float(), ids, ids)
        assert metrics["image_to_text_recall@10"] == 0.0
        # In float64 the same difference is known for certain.
        metrics = compute_retrieval_metrics(normalize(texts), normalize(texts), ids, ids)
        assert metrics["image_to_text_recall@1"] == 100.0

    def test_zero_embeddings_score_nothing(self):
        ids = torch.arange(20)
        metrics = compute_retrieval_metrics(torch.zeros(20, 8), torch.eye(20)[:, :8], ids, ids)
        assert metrics["image_to_text_recall@10"] == 0.0

    def test_a_tie_with_a_match_is_no_loss(self):
        # Two captions of one image are equally near: neither pushes the other down.
        image_embeds, text_embeds = torch.eye(2), torch.eye(2)[[0, 0, 1]]
        metrics = compute_retrieval_metrics(image_embeds, text_embeds, torch.tensor([0, 1]), torch.tensor([0, 0, 1]))
        assert metrics["image_to_text_recall@1"] == 100.0

    def test_ndcg_takes_the_worst_order_among_equals(self):
        # Two candidates at cosine 1 with grades 1 and 0.5, one at 0 with grade 0.
        image_embeds, text_embeds = torch.eye(2)[:1], torch.eye(2)[[0, 0, 1]]
        grades = torch.tensor([[1.0, 0.5, 0.0]])
        worst = (0.5 + 1.0 / math.log2(3)) / (1.0 + 0.5 / math.log2(3))
        for order in itertools.permutations(range(3)):
            for chunk_size in (1, 2, 3):
                metrics = compute_retrieval_metrics(
                    image_embeds,
                    text_embeds[list(order)],
                    torch.tensor([5]),
                    torch.tensor([5, 6, 7])[list(order)],
                    relevance=Table(grades[:, list(order)]),
                    chunk_size=chunk_size,
                )
                assert metrics["image_to_text_ndcg@10"] == pytest.approx(100 * worst)


class TestGradedRelevance:
    def test_hand_worked_example(self):
        angles = torch.tensor([10.0, 20.0, 30.0, 40.0]).deg2rad()
        image_embeds = torch.tensor([[1.0, 0.0]])
        text_embeds = torch.stack([angles.cos(), angles.sin()], dim=1)
        metrics = compute_retrieval_metrics(
            image_embeds,
            text_embeds,
            torch.tensor([1]),
            torch.tensor([0, 1, 2, 3]),
            relevance=lambda images, texts: torch.tensor([[0.5, 1.0, 0.0, 0.25]])[images][:, texts],
        )
        # Discounts 1, 0.6309, 0.5, 0.4307: DCG 0.5 + 0.6309 + 0 + 0.1077, ideal 1 + 0.3155 + 0.125.
        assert metrics["image_to_text_ndcg@10"] == pytest.approx(100 * 1.238600 / 1.440465, abs=1e-3)
        assert metrics["image_to_text_mean_rank"] == 2.0
        # One image to choose from is always the best order; the text with grade 0 is left out.
        assert metrics["text_to_image_ndcg@10"] == pytest.approx(100.0)

    def test_only_ten_places_count(self):
        cosines = torch.linspace(0.9, 0.1, 12)
        text_embeds = torch.stack([cosines, (1 - cosines**2).sqrt()], dim=1)
        metrics = compute_retrieval_metrics(
            torch.tensor([[1.0, 0.0]]), text_embeds, torch.tensor([10]), torch.arange(12), chunk_size=5
        )
        assert metrics["image_to_text_mean_rank"] == 11.0
        assert metrics["image_to_text_ndcg@10"] == 0.0

    @pytest.mark.parametrize("seed", range(3))
    def test_agrees_with_loops_over_every_pair(self, seed):
        problem = random_problem(seed=seed)
        grades = torch.rand(37, 53, generator=torch.Generator().manual_seed(seed)).mul(8).round() / 8
        metrics = compute_retrieval_metrics(*problem, relevance=Table(grades), chunk_size=9)
        assert metrics == pytest.approx(reference_metrics(*problem, grades=grades.tolist()))

    def test_ids_as_grades_are_the_default(self):
        problem = random_problem(seed=8)
        by_ids = Table((problem[2][:, None] == problem[3][None, :]).float())
        assert compute_retrieval_metrics(*problem, relevance=by_ids) == pytest.approx(
            compute_retrieval_metrics(*problem)
        )

    def test_images_come_first_in_both_directions(self):
        # Not square: swapped arguments would index out of range, a forgotten transpose would not fit.
        image_embeds, text_embeds, image_ids, text_ids = random_problem(num_images=5, num_texts=40, num_ids=3)
        asked = []

        def relevance(image_rows, text_rows):
            asked.append((image_rows.max().item(), text_rows.max().item()))
            return torch.ones(len(image_rows), len(text_rows))

        compute_retrieval_metrics(image_embeds, text_embeds, image_ids, text_ids, relevance=relevance)
        assert asked == [(4, 39), (4, 39)]

    def test_recall_and_ranks_stay_by_ids(self):
        problem = random_problem(seed=2)
        graded = compute_retrieval_metrics(*problem, relevance=Table(torch.ones(37, 53)))
        plain = compute_retrieval_metrics(*problem)
        for name in plain:
            assert graded[name] == (100.0 if "ndcg" in name else plain[name])

    @pytest.mark.parametrize(
        "grades, message",
        [
            (torch.full((3, 3), 1.5), r"grades in \[0, 1\], got 1.5"),
            (torch.full((3, 3), -0.5), r"grades in \[0, 1\], got -0.5"),
            (torch.full((3, 3), math.nan), r"grades in \[0, 1\], got nan"),
            (torch.ones(3), r"shape \(images, texts\) = \(3, 3\), got \(3,\)"),
            ([[1.0] * 3] * 3, r"got list"),
            (torch.zeros(3, 3), "grade 0 to every image with every text"),
        ],
    )
    def test_impossible_grades_raise(self, grades, message):
        with pytest.raises(ValueError, match=message):
            compute_retrieval_metrics(
                torch.eye(3), torch.eye(3), torch.arange(3), torch.arange(3), relevance=lambda images, texts: grades
            )


class WatchMemory(TorchDispatchMode):
    """The largest tensor that any operation returns, and how many products of matrices are alive at once."""

    def __init__(self):
        super().__init__()
        self.largest, self.products, self.most_alive = 0, [], 0
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        if func is torch.ops.aten.mm.default:
            self.shapes.add(tuple(out.shape))
            self.products.append(StorageWeakRef(out.untyped_storage()))
            self.products = [product for product in self.products if not product.expired()]
            self.most_alive = max(self.most_alive, len(self.products))
        return out


class TestMemory:
    @pytest.mark.parametrize("graded", [False, True])
    @pytest.mark.parametrize("ordered", [False, True])
    def test_no_more_than_one_block_of_similarities_exists(self, graded, ordered):
        chunk = 32
        ids = torch.arange(200) if ordered else torch.randperm(200, generator=torch.Generator().manual_seed(0))
        image_embeds = normalize(torch.randn(200, 4, generator=torch.Generator().manual_seed(1)))
        text_embeds = normalize(torch.randn(230, 4, generator=torch.Generator().manual_seed(2)))
        text_ids = torch.cat([torch.arange(200), torch.arange(30)])
        relevance = Table(torch.rand(200, 230)) if graded else None
        with WatchMemory() as watch:
            compute_retrieval_metrics(image_embeds, text_embeds, ids, text_ids, relevance=relevance, chunk_size=chunk)
        assert (chunk, chunk) in watch.shapes  # it saw the products
        assert watch.most_alive == 1
        # Nothing else is larger either: neither matches nor grades nor top lists, over 46,000 pairs.
        assert watch.largest <= chunk * chunk
        if graded:
            assert relevance.largest == chunk * chunk

    def test_the_watch_would_notice(self):
        with WatchMemory() as watch:
            first = torch.ones(40, 2) @ torch.ones(2, 50)
            second = torch.ones(4, 2) @ torch.ones(2, 5)
        assert (watch.largest, watch.most_alive) == (2000, 2)
        assert first.shape != second.shape

    def test_chance_needs_no_pairs(self):
        ids = torch.arange(2000)
        with WatchMemory() as watch:
            chance_retrieval_metrics(ids, ids)
        assert watch.largest <= 20_000


class TestBadInput:
    ids = torch.arange(3)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_embeddings_that_are_not_finite(self, value):
        broken = torch.eye(9)
        broken[[2, 7], 3] = value
        with pytest.raises(ValueError, match=r"`text_embeds` has NaN or infinite values in rows 2, 7\."):
            compute_retrieval_metrics(torch.eye(9), broken, torch.arange(9), torch.arange(9))
        with pytest.raises(ValueError, match=r"`image_embeds` has NaN or infinite values in rows 2, 7\."):
            compute_retrieval_metrics(broken, torch.eye(9), torch.arange(9), torch.arange(9))

    def test_many_bad_rows_are_summed_up(self):
        with pytest.raises(ValueError, match=r"rows 0, 1, 2, 3, 4, \.\.\. \(9 in all\)"):
            compute_retrieval_metrics(torch.eye(9) * math.nan, torch.eye(9), torch.arange(9), torch.arange(9))

    def test_embeddings_that_are_not_normalised(self):
        with pytest.raises(ValueError, match=r"`image_embeds` must be L2-normalised, but rows 0, 1, 2 .* like 2"):
            compute_retrieval_metrics(2 * torch.eye(3), torch.eye(3), self.ids, self.ids)

    @pytest.mark.parametrize("side", ["image", "text"])
    def test_an_empty_side(self, side):
        full, empty = (torch.eye(3), self.ids), (torch.empty(0, 3), torch.empty(0, dtype=torch.long))
        (images, image_ids), (texts, text_ids) = (empty, full) if side == "image" else (full, empty)
        with pytest.raises(ValueError, match=f"There are no {side}s"):
            compute_retrieval_metrics(images, texts, image_ids, text_ids)
        with pytest.raises(ValueError, match=f"There are no {side}s"):
            chance_retrieval_metrics(image_ids, text_ids)

    def test_nothing_that_matches(self):
        with pytest.raises(ValueError, match="image ids are 0, 1, 2, the text ids 10, 11, 12"):
            compute_retrieval_metrics(torch.eye(3), torch.eye(3), self.ids, self.ids + 10)
        with pytest.raises(ValueError, match="No image matches any text"):
            chance_retrieval_metrics(self.ids, self.ids + 10)

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"image_embeds": torch.eye(3)[0]}, r"`image_embeds` must be a floating point tensor"),
            ({"text_embeds": torch.eye(3).long()}, r"`text_embeds` .* got torch.int64 of shape \(3, 3\)"),
            ({"text_embeds": [[1.0]]}, "got list"),
            ({"text_embeds": torch.eye(4)[:3]}, "3 dimensions and `text_embeds` 4"),
            ({"text_embeds": torch.eye(3)[:2]}, "`text_embeds` has 2 rows but `text_ids` has 3"),
            ({"image_ids": torch.arange(3.0)}, "`image_ids` must be a vector of integers, got torch.float32"),
            ({"text_ids": torch.eye(3).long()}, r"`text_ids` must be a vector of integers, .* \(3, 3\)"),
            ({"text_ids": ["a", "b", "c"]}, "`text_ids` must be a vector of integers, got list"),
            ({"ks": ()}, "at least one cut-off"),
            ({"ks": (0, 5)}, "each at least 1"),
            ({"chunk_size": 0}, "`chunk_size` must be at least 1, got 0"),
        ],
    )
    def test_wrong_shapes_and_settings(self, change, message):
        arguments = {
            "image_embeds": torch.eye(3),
            "text_embeds": torch.eye(3),
            "image_ids": self.ids,
            "text_ids": self.ids,
        }
        with pytest.raises(ValueError, match=message):
            compute_retrieval_metrics(**{**arguments, **change})


class TestChance:
    def test_one_match_among_many(self):
        ids = torch.arange(200)
        metrics = chance_retrieval_metrics(ids, ids)
        for direction in DIRECTIONS:
            assert metrics[f"{direction}_recall@1"] == 0.5
            assert metrics[f"{direction}_recall@5"] == 2.5
            assert metrics[f"{direction}_recall@10"] == 5.0
            assert metrics[f"{direction}_mean_rank"] == 100.5
        assert metrics["mean_recall"] == pytest.approx(8 / 3)

    def test_equals_the_mean_over_all_rankings(self):
        image_ids, text_ids = [0, 0, 1, 2, 9], [0, 0, 0, 1, 1, 2]
        metrics = chance_retrieval_metrics(torch.tensor(image_ids), torch.tensor(text_ids), ks=(1, 2, 4))
        for direction, queries, candidates in (
            ("image_to_text", image_ids, text_ids),
            ("text_to_image", text_ids, image_ids),
        ):
            ranks = [
                [ranking.index(query) + 1 for query in queries if query in candidates]
                for ranking in itertools.permutations(candidates)
            ]
            ranks = [rank for ranking in ranks for rank in ranking]
            for k in (1, 2, 4):
                exact = Fraction(100 * sum(rank <= k for rank in ranks), len(ranks))
                assert metrics[f"{direction}_recall@{k}"] == pytest.approx(float(exact), rel=1e-14)
            assert metrics[f"{direction}_mean_rank"] == pytest.approx(
                float(Fraction(sum(ranks), len(ranks))), rel=1e-14
            )

    def test_is_what_random_embeddings_score(self):
        image_ids, text_ids = torch.arange(60) // 2, torch.arange(90) // 3
        generator = torch.Generator().manual_seed(0)
        runs = [
            compute_retrieval_metrics(
                normalize(torch.randn(60, 16, generator=generator)),
                normalize(torch.randn(90, 16, generator=generator)),
                image_ids,
                text_ids,
            )
            for _ in range(150)
        ]
        for name, expected in chance_retrieval_metrics(image_ids, text_ids).items():
            values = np.array([run[name] for run in runs])
            assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values)), name

    def test_cut_offs_beyond_the_candidates_are_certain(self):
        metrics = chance_retrieval_metrics(torch.tensor([0, 1]), torch.tensor([0, 1, 1]), ks=(2, 3, 50))
        assert metrics["image_to_text_recall@3"] == metrics["image_to_text_recall@50"] == 100.0
        # One of three: 2/3; two of three: certain after two.
        assert metrics["image_to_text_recall@2"] == pytest.approx(100 * (2 / 3 + 1) / 2)

    def test_is_exact_for_large_collections(self):
        ids = torch.arange(1_000_000)
        metrics = chance_retrieval_metrics(ids, ids, ks=(10,))
        assert metrics["image_to_text_recall@10"] == 0.001


# --------------------------------------------------------------------------------------------------------------------
# From a model
# --------------------------------------------------------------------------------------------------------------------

WORDS = "a an the red green blue big small cat dog bird runs sleeps sings".split()


def tiny_tokenizer(model_max_length=16, **kwargs):
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[BOS]": 3, "[EOS]": 4}
    vocabulary.update({word: 5 + number for number, word in enumerate(WORDS)})
    vocabulary["[MASK]"] = 2
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 3), ("[EOS]", 4)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        model_max_length=model_max_length,
        **kwargs,
    )


@pytest.fixture(scope="module")
def processor():
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_convert_rgb=True
    )
    return CLIPProcessor(image_processor=image_processor, tokenizer=tiny_tokenizer())


@pytest.fixture
def clip():
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 4}
    config = CLIPConfig(
        text_config={**tower, **special, "vocab_size": 24, "max_position_embeddings": 16, "attention_dropout": 0.5},
        vision_config={**tower, "image_size": 16, "patch_size": 8, "attention_dropout": 0.5},
        projection_dim=8,
    )
    return CLIPModel(config)


def random_image(seed, mode="RGB", size=(20, 24)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return PILImage.fromarray(pixels).convert(mode)


def random_captions(seed, count):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS, generator.integers(2, 9))) for _ in range(count)]


@pytest.fixture(scope="module")
def captioned():
    """12 pairs: 15 images, as three pairs have two, with one to three captions each."""
    pairs = [*range(12), 0, 4, 8]
    rows = {
        "image": [random_image(seed, "L" if seed == 3 else "RGB") for seed in range(15)],
        "captions": [random_captions(seed, 1 + seed % 3) for seed in range(15)],
        "pair_id": [f"pair-{pair}" for pair in pairs],
    }
    features = Features({"image": Image(), "captions": List(Value("string")), "pair_id": Value("string")})
    return Dataset.from_dict(rows, features=features)


def direct_embeddings(model, processor, dataset):
    """One image and one caption at a time, without any of the library's machinery."""
    model.eval()
    image_embeds, text_embeds, image_ids, text_ids = [], [], [], []
    with torch.no_grad():
        for row in dataset:
            pixels = processor(images=row["image"].convert("RGB"), return_tensors="pt")
            image_embeds.append(normalize(model.get_image_features(**pixels).pooler_output))
            image_ids.append(int(row["pair_id"].split("-")[1]))
            for caption in row["captions"]:
                tokens = processor(text=caption, return_tensors="pt")
                text_embeds.append(normalize(model.get_text_features(**tokens).pooler_output))
                text_ids.append(image_ids[-1])
    return torch.cat(image_embeds), torch.cat(text_embeds), torch.tensor(image_ids), torch.tensor(text_ids)


class TestEvaluateRetrieval:
    @pytest.mark.parametrize("batch_size", [1, 4, 64])
    def test_equals_a_direct_computation(self, clip, processor, captioned, batch_size):
        metrics = evaluate_retrieval(
            clip, captioned, processor, batch_size=batch_size, chunk_size=8, show_progress=False
        )
        expected = reference_metrics(*direct_embeddings(clip, processor, captioned))
        assert metrics == pytest.approx(expected)
        # The model is neither perfect nor hopeless: the numbers could differ.
        assert 0 < metrics["mean_recall"] < 100

    def test_each_row_is_its_own_pair_without_ids(self, clip, processor, captioned):
        metrics = evaluate_retrieval(clip, captioned, processor, pair_id_column=None, show_progress=False)
        assert metrics == evaluate_retrieval(clip, captioned.remove_columns("pair_id"), processor, show_progress=False)
        image_embeds, text_embeds, _, _ = direct_embeddings(clip, processor, captioned)
        rows = torch.arange(15)
        text_rows = rows.repeat_interleave(torch.tensor([len(captions) for captions in captioned["captions"]]))
        assert metrics == pytest.approx(reference_metrics(image_embeds, text_embeds, rows, text_rows))

    def test_relevance_sees_rows_of_the_data_set(self, clip, processor, captioned):
        grades = torch.rand(15, 15, generator=torch.Generator().manual_seed(0)).mul(4).round() / 4
        metrics = evaluate_retrieval(clip, captioned, processor, relevance=Table(grades), show_progress=False)
        problem = direct_embeddings(clip, processor, captioned)
        text_rows = [row for row, captions in enumerate(captioned["captions"]) for _ in captions]
        assert metrics == pytest.approx(reference_metrics(*problem, grades=grades[:, text_rows].tolist()))

    def test_arguments_reach_the_metrics(self, clip, processor, captioned):
        metrics = evaluate_retrieval(clip, captioned, processor, ks=(3,), show_progress=False)
        assert "image_to_text_recall@3" in metrics and "image_to_text_recall@1" not in metrics

    def test_progress_can_be_silenced(self, clip, processor, captioned, capfd):
        evaluate_retrieval(clip, captioned, processor, show_progress=False)
        assert capfd.readouterr() == ("", "")
        evaluate_retrieval(clip, captioned, processor, batch_size=4)
        shown = capfd.readouterr().err
        assert "Embedding images" in shown and "Embedding texts" in shown


class Recorder(nn.Module):
    """A dual encoder that only notes what it is given; embeddings are the mean pixel and the token counts."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=dtype))
        self.config = SimpleNamespace(model_type="recorder")
        self.images, self.texts, self.modes = [], [], []

    def get_image_features(self, pixel_values):
        self.modes.append((self.training, torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
        self.images.append(pixel_values)
        return torch.stack([pixel_values.mean((1, 2, 3)), pixel_values.amax((1, 2, 3)).add(1)], dim=1)

    def get_text_features(self, input_ids, attention_mask=None):
        self.texts.append((input_ids, attention_mask))
        return torch.stack([input_ids.sum(1), (input_ids > 0).sum(1)], dim=1).to(self.weight.dtype)


class TestEmbedPairs:
    def embed(self, rows, model=None, processor=None, **kwargs):
        model = model or Recorder()
        return model, embed_pairs(model, rows, processor, show_progress=False, **kwargs)

    def test_embeddings_are_the_models_own(self, clip, processor, captioned):
        embeddings = embed_pairs(clip, captioned, processor, batch_size=4, show_progress=False)
        image_embeds, text_embeds, image_ids, text_ids = direct_embeddings(clip, processor, captioned)
        torch.testing.assert_close(embeddings.image_embeds, image_embeds)
        torch.testing.assert_close(embeddings.text_embeds, text_embeds)
        assert torch.equal(embeddings.image_ids, image_ids)
        assert torch.equal(embeddings.text_ids, text_ids)
        assert embeddings.image_rows.tolist() == list(range(15))
        assert embeddings.text_rows.tolist() == [row for row in range(15) for _ in range(1 + row % 3)]
        assert embeddings.image_embeds.dtype == torch.float32

    def test_each_image_and_caption_of_a_pair_is_embedded_once(self, processor):
        one, two, three = (random_image(seed) for seed in range(3))
        rows = [
            {"image": one, "caption": "a cat", "pair_id": 7},
            {"image": one.copy(), "caption": "the cat", "pair_id": 7},  # an image per caption
            {"image": two, "caption": "a cat", "pair_id": 7},  # a caption per image
            {"image": one, "caption": "a cat", "pair_id": 8},  # the same again, but of another pair
            {"image": three, "caption": "a dog", "pair_id": -1},
        ]
        model, embeddings = self.embed(rows, processor=processor)
        assert embeddings.image_ids.tolist() == [7, 7, 8, -1]
        assert embeddings.image_rows.tolist() == [0, 2, 3, 4]
        assert embeddings.text_ids.tolist() == [7, 7, 8, -1]
        assert embeddings.text_rows.tolist() == [0, 1, 3, 4]
        assert sum(len(batch) for batch in model.images) == 4
        assert sum(len(batch) for batch, _ in model.texts) == 3  # "a cat", "the cat", "a dog"
        # The same words are the same to the bit, so that they tie.
        assert torch.equal(embeddings.text_embeds[0], embeddings.text_embeds[2])
        assert not torch.equal(embeddings.text_embeds[0], embeddings.text_embeds[1])

    def test_images_of_other_shape_but_equal_bytes_are_distinct(self, processor):
        pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        images = [PILImage.fromarray(pixels), PILImage.fromarray(pixels.reshape(24, 20, 3))]
        rows = [{"image": image, "caption": "a cat", "pair_id": 1} for image in images]
        _, embeddings = self.embed(rows, processor=processor)
        assert len(embeddings.image_embeds) == 2

    def test_string_ids_are_numbered_the_same_on_both_sides(self, processor):
        rows = [
            {"image": random_image(seed), "caption": caption, "code": code}
            for seed, (caption, code) in enumerate([("a cat", "x"), ("a dog", "y"), ("a bird", "x")])
        ]
        _, embeddings = self.embed(rows, processor=processor, pair_id_column="code")
        assert embeddings.image_ids.tolist() == embeddings.text_ids.tolist() == [0, 1, 0]

    def test_captions_win_over_caption_unless_asked(self, processor):
        rows = [{"image": random_image(0), "caption": "a cat", "captions": ["a dog", "a bird", "a dog"]}]
        assert len(self.embed(rows, processor=processor)[1].text_embeds) == 2
        assert len(self.embed(rows, processor=processor, caption_column="caption")[1].text_embeds) == 1

    def test_modes_are_restored(self, clip, processor, captioned):
        clip.train()
        clip.vision_model.eval()  # a frozen tower
        before = {name: module.training for name, module in clip.named_modules()}
        assert len(set(before.values())) == 2
        first = embed_pairs(clip, captioned, processor, show_progress=False)
        assert {name: module.training for name, module in clip.named_modules()} == before
        # Dropout of 0.5 was off.
        assert torch.equal(first.text_embeds, embed_pairs(clip, captioned, processor, show_progress=False).text_embeds)

    def test_modes_are_restored_after_an_error(self, clip, processor):
        clip.train()
        with pytest.raises(ValueError, match="The image of row 1 cannot be read"):
            embed_pairs(
                clip,
                [{"image": random_image(0), "caption": "a cat"}, {"image": None, "caption": "a dog"}],
                processor,
                batch_size=1,
                show_progress=False,
            )
        assert all(module.training for module in clip.modules())

    def test_runs_without_gradient_under_the_callers_autocast(self, processor):
        rows = [{"image": random_image(0), "caption": "a cat"}]
        model, embeddings = self.embed(rows, processor=processor)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            self.embed(rows, model=model, processor=processor)
        assert model.modes == [(False, True, False), (False, True, True)]
        for tensor in embeddings[:-1]:
            assert not tensor.is_inference() and not tensor.requires_grad
        embeddings.image_embeds.mul_(1.0)  # an ordinary tensor
        assert embeddings.texts == ("a cat",)

    @pytest.mark.parametrize("dtype, expected", [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
    def test_follows_the_dtype_of_the_model(self, processor, dtype, expected):
        model, embeddings = self.embed(
            [{"image": random_image(0), "caption": "a cat"}], model=Recorder(dtype), processor=processor
        )
        assert model.images[0].dtype == dtype
        assert model.texts[0][0].dtype == torch.int64
        assert embeddings.image_embeds.dtype == embeddings.text_embeds.dtype == expected
        norms = torch.cat([embeddings.image_embeds, embeddings.text_embeds]).norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms))

    def test_inputs_that_a_tower_does_not_know_are_dropped(self):
        tokenizer = tiny_tokenizer(model_input_names=["input_ids", "token_type_ids", "attention_mask"])
        image_processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        processor = CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer)
        assert "token_type_ids" in processor(text="a cat", return_tensors="pt")
        model, _ = self.embed([{"image": random_image(0), "caption": "a cat"}], processor=processor)
        assert model.texts[0][1].tolist() == [[1, 1, 1, 1]]

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
    def test_images_of_every_mode_become_rgb(self, mode):
        # Image processors of plain vision models do not convert.
        image_processor = CLIPImageProcessor(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_convert_rgb=False
        )
        processor = CLIPProcessor(image_processor=image_processor, tokenizer=tiny_tokenizer())
        rows = [{"image": random_image(0, mode), "caption": "a"}, {"image": random_image(1), "caption": "a"}]
        model, _ = self.embed(rows, processor=processor)
        assert model.images[0].shape == (2, 3, 16, 16)

    def test_captions_are_padded_to_the_longest_and_masked(self, processor):
        rows = [{"image": random_image(0), "captions": ["a cat", "a big red cat sleeps"]}]
        model, _ = self.embed(rows, processor=processor)
        assert model.texts[0][1].sum(1).tolist() == [4, 7]
        assert model.texts[0][0].shape == (2, 7)

    def test_siglip_is_padded_to_full_length(self, processor):
        model = Recorder()
        model.config.model_type = "siglip"
        self.embed([{"image": random_image(0), "caption": "a cat"}], model=model, processor=processor)
        assert model.texts[0][0].shape == (1, 16)

    def test_what_the_processor_declares_comes_first(self):
        class Declaring(CLIPProcessor):
            text_kwargs = {"padding": "max_length", "max_length": 9}

        image_processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        processor = Declaring(image_processor=image_processor, tokenizer=tiny_tokenizer())
        rows = [{"image": random_image(0), "caption": "a cat " * 30}, {"image": random_image(1), "caption": "a"}]
        model, _ = self.embed(rows, processor=processor)
        assert model.texts[0][0].shape == (2, 9)
        model, _ = self.embed(rows[1:], processor=processor)
        assert model.texts[0][0].shape == (1, 9)
        model, _ = self.embed(rows, processor=processor, max_length=6)
        assert model.texts[0][0].shape == (2, 6)

    @pytest.mark.parametrize(
        "tokenizer_limit, model_limit, asked, expected",
        [(16, 12, None, 16), (None, 12, None, 12), (None, None, None, 62), (16, 12, 5, 5)],
    )
    def test_long_captions_are_cut(self, tokenizer_limit, model_limit, asked, expected):
        image_processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        processor = CLIPProcessor(image_processor=image_processor, tokenizer=tiny_tokenizer(tokenizer_limit))
        model = Recorder()
        if model_limit is not None:
            model.config.text_config = SimpleNamespace(max_position_embeddings=model_limit)
        rows = [{"image": random_image(0), "caption": "a cat " * 30}]
        self.embed(rows, model=model, processor=processor, max_length=asked)
        assert model.texts[0][0].shape == (1, expected)

    @pytest.mark.parametrize(
        "rows, kwargs, message",
        [
            ([], {}, "no rows"),
            (
                [{"picture": 1, "caption": "a"}],
                {},
                r"no column 'image', only \['caption', 'picture'\]: set `image_col",
            ),
            ([{"image": 1, "text": "a"}], {}, r"no column 'caption', only \['image', 'text'\]: set `caption_column`"),
            ([{"image": 1, "caption": "a"}], {"pair_id_column": "uid"}, "no column 'uid', only .*`pair_id_column`"),
            ([{"image": 1, "caption": "a"}], {}, "The image of row 0 cannot be read"),
            ([{"image": 1, "caption": None}], {}, "caption of row 0 must be a string or a list of strings, got None"),
            ([{"image": 1, "caption": ["a", 3]}], {}, "caption of row 0"),
            ([{"image": 1, "caption": "a", "pair_id": None}], {}, "pair id of row 0 must be an integer or a string"),
            ([{"image": 1, "caption": "a", "pair_id": 1.5}], {}, "pair id of row 0 .* got 1.5"),
            ([{"image": 1, "caption": "a"}], {"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ],
    )
    def test_rows_and_settings_that_cannot_work(self, processor, rows, kwargs, message):
        with pytest.raises(ValueError, match=message):
            self.embed(rows, processor=processor, **kwargs)

    def test_ids_of_two_kinds(self, processor):
        rows = [
            {"image": random_image(0), "caption": "a", "pair_id": "1"},
            {"image": random_image(1), "caption": "a", "pair_id": 1},
        ]
        with pytest.raises(ValueError, match="all integers or all strings"):
            self.embed(rows, processor=processor)

    def test_a_data_set_without_captions(self, processor):
        with pytest.raises(ValueError, match="no captions"):
            self.embed([{"image": random_image(0), "captions": []}], processor=processor)

    def test_a_model_that_is_no_dual_encoder(self, processor):
        with pytest.raises(TypeError, match="Linear has no `get_image_features`"):
            self.embed([{"image": random_image(0), "caption": "a"}], model=nn.Linear(2, 2), processor=processor)

    def test_a_model_that_does_not_pool(self, processor):
        model = Recorder()
        model.get_image_features = lambda pixel_values: pixel_values
        with pytest.raises(TypeError, match=r"get_image_features` must return a tensor of shape \(batch, dim\)"):
            self.embed([{"image": random_image(0), "caption": "a"}], model=model, processor=processor)
