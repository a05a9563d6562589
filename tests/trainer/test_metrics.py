# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The modules for `evaluate`: values worked out by hand, the library's own results, their cards, life without us."""

import configparser
import contextlib
import doctest
import importlib.util
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation import compute_retrieval_metrics


ROOT = Path(__file__).parent.parent.parent
METRICS = ROOT / "trainer" / "evaluation" / "metrics"
NAMES = ("contrastive_gap", "image_text_retrieval", "pointing_game", "vqa_accuracy")
CARD_SECTIONS = ["Metric description", "How to use", "Inputs", "Output values", "Limitations", "Citation"]


def compute(name, predictions, references, **options):
    """A fresh module without files, which an error leaves behind locked."""
    metric = evaluate.load(str(METRICS / name), keep_in_memory=True)
    return metric.compute(predictions=predictions, references=references, **options)


def script(name):
    """The script as a module, to reach its functions."""
    spec = importlib.util.spec_from_file_location(name, METRICS / name / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python_blocks(document):
    return re.findall(r"^```python\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What is added to a metric is written to a file until it is computed: not to the user's cache."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "cache")


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The folders under the name by which the examples load them, in the working directory."""
    shutil.copytree(METRICS, tmp_path / "path" / "to", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
class TestEachModule:
    def test_tells_what_it_is(self, name):
        metric = evaluate.load(str(METRICS / name))
        assert metric.name == name
        assert metric.module_type == "metric"
        assert metric.description and metric.inputs_description
        assert metric.inputs_description in metric.compute.__doc__
        assert metric.license == "Apache License 2.0"
        assert metric.reference_urls

    def test_examples_of_the_docstring_and_the_card_are_true(self, name, copied):
        blocks = [script(name)._KWARGS_DESCRIPTION, *python_blocks(METRICS / name / "README.md")]
        assert len(blocks) >= 3
        examples = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, name, None, None)
        runner = doctest.DocTestRunner(verbose=False)
        report = []
        runner.run(examples, out=report.append)
        assert runner.summarize(verbose=False).failed == 0, "".join(report)
        assert runner.tries > 5

    def test_card_has_its_sections_and_says_what_the_script_says(self, name):
        _, front, text = (METRICS / name / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        front = yaml.safe_load(front)
        assert {"title", "emoji", "colorFrom", "colorTo", "sdk", "description"} <= set(front)
        assert front["sdk"] == "gradio"
        assert {"evaluate", "metric"} <= set(front["tags"])
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == CARD_SECTIONS
        (citation,) = re.findall(r"^```bibtex\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert citation == script(name)._CITATION
        # Every argument that the script describes has a row in the card, and no other has.
        arguments = re.findall(r"^    (\w+) \(`", script(name)._KWARGS_DESCRIPTION, re.MULTILINE)
        inputs = text.split("## Inputs")[1].split("## Output values")[0]
        assert re.findall(r"^\| `(\w+)` \|", inputs, re.MULTILINE) == arguments

    def test_needs_nothing_but_numpy_and_the_libraries_of_evaluate(self, name):
        lines = (METRICS / name / f"{name}.py").read_text(encoding="utf-8").splitlines()
        imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
        assert imported <= {"collections", "datasets", "evaluate", "math", "numpy", "operator", "re", "typing"}

    def test_unknown_arguments_raise(self, name):
        sample = {"pointing_game": ([[1, 1]], [[0, 0, 2, 2]]), "vqa_accuracy": (["a"], [["b", "c"]])}
        predictions, references = sample.get(name, ([[1.0, 0.0]] * 2, [[1.0, 0.0]] * 2))
        with pytest.raises(TypeError, match="tolerence"):
            compute(name, predictions, references, tolerence=3)

    def test_other_numbers_of_predictions_and_references_raise(self, name):
        sample = {"pointing_game": ([[1, 1]], [[0, 0, 2, 2]]), "vqa_accuracy": (["a"], [["b", "c"]])}
        predictions, references = sample.get(name, ([[1.0, 0.0]], [[1.0, 0.0]]))
        with pytest.raises(ValueError, match=r"number of predictions \(2\) and references \(1\)"):
            compute(name, predictions * 2, references)

    def test_ships_with_the_package(self, name):
        config = configparser.ConfigParser()
        config.read(ROOT / "setup.cfg")
        patterns = config["options.package_data"]["trainer"].split()
        shipped = {path for pattern in patterns for path in (ROOT / "trainer").glob(pattern)}
        files = {METRICS / name / file for file in (f"{name}.py", "README.md")}
        assert files == {path for path in (METRICS / name).iterdir() if path.is_file()}
        assert files <= shipped


def test_every_folder_is_tested():
    assert sorted(path.name for path in METRICS.iterdir() if path.is_dir()) == list(NAMES)


def test_modules_work_where_only_the_libraries_are_installed(tmp_path):
    """In a new process, with copies of the folders and an empty cache; without this checkout and transformers."""
    code = """
        import importlib.util, json, sys
        sys.path = [place for place in sys.path if place not in ("", sys.argv[1])]

        class WithoutTransformers:
            @staticmethod
            def find_spec(name, *_):
                if name.split(".")[0] == "transformers":
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, WithoutTransformers)
        import evaluate

        rows, point, box = [[1.0, 0.0], [0.0, 1.0]], [[1, 1]], [[0, 0, 2, 2]]
        loaded = {name: evaluate.load(f"copies/{name}") for name in sys.argv[2:]}
        results = {
            "contrastive_gap": loaded["contrastive_gap"].compute(predictions=rows, references=rows),
            "image_text_retrieval": loaded["image_text_retrieval"].compute(predictions=rows, references=rows),
            "pointing_game": loaded["pointing_game"].compute(predictions=point, references=box),
            "vqa_accuracy": loaded["vqa_accuracy"].compute(predictions=["a"], references=[["a"] * 10]),
        }
        ours = [importlib.util.find_spec(package) is not None for package in ("trainer", "modeling_sacl", "hub_cards")]
        print(json.dumps({"ours": any(ours), "results": results}))
    """
    shutil.copytree(METRICS, tmp_path / "copies", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {
        key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("HF_")
    }
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", re.sub(r"^ {8}", "", code, flags=re.MULTILINE), str(ROOT), *NAMES],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    printed = json.loads(run.stdout.splitlines()[-1])
    assert not printed["ours"]
    assert printed["results"]["image_text_retrieval"]["mean_recall"] == 100.0
    assert printed["results"]["contrastive_gap"]["modality_gap"] == 0.0
    assert printed["results"]["pointing_game"] == printed["results"]["vqa_accuracy"] == {"accuracy": 100.0}


def test_the_page_shows_what_its_code_prints(monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = python_blocks(ROOT / "docs" / "metrics.md")
    assert len(blocks) >= len(NAMES)
    for block in blocks:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block, "metrics.md", "exec"), {})
        assert printed.getvalue().splitlines() == re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)


# --------------------------------------------------------------------------------------------------------------------
# Retrieval
# --------------------------------------------------------------------------------------------------------------------


def cosines(queries, candidates):
    """As the library sees them: rounded to the resolution of float32 near 1."""
    return (queries.double() @ candidates.double().T * 2**24).round() / 2**24


class TestImageTextRetrieval:
    def test_values_worked_out_by_hand(self):
        scores = [
            [0.9, 0.8, 0.7, 0.6],  # match in place 1
            [0.1, 0.2, 0.3, 0.4],  # matches in places 4 and 2: the best counts
            [0.5, 0.9, 0.5, 0.1],  # match in place 2 or 3 by the tie: 3
            [0.0, 0.0, 0.0, 0.0],  # all tied with three that do not match: 4
        ]
        grades = [[1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
        results = compute("image_text_retrieval", scores, grades, ks=[1, 2, 3], ndcg_cutoff=3)
        # Ranks 1, 2, 3, 4. Discounts 1, log2(3)^-1 = 0.63093, 0.5; the fourth place is beyond the cut-off.
        # DCG: 1; 0.63093 of at best 1.63093; 0.5; 0.
        assert results == pytest.approx(
            {
                "recall@1": 25.0,
                "recall@2": 50.0,
                "recall@3": 75.0,
                "ndcg@3": 100 * (1 + 0.6309298 / 1.6309298 + 0.5 + 0) / 4,
                "median_rank": 2.5,
                "mean_rank": 2.5,
                "mean_recall": 50.0,
            }
        )
        assert all(type(value) is float for value in results.values())

    def test_grades_below_one_count_for_ndcg_alone(self):
        # Ranking: 0.5, 1, 0, 0.25. DCG 0.5 + 0.63093 + 0 + 0.25 * 0.43068, ideal 1 + 0.5 * 0.63093 + 0.25 * 0.5.
        results = compute("image_text_retrieval", [[4, 3, 2, 1]], [[0.5, 1.0, 0.0, 0.25]], ks=[1])
        assert results["recall@1"] == 0.0
        assert results["mean_rank"] == 2.0
        assert results["ndcg@10"] == pytest.approx(100 * 1.238600 / 1.440465, abs=1e-3)

    def test_ndcg_takes_the_worst_order_among_equals(self):
        worst = (0.5 + 1 / math.log2(3)) / (1 + 0.5 / math.log2(3))
        for grades in ([1.0, 0.5, 0.0], [0.5, 1.0, 0.0]):
            results = compute("image_text_retrieval", [[0.7, 0.7, 0.1]], [grades])
            assert results["ndcg@10"] == pytest.approx(100 * worst)
            assert results["mean_rank"] == 2.0

    def test_candidates_that_were_not_considered_come_last(self):
        results = compute("image_text_retrieval", [[-math.inf, -5.0, -math.inf]], [[1, 0, 0]])
        assert results["mean_rank"] == 3.0

    @given(data=st.data())
    @settings(max_examples=25, deadline=None)
    def test_agrees_with_the_library(self, data):
        # Corners of a cube have exact cosines, so that ties are everywhere.
        corners = st.lists(st.sampled_from([-0.5, 0.5]), min_size=4, max_size=4)
        sides = [data.draw(st.lists(st.tuples(corners, st.integers(0, 3)), min_size=1, max_size=13)) for _ in range(2)]
        (images, image_ids), (texts, text_ids) = (
            (torch.tensor([corner for corner, _ in side]), torch.tensor([pair for _, pair in side])) for side in sides
        )
        text_ids[0] = image_ids[0]
        rows = st.lists(st.sampled_from([0.0, 0.25, 0.5]), min_size=len(texts), max_size=len(texts))
        grades = torch.tensor(data.draw(st.lists(rows, min_size=len(images), max_size=len(images))))
        grades[image_ids[:, None] == text_ids[None, :]] = 1.0
        ks = data.draw(st.sampled_from([(1, 5, 10), (2,), (1, 3)]))
        self.compare(images, texts, image_ids, text_ids, grades, ks)

    @pytest.mark.parametrize("seed", range(3))
    def test_agrees_with_the_library_on_random_embeddings(self, seed):
        generator = torch.Generator().manual_seed(seed)
        images, texts = (
            torch.nn.functional.normalize(torch.randn(rows, 6, generator=generator), dim=-1) for rows in (37, 53)
        )
        texts[::4] = texts[1]  # repeated embeddings
        image_ids, text_ids = (torch.randint(15, (rows,), generator=generator) for rows in (37, 53))
        grades = torch.randint(4, (37, 53), generator=generator) / 4
        grades[image_ids[:, None] == text_ids[None, :]] = 1.0
        self.compare(images, texts, image_ids, text_ids, grades, ks=(1, 5, 10))

    @staticmethod
    def compare(images, texts, image_ids, text_ids, grades, ks):
        expected = compute_retrieval_metrics(
            images, texts, image_ids, text_ids, relevance=lambda i, t: grades[i[:, None], t[None, :]], ks=ks
        )
        for direction, scores, relevance in (
            ("image_to_text", cosines(images, texts), grades),
            ("text_to_image", cosines(texts, images), grades.T),
        ):
            results = compute("image_text_retrieval", scores, relevance, ks=ks)
            results.pop("mean_recall")  # the library's is that of both directions
            named = {name: value for name, value in expected.items() if name.startswith(direction)}
            assert {f"{direction}_{name}": value for name, value in results.items()} == pytest.approx(named)

    def test_batches_are_one_whole(self):
        generator = np.random.default_rng(0)
        scores, grades = generator.random((7, 5)), np.eye(7, 5) + 0.5 * np.eye(7, 5, k=1)
        metric = evaluate.load(str(METRICS / "image_text_retrieval"))
        for rows in (slice(0, 3), slice(3, 7)):
            metric.add_batch(predictions=scores[rows], references=grades[rows])
        whole = compute("image_text_retrieval", scores, grades)
        assert metric.compute() == whole
        assert whole["queries_without_match"] == 2.0

    def test_queries_without_match_are_left_out_and_counted(self):
        results = compute("image_text_retrieval", [[1, 0], [1, 0], [1, 0]], [[1, 0], [0, 0.5], [0, 0]], ks=[1])
        # The second has an nDCG, of 0.63093; the third has none.
        assert results == pytest.approx(
            {
                "recall@1": 100.0,
                "ndcg@10": 100 * (1 + 0.6309298) / 2,
                "median_rank": 1.0,
                "mean_rank": 1.0,
                "mean_recall": 100.0,
                "queries_without_match": 2.0,
            }
        )

    def test_mean_rank_variance_worked_out_by_hand(self):
        # Ranks of two questions in three languages: 1, 2, 3 with mean 2, variance (1 + 0 + 1) / 3; and 2, 2, 2 with 0.
        scores = {1: [3, 2, 1], 2: [2, 3, 1], 3: [1, 3, 2]}
        asked = [
            ("dog", "en", 1),
            ("cat", "en", 2),
            ("dog", "de", 2),
            ("cat", "de", 2),
            ("cat", "fr", 2),
            ("dog", "fr", 3),
        ]
        results = compute(
            "image_text_retrieval",
            [scores[rank] for _, _, rank in asked],
            [[1, 0, 0]] * len(asked),
            languages=[language for _, language, _ in asked],
            query_ids=[question for question, _, _ in asked],
        )
        assert results["mean_rank_variance"] == pytest.approx((2 / 3 + 0) / 2)
        assert results["mean_rank"] == 2.0

    def test_questions_without_match_have_no_variance(self):
        results = compute(
            "image_text_retrieval",
            [[1, 0], [0, 1], [1, 0], [1, 0]],
            [[1, 0], [1, 0], [1, 0], [0, 0]],
            languages=np.array(["en", "de", "en", "de"]),
            query_ids=torch.tensor([0, 0, 1, 1]),
        )
        assert results["mean_rank_variance"] == 0.25  # of the ranks 1 and 2

    @pytest.mark.parametrize(
        ("predictions", "references", "options", "message"),
        [
            ([], [], {}, "no queries"),
            ([[1.0, math.nan]], [[1, 0]], {}, r"Row 0 of `predictions` has the score nan for candidate 1"),
            ([[1.0, None]], [[1, 0]], {}, r"Row 0 of `predictions` has the score nan for candidate 1"),
            ([[1.0, math.inf]], [[1, 0]], {}, r"Row 0 of `predictions` has the score inf"),
            ([[1, 0]], [[2, 0]], {}, r"Row 0 of `references` has the grade 2.0 for candidate 0.*Divide"),
            ([[1, 0]], [[-0.1, 1]], {}, r"grade -0.1 for candidate 0"),
            ([[1, 0]], [[math.nan, 1]], {}, r"grade nan for candidate 0"),
            ([[1, 0]], [[0.9, 0]], {}, "No query has a matching candidate"),
            ([[1, 0], [1]], [[1, 0], [1]], {}, "Row 1 of `predictions` has 1 candidates, but row 0 .* has 2"),
            ([[1, 0]], [[1, 0, 0]], {}, "Row 0 of `references` has 3 candidates, but row 0 .* has 2"),
            ([[]], [[]], {}, "has 0 candidates"),
            ([[1, 0]], [[1, 0]], {"ks": []}, "`ks` must hold at least one"),
            ([[1, 0]], [[1, 0]], {"ks": [0, 1]}, r"each at least 1, got \(0, 1\)"),
            ([[1, 0]], [[1, 0]], {"ndcg_cutoff": 0}, "`ndcg_cutoff` must be at least 1, got 0"),
            ([[1, 0]], [[1, 0]], {"languages": ["en"]}, "`languages` without `query_ids`"),
            ([[1, 0]], [[1, 0]], {"query_ids": [1]}, "`query_ids` without `languages`"),
            ([[1, 0]], [[1, 0]], {"languages": ["en"], "query_ids": [1, 2]}, "`query_ids` has 2 entries for 1"),
            (
                [[1, 0]] * 2,
                [[1, 0]] * 2,
                {"languages": ["en"] * 2, "query_ids": [1, 2]},
                "in the language 'en': .* two",
            ),
            ([[1, 0]] * 2, [[1, 0]] * 2, {"languages": ["en"] * 2, "query_ids": [1, 1]}, "at least two"),
            (
                [[1, 0]] * 3,
                [[1, 0]] * 3,
                {"languages": ["en", "de", "de"], "query_ids": [1, 1, 1]},
                "id 1 comes twice in the language 'de'",
            ),
            (
                [[1, 0]] * 3,
                [[1, 0]] * 3,
                {"languages": ["en", "de", "de"], "query_ids": ["a", "a", "b"]},
                r"id 'b' has no query in \['en'\]",
            ),
            (
                [[1, 0]] * 3,
                [[1, 0]] + [[0, 0]] * 2,
                {"languages": ["en", "de", "fr"], "query_ids": [1, 1, 1]},
                "No query has a matching candidate in every language",
            ),
        ],
    )
    def test_bad_input(self, predictions, references, options, message):
        with pytest.raises(ValueError, match=message):
            compute("image_text_retrieval", predictions, references, **options)


# --------------------------------------------------------------------------------------------------------------------
# Visual question answering
# --------------------------------------------------------------------------------------------------------------------


class TestVqaAccuracy:
    @pytest.mark.parametrize(
        ("matching", "people", "expected"),
        [
            (0, 10, 0.0),
            (1, 10, 30.0),  # 9 times a third, once nothing
            (2, 10, 60.0),  # 8 times two thirds, twice a third
            (3, 10, 90.0),  # 7 times all, three times two thirds
            (4, 10, 100.0),
            (10, 10, 100.0),
            (2, 4, 50.0),  # twice a third, twice two thirds
            (2, 2, 100 / 3),  # one other remains
            (3, 3, 200 / 3),
        ],
    )
    def test_values_worked_out_by_hand(self, matching, people, expected):
        answers = ["red"] * matching + ["blue"] * (people - matching)
        assert compute("vqa_accuracy", ["red"], [answers])["accuracy"] == pytest.approx(expected)

    @given(
        answers=st.lists(st.sampled_from(["red", "blue", "The red", "dont", "don't"]), min_size=2, max_size=11),
        prediction=st.sampled_from(["red", "dont", "green"]),
        normalize=st.booleans(),
    )
    @settings(max_examples=50, deadline=None)
    def test_is_the_mean_over_the_people_left_out(self, answers, prediction, normalize):
        vqa = script("vqa_accuracy")
        expected = vqa.normalize_answer if normalize and len(set(answers)) > 1 else str
        scores = []
        for left_out in range(len(answers)):
            others = [answer for place, answer in enumerate(answers) if place != left_out]
            scores.append(min(sum(expected(answer) == expected(prediction) for answer in others) / 3, 1))
        found = vqa._accuracy(0, prediction, answers, normalize)
        assert found == pytest.approx(sum(scores) / len(scores))

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            ("The Red bus", "red bus"),
            ("an apple on a table", "apple on table"),
            ("None", "0"),
            ("two dogs and ten cats", "2 dogs and 10 cats"),
            ("eleven", "eleven"),
            ("  left   side ", "left side"),
            # Signs: beside a space they go, and with them all of their kind; between letters they become a space.
            ("yes, it is", "yes it is"),
            ("yes,it,is", "yes it is"),
            ("x-ray - scan", "xray scan"),
            ("x-ray", "x ray"),
            ("stop!", "stop"),  # the space in place of the sign is at the end
            ("what?no", "what no"),
            ("a/b [c] {d}", "a/b c d".replace("a/b", "b")),  # "a/b" becomes "a b", of which "a" is an article
            ("man @home", "man home"),
            # With a comma between digits, all signs go.
            ("1,000", "1000"),
            ("1,000-2,000", "10002000"),
            ("10:30", "10:30"),
            ("50%", "50%"),
            # A period stays before a digit alone.
            ("3.5", "3.5"),
            (".5", ".5"),
            ("3.", "3"),
            ("u.s.a.", "usa"),
            ("st. john", "st john"),
            ("." * 33 + "x", ".x"),  # the official code takes 32 at most
            # Contractions: one missing apostrophe is found.
            ("dont", "don't"),
            ("Dont know", "don't know"),
            ("couldnt've", "couldn't've"),
            ("couldn'tve", "couldn't've"),
            ("couldntve", "couldntve"),
            ("yall'd've", "y'all'd've"),
            ("oclock", "o'clock"),
            ("twas", "'twas"),
            ("somebody'd", "somebodyd"),
            ("Im", "im"),
            ("lets", "lets"),
            ("its", "its"),
            ("shes", "shes"),
            ("man's", "man's"),
        ],
    )
    def test_normalisation(self, answer, expected):
        assert script("vqa_accuracy").normalize_answer(answer) == expected

    def test_nothing_is_normalised_where_people_agree(self):
        assert compute("vqa_accuracy", ["Yes"], [["yes"] * 10])["accuracy"] == 0.0
        assert compute("vqa_accuracy", ["the bus"], [["The bus"] * 10])["accuracy"] == 0.0
        # They agree but for white space at the ends.
        assert compute("vqa_accuracy", ["Yes"], [["yes"] * 9 + ["yes\n"]])["accuracy"] == 0.0
        assert compute("vqa_accuracy", ["yes\t"], [["yes"] * 9 + [" yes"]])["accuracy"] == 100.0
        # "Yes." makes the difference, and is the same once normalised.
        assert compute("vqa_accuracy", ["YES"], [["yes"] * 9 + ["Yes."]])["accuracy"] == 100.0

    def test_normalisation_can_be_switched_off(self):
        answers = [["the bus"] * 4 + ["Bus"] * 3 + ["bus"] * 3]
        assert compute("vqa_accuracy", ["bus"], answers)["accuracy"] == 100.0
        assert compute("vqa_accuracy", ["bus"], answers, normalize=False)["accuracy"] == pytest.approx(90.0)

    def test_types_are_averaged_apart(self):
        results = compute(
            "vqa_accuracy",
            ["yes", "red", "2", "no"],
            [["yes"] * 10, ["blue"] * 10, ["2"] + ["3"] * 9, ["no"] * 10],
            question_types=["is", "what", "how many", "is"],
            answer_types=["yes/no", "other", "number", "yes/no"],
        )
        assert results["accuracy"] == pytest.approx((100 + 0 + 30 + 100) / 4)
        assert results["accuracy_by_question_type"] == pytest.approx({"is": 100.0, "what": 0.0, "how many": 30.0})
        assert results["accuracy_by_answer_type"] == pytest.approx({"yes/no": 100.0, "other": 0.0, "number": 30.0})

    def test_batches_are_one_whole(self):
        metric = evaluate.load(str(METRICS / "vqa_accuracy"))
        metric.add(prediction="red", reference=["red", "blue", "red"])
        metric.add_batch(predictions=["a dog", "cat"], references=[["dog", "cat"], ["cat"] * 10])
        # 2 of 3: (1/3 + 1/3 + 2/3) / 3; 1 of 2: (0 + 1/3) / 2; all.
        assert metric.compute()["accuracy"] == pytest.approx(100 * (4 / 9 + 1 / 6 + 1) / 3)

    @pytest.mark.parametrize(
        ("predictions", "references", "options", "message"),
        [
            ([], [], {}, "no questions"),
            (["a"], [["a"]], {}, r"Row 0 of `references` is \['a'\].*at least two people"),
            (["a", "b"], [["a", "b"], []], {}, r"Row 1 of `references` is \[\]"),
            (["a"], [["a", None]], {}, "Row 0 of `references` is"),
            (["a", None], [["a", "b"]] * 2, {}, "Row 1 of `predictions` is None: pass an empty string"),
            (["a"], ["a"], {}, "expected a list"),
            (["a"], [["a", "b"]], {"normalize": "always"}, "`normalize` must be True or False, got 'always'"),
            (["a"], [["a", "b"]], {"answer_types": ["x", "y"]}, "`answer_types` has 2 entries for 1 questions"),
            (["a"], [["a", "b"]], {"question_types": [3]}, "`question_types` must hold strings, got 3"),
        ],
    )
    def test_bad_input(self, predictions, references, options, message):
        with pytest.raises(ValueError, match=message):
            compute("vqa_accuracy", predictions, references, **options)


# --------------------------------------------------------------------------------------------------------------------
# The pointing game
# --------------------------------------------------------------------------------------------------------------------


class TestPointingGame:
    @pytest.mark.parametrize(
        ("point", "distance"),
        [
            ([20, 15], 0),  # inside
            ([10, 10], 0),  # the corners and edges belong to it
            ([30, 20], 0),
            ([30, 15], 0),
            ([31, 15], 1),  # right
            ([8.5, 15], 1.5),  # left
            ([20, 7], 3),  # above
            ([20, 24], 4),  # below
            ([33, 24], 5),  # 3 right and 4 below
            ([4, 2], 10),  # 6 left and 8 above
        ],
    )
    def test_points_around_a_box(self, point, distance):
        for tolerance in (0, 1, 1.5, 3, 4, 4.99, 5, 10):
            results = compute("pointing_game", [point], [[10, 10, 30, 20]], tolerance=tolerance)
            assert results == {"accuracy": 100.0 if distance <= tolerance else 0.0}

    def test_x_comes_before_y(self):
        # A wide, low box: (40, 5) is in it and (5, 40) is not.
        assert compute("pointing_game", [[40, 5], [5, 40]], [[0, 0, 50, 10]] * 2) == {"accuracy": 50.0}

    def test_any_of_several_boxes_is_a_hit(self):
        boxes = [[[0, 0, 10, 10], [80, 80, 90, 90]], [[0, 0, 10, 10]], [[0, 0, 10, 10], [20, 20, 30, 30]]]
        assert compute("pointing_game", [[85, 85], [5, 5], [15, 15]], boxes) == {"accuracy": pytest.approx(200 / 3)}

    def test_agrees_with_a_mask_of_pixels(self):
        """The object drawn pixel by pixel, and a disc around the point: whether they meet."""
        generator = np.random.default_rng(0)
        rows, columns = np.mgrid[:40, :60]
        for _ in range(30):
            x, y = generator.integers(60), generator.integers(40)
            x0, x1 = np.sort(generator.integers(60, size=2))
            y0, y1 = np.sort(generator.integers(40, size=2))
            mask = (columns >= x0) & (columns <= x1) & (rows >= y0) & (rows <= y1)
            near = (columns - x) ** 2 + (rows - y) ** 2 <= 7**2
            hit = compute("pointing_game", [[x, y]], [[x0, y0, x1, y1]], tolerance=7)["accuracy"] == 100.0
            assert hit == (mask & near).any()

    def test_labels_weigh_the_same(self):
        results = compute(
            "pointing_game",
            [[5, 5], [5, 5], [5, 5], [50, 50]],
            [[0, 0, 9, 9]] * 4,
            labels=np.array([7, 7, 7, 2]),
        )
        assert results == {"accuracy": 75.0, "accuracy_by_label": {7: 100.0, 2: 0.0}, "mean_label_accuracy": 50.0}

    def test_batches_are_one_whole(self):
        metric = evaluate.load(str(METRICS / "pointing_game"))
        metric.add_batch(predictions=torch.tensor([[5.0, 5.0]]), references=torch.tensor([[0.0, 0.0, 9.0, 9.0]]))
        metric.add_batch(predictions=[[50, 5]], references=[[0, 0, 9, 9]])
        assert metric.compute(labels=["a", "b"])["accuracy_by_label"] == {"a": 100.0, "b": 0.0}

    @pytest.mark.parametrize(
        ("points", "boxes", "options", "message"),
        [
            ([[1, 2, 3]], [[0, 0, 9, 9]], {}, r"Row 0 of `predictions` is \[1.0, 2.0, 3.0\]: .* a point \[x, y\]"),
            ([[1, math.nan]], [[0, 0, 9, 9]], {}, r"Row 0 of `predictions` is \[1.0, nan\]"),
            ([[1, None]], [[0, 0, 9, 9]], {}, r"Row 0 of `predictions` is \[1.0, nan\]"),
            ([[1, 2], [3, 4]], [[[0, 0, 9, 9]], []], {}, "Row 1 of `references` has no box: leave out"),
            (
                [[1, 2]],
                [[10, 10, 5, 20]],
                {},
                r"has the box \[10.0, 10.0, 5.0, 20.0\].*Of \[x, y, width, height\] make",
            ),
            ([[1, 2]], [[10, 10, 20, 5]], {}, "x0 <= x1 and y0 <= y1"),
            ([[1, 2]], [[0, 0, 9]], {}, r"has the box \[0.0, 0.0, 9.0\]"),
            ([[1, 2]], [[[0, 0, 9, math.inf]]], {}, r"has the box \[0.0, 0.0, 9.0, inf\]"),
            (
                [[1, 2]],
                [[0, 0, 9, 9]],
                {"tolerance": -1},
                "`tolerance` must be a number of pixels, at least 0, got -1",
            ),
            ([[1, 2]], [[0, 0, 9, 9]], {"tolerance": math.nan}, "got nan"),
            ([[1, 2]], [[0, 0, 9, 9]], {"labels": ["a", "b"]}, "`labels` has 2 entries for 1 points"),
            ([[1, 2]] * 2, [[0, 0, 9, 9], [[0, 0, 9, 9]]], {}, "don't match the expected format"),
        ],
    )
    def test_bad_input(self, points, boxes, options, message):
        with pytest.raises(ValueError, match=message):
            compute("pointing_game", points, boxes, **options)


# --------------------------------------------------------------------------------------------------------------------
# The contrastive gap
# --------------------------------------------------------------------------------------------------------------------


def on_the_sphere(generator, rows, dim, towards=0.0):
    """Random directions, drawn towards or away from the first axis."""
    points = generator.standard_normal((rows, dim))
    points[:, 0] += towards
    return points / np.linalg.norm(points, axis=1, keepdims=True)


class TestContrastiveGap:
    def test_values_worked_out_by_hand(self):
        images = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
        texts = [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]
        results = compute("contrastive_gap", images, texts)
        # Squared distances of the pairs 2, 0, 2; of the images 2, 2, 4; of the texts 0.
        assert results["alignment"] == pytest.approx(4 / 3)
        assert results["image_uniformity"] == pytest.approx(math.log((2 * math.exp(-4) + math.exp(-8)) / 3))
        assert results["text_uniformity"] == pytest.approx(0.0)
        # The means are (0, 1/3) and (0, 1).
        assert results["modality_gap"] == pytest.approx(2 / 3)
        assert all(type(value) is float for value in results.values())

    def test_alpha_and_t(self):
        results = compute("contrastive_gap", [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]], alpha=1, t=3)
        assert results["alignment"] == pytest.approx((math.sqrt(2) + 0) / 2)
        assert results["image_uniformity"] == pytest.approx(-6.0)

    def test_large_t_does_not_vanish(self):
        """exp(-4000) is 0 in float64; its logarithm is not."""
        assert compute("contrastive_gap", [[1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0]] * 2, t=1000)[
            "image_uniformity"
        ] == pytest.approx(-4000.0)

    @pytest.mark.parametrize("chunk_size", [1, 3, 10, 11, 1024])
    def test_agrees_with_loops_whatever_the_chunks(self, chunk_size):
        generator = np.random.default_rng(0)
        images, texts = on_the_sphere(generator, 11, 5), on_the_sphere(generator, 11, 5, towards=1.0)
        results = compute("contrastive_gap", images, texts, chunk_size=chunk_size)
        for name, side in (("image_uniformity", images), ("text_uniformity", texts)):
            potentials = [math.exp(-2 * ((x - y) ** 2).sum()) for x, y in combinations(side, 2)]
            assert results[name] == pytest.approx(math.log(sum(potentials) / len(potentials)))
        pairs = zip(images, texts, strict=True)
        assert results["alignment"] == pytest.approx(np.mean([((x - y) ** 2).sum() for x, y in pairs]))

    def test_blocks_of_distances_are_bounded(self):
        gap = script("contrastive_gap")
        sizes = [block.shape for block in gap._exponents(np.eye(10), t=2.0, chunk_size=4)]
        assert max(rows * columns for rows, columns in sizes) == 16
        assert sum(rows * columns for rows, columns in sizes) == 100

    def test_separable_sides_are_separated(self):
        angles = np.linspace(-1, 1, 40)
        images = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        for seed in range(3):
            assert compute("contrastive_gap", images, -images, seed=seed)["linear_separability"] == 100.0

    def test_equal_sides_cannot_be_told_apart(self):
        images = on_the_sphere(np.random.default_rng(0), 40, 8)
        results = compute("contrastive_gap", images, images)
        assert results["linear_separability"] == 50.0
        assert results["alignment"] == results["modality_gap"] == 0.0

    def test_sides_of_one_distribution_are_near_chance(self):
        generator = np.random.default_rng(0)
        images, texts = on_the_sphere(generator, 1000, 4), on_the_sphere(generator, 1000, 4)
        found = compute("contrastive_gap", images, texts)["linear_separability"]
        assert abs(found - 50) < 4 * 50 / math.sqrt(1000)  # four standard errors

    def test_a_gap_is_seen_where_the_spread_is_small(self):
        """Means that are near each other: only a classifier that knows the spread finds the direction between them."""
        generator = np.random.default_rng(0)
        rows = generator.standard_normal((400, 6)) * [3, 3, 3, 3, 3, 0]
        rows[:, 5] = np.repeat([0.3, -0.3], 200)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        results = compute("contrastive_gap", rows[:200], rows[200:], ridge=1e-6)
        assert results["modality_gap"] < 0.3
        assert results["linear_separability"] == 100.0

    def test_classifier_is_ridge_regression(self):
        """The same as least squares on the targets +1 and -1 with an intercept and rows for the penalty."""
        generator = np.random.default_rng(1)
        images, texts = on_the_sphere(generator, 60, 5, towards=0.5), on_the_sphere(generator, 60, 5, towards=-0.5)
        order = np.random.default_rng(3).permutation(60)
        test, train = order[:30], order[30:]
        rows, targets = np.concatenate([images[train], texts[train]]), np.repeat([1.0, -1.0], 30)
        penalty = 0.5 * rows.var(axis=0).mean() * len(rows)
        design = np.block([[rows, np.ones((60, 1))], [math.sqrt(penalty) * np.eye(5), np.zeros((5, 1))]])
        *direction, intercept = np.linalg.lstsq(design, np.concatenate([targets, np.zeros(5)]), rcond=None)[0]
        right = (images[test] @ direction + intercept > 0).sum() + (texts[test] @ direction + intercept < 0).sum()
        found = compute("contrastive_gap", images, texts, ridge=0.5, seed=3)["linear_separability"]
        assert found == pytest.approx(100 * right / 60)
        assert 50 < found < 100

    def test_more_dimensions_than_pairs(self):
        generator = np.random.default_rng(0)
        images, texts = on_the_sphere(generator, 6, 32, towards=20.0), on_the_sphere(generator, 6, 32, towards=-20.0)
        assert compute("contrastive_gap", images, texts)["linear_separability"] == 100.0

    def test_batches_are_one_whole(self):
        generator = np.random.default_rng(0)
        images, texts = on_the_sphere(generator, 9, 3), on_the_sphere(generator, 9, 3)
        metric = evaluate.load(str(METRICS / "contrastive_gap"))
        for rows in (slice(0, 4), slice(4, 9)):
            metric.add_batch(predictions=images[rows], references=texts[rows])
        assert metric.compute() == compute("contrastive_gap", images, texts)

    @pytest.mark.parametrize(
        ("images", "texts", "options", "message"),
        [
            ([[1.0, 0.0]], [[1.0, 0.0]], {}, "`predictions` has 1 rows: at least two pairs"),
            ([[1.0, 0.0]] * 2, [[1.0, 0.0, 0.0]] * 2, {}, "2 dimensions and `references` 3"),
            ([[1.0, 0.0], [1.0]], [[1.0, 0.0]] * 2, {}, r"`predictions` has rows of \[1, 2\] numbers"),
            ([[]] * 2, [[]] * 2, {}, r"rows of \[0\] numbers"),
            (
                [[1.0, 0.0]] * 2,
                [[1.0, 0.0], [3.0, 4.0]],
                {},
                "`references` must be L2-normalised, but row 1 has length 5",
            ),
            ([[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0]] * 2, {}, "row 1 has length 0"),
            (
                [[1.0, 0.0], [1.0, math.nan]],
                [[1.0, 0.0]] * 2,
                {},
                "Row 1 of `predictions` has a number that is missing",
            ),
            ([[1.0, 0.0], [1.0, None]], [[1.0, 0.0]] * 2, {}, "Row 1 of `predictions` has a number that is missing"),
            ([[1.0, 0.0]] * 2, [[1.0, 0.0]] * 2, {"alpha": 0}, "`alpha` must be a positive number, got 0"),
            ([[1.0, 0.0]] * 2, [[1.0, 0.0]] * 2, {"t": -1}, "`t` must be a positive number, got -1"),
            ([[1.0, 0.0]] * 2, [[1.0, 0.0]] * 2, {"ridge": math.inf}, "`ridge` must be a positive number, got inf"),
            ([[1.0, 0.0]] * 2, [[1.0, 0.0]] * 2, {"chunk_size": 0}, "`chunk_size` must be at least 1, got 0"),
            ([[1.0, 0.0]] * 2, [[1.0, 0.0]] * 2, {"seed": -1}, "`seed` must be at least 0, got -1"),
        ],
    )
    def test_bad_input(self, images, texts, options, message):
        with pytest.raises(ValueError, match=message):
            compute("contrastive_gap", images, texts, **options)
