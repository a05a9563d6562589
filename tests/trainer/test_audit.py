# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The audit: what was planted is found, nothing else is, and a plain loop over everything agrees."""

import json
import re
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from torch import nn

from trainer.audit import audit_pairs
from trainer.audit_report import FALSE_NEGATIVE, KINDS, SIMILAR_IMAGES, SIMILAR_TEXTS
from trainer.guide import Guide


ROOT = Path(__file__).parent.parent.parent
sys.path.append(str(ROOT / "examples"))

DIM = 48  # 4 x 4 blocks of three colours


def picture(colors: np.ndarray) -> PIL.Image.Image:
    """Blocks of colour: an image whose embedding is known."""
    blocks = (colors.reshape(4, 4, 3) * 255).round().astype(np.uint8)
    return PIL.Image.fromarray(blocks).resize((64, 64), PIL.Image.Resampling.NEAREST)


def pooled(image: PIL.Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((4, 4), PIL.Image.Resampling.BOX), dtype=np.float32) / 255 - 0.5


class ByEye(nn.Module):
    """A dual encoder without weights: an image is its colours, a text what the processor knows of it."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def get_image_features(self, pixel_values):
        return pixel_values

    def get_text_features(self, input_ids):
        return input_ids


class Knowing:
    """A processor that knows how each text is embedded, whatever its case and full stop; others by a hash."""

    def __init__(self, texts: dict[str, np.ndarray]):
        self.texts = {self.plain(text): embed for text, embed in texts.items()}

    @staticmethod
    def plain(text: str) -> str:
        return text.casefold().rstrip(".")

    def embed(self, text: str) -> np.ndarray:
        text = self.plain(text)
        seed = np.random.default_rng(zlib.crc32(text.encode()))
        return self.texts.get(text, seed.standard_normal(DIM)).astype(np.float32)

    def __call__(self, images=None, text=None, **_):
        if images is not None:
            return {"pixel_values": torch.tensor(np.stack([pooled(image).reshape(-1) for image in images]))}
        return {"input_ids": torch.tensor(np.stack([self.embed(each) for each in text]))}


def make_pairs(count: int, noise: float = 0.1, seed: int = 0) -> tuple[list[np.ndarray], list[str], Knowing]:
    """Images, their texts, and a processor that puts each text near its image."""
    chance = np.random.default_rng(seed)
    colors = list(chance.random((count, DIM)))
    texts = [f"pair {number}" for number in range(count)]
    near = {text: each - 0.5 + noise * chance.standard_normal(DIM) for text, each in zip(texts, colors, strict=True)}
    return colors, texts, Knowing(near)


def make_dataset(colors, texts, ids=None) -> Dataset:
    columns = {"image": [picture(each) for each in colors], "caption": list(texts)}
    features = {"image": Image(), "caption": Value("string")}
    if ids is not None:
        columns["pair_id"] = list(ids)
        features["pair_id"] = Value("string" if isinstance(columns["pair_id"][0], str) else "int64")
    return Dataset.from_dict(columns, features=Features(features))


def audit(dataset, processor, **options):
    return audit_pairs(dataset, ByEye(), processor, **{"show_progress": False, "batch_size": 16, **options})


def rows_of(report, kind) -> set[tuple[int, int]]:
    return {(finding.first_row, finding.second_row) for finding in report.of_kind(kind)}


class TestPlanted:
    def test_nothing_is_found_among_unrelated_pairs(self):
        colors, texts, processor = make_pairs(40)
        report = audit(make_dataset(colors, texts), processor)
        assert report.summary["counts"] == dict.fromkeys(KINDS, 0)
        assert report.findings == [] and report.summary["pairs_with_false_negative"] == 0
        assert report.summary["separation"] > 0.99

    def test_false_negatives_are_found_and_in_both_directions(self):
        colors, texts, processor = make_pairs(40)
        texts[31] = "pair 4, said otherwise"
        processor.texts[texts[31]] = processor.texts["pair 4"] + 0.01
        colors[31] = np.clip(colors[4] + 0.05 * np.random.default_rng(1).standard_normal(DIM), 0, 1)
        report = audit(make_dataset(colors, texts), processor, positive_quantile=0.0)
        assert rows_of(report, FALSE_NEGATIVE) == {(4, 31), (31, 4)}
        assert report.summary["pairs_with_false_negative"] == 2
        finding = next(each for each in report.of_kind(FALSE_NEGATIVE) if each.first_row == 4)
        assert (finding.first_caption, finding.second_caption) == ("pair 4", "pair 4, said otherwise")

    def test_an_image_that_was_saved_again_is_found(self, tmp_path):
        colors, texts, processor = make_pairs(40)
        dataset = make_dataset(colors, texts)
        images = [row["image"] for row in dataset]
        images[12].save(tmp_path / "again.jpg", quality=95)
        images[30] = PIL.Image.open(tmp_path / "again.jpg")
        features = Features({"image": Image(), "caption": Value("string")})
        dataset = Dataset.from_dict({"image": images, "caption": texts}, features=features)
        assert rows_of(audit(dataset, processor, duplicate_quantile=0.0), SIMILAR_IMAGES) == {(12, 30)}

    def test_texts_that_differ_in_nothing_that_matters_are_found(self):
        colors, texts, processor = make_pairs(40)
        texts[9] = "PAIR 3."
        report = audit(make_dataset(colors, texts), processor)
        assert rows_of(report, SIMILAR_TEXTS) == {(3, 9)}
        # What is identical to the model is above no harmless change: these are identical too.
        assert report.of_kind(SIMILAR_TEXTS)[0].cosine == pytest.approx(1)

    def test_rows_of_one_pair_are_never_reported(self):
        colors, texts, processor = make_pairs(20)
        ids = [f"pair-{number // 2}" for number in range(20)]
        colors[1::2] = colors[::2]
        texts[1::2] = texts[::2]
        report = audit(make_dataset(colors, texts, ids), processor)
        assert report.summary["counts"] == dict.fromkeys(KINDS, 0) and report.summary["pairs"] == 10

    def test_emoji_of_three_vendors_have_one_name(self):
        from emoji import emoji_pairs

        emoji = emoji_pairs("validation").select(range(0, 758, 9)).remove_columns("pair_id")
        report = audit(emoji, Knowing({}), top_k=10_000)
        names, ids = list(emoji["caption"]), list(emoji["emoji_id"])
        same = {(a, b) for a in range(len(emoji)) for b in range(a + 1, len(emoji)) if ids[a] == ids[b]}
        assert same and rows_of(report, SIMILAR_TEXTS) == same
        assert all(names[a] == names[b] for a, b in same)


def brute_force(dataset, processor, quantile: float) -> tuple[set[tuple[int, int]], float, int]:
    """Everything with everything, one cosine at a time, in float64."""
    unit = lambda vector: vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))  # noqa: E731
    images = [unit(pooled(row["image"]).reshape(-1)) for row in dataset]
    texts = [unit(processor.embed(row["caption"])) for row in dataset]
    ids = list(dataset["pair_id"])
    cosines = {(a, b): float(images[a] @ texts[b]) for a in range(len(ids)) for b in range(len(ids))}
    positives = sorted(cosine for (a, b), cosine in cosines.items() if ids[a] == ids[b])
    threshold = positives[min(len(positives) - 1, int(quantile * len(positives)))]
    negatives = [pair for pair in cosines if ids[pair[0]] != ids[pair[1]]]
    return {pair for pair in negatives if cosines[pair] >= threshold - 1e-9}, threshold, len(negatives)


@pytest.fixture(scope="module")
def noisy():
    """Texts so far from their images that many a foreign one is nearer; some pairs have several rows."""
    colors, texts, processor = make_pairs(60, noise=0.9, seed=3)
    return make_dataset(colors, texts, [number % 45 for number in range(60)]), processor


@pytest.fixture(scope="module")
def report():
    colors, texts, processor = make_pairs(12, noise=0.6)
    texts[3] = '<script>alert(1)</script> & "quotes" \x1b[31m'
    texts[5] = texts[3]
    return audit(make_dataset(colors, texts), processor, positive_quantile=0.1)


class TestReference:
    @pytest.mark.parametrize("quantile", [0.05, 0.5, 0.9])
    def test_a_plain_loop_finds_the_same(self, noisy, quantile):
        dataset, processor = noisy
        expected, threshold, negatives = brute_force(dataset, processor, quantile)
        report = audit(dataset, processor, positive_quantile=quantile, top_k=100_000)
        assert expected and rows_of(report, FALSE_NEGATIVE) == expected
        assert report.summary["thresholds"][FALSE_NEGATIVE] == pytest.approx(threshold, abs=1e-6)
        assert report.summary["counts"][FALSE_NEGATIVE] == len(expected)
        assert report.summary["negatives"] == negatives
        ids = list(dataset["pair_id"])
        assert report.summary["pairs_with_false_negative"] == len({ids[row] for pair in expected for row in pair})

    def test_expected_per_batch_is_the_mean_over_all_batches(self):
        colors, texts, processor = make_pairs(9, noise=0.9, seed=5)
        dataset = make_dataset(colors, texts, range(9))
        report = audit(dataset, processor, positive_quantile=0.2, batch_sizes=(3,))
        found, _, _ = brute_force(dataset, processor, 0.2)
        from itertools import combinations

        counts = [sum((a, b) in found for a in batch for b in batch) for batch in combinations(range(9), 3)]
        assert found and report.expected_per_batch(3) == pytest.approx(np.mean(counts))
        assert report.summary["expected_per_batch"] == {"3": report.expected_per_batch(3)}

    @pytest.mark.parametrize("block_size", [1, 7, 59])
    def test_blocks_change_nothing(self, noisy, block_size):
        dataset, processor = noisy
        options = {"positive_quantile": 0.3, "duplicate_quantile": 0.0, "top_k": 25}
        whole = audit(dataset, processor, block_size=4096, **options)
        blocks = audit(dataset, processor, block_size=block_size, **options)
        assert blocks.findings == whole.findings and blocks.summary == whole.summary

    def test_the_list_is_the_head_of_a_longer_one(self, noisy):
        dataset, processor = noisy
        short = audit(dataset, processor, top_k=10).of_kind(FALSE_NEGATIVE)
        long = audit(dataset, processor, top_k=10_000).of_kind(FALSE_NEGATIVE)
        assert len(short) == 10 < len(long) and long[:10] == short
        assert [each.cosine for each in long] == sorted((each.cosine for each in long), reverse=True)

    def test_percentile_and_margin_are_of_the_true_pairs(self, noisy):
        dataset, processor = noisy
        report = audit(dataset, processor, top_k=10_000)
        threshold = report.summary["thresholds"][FALSE_NEGATIVE]
        for finding in report.of_kind(FALSE_NEGATIVE):
            assert finding.percentile >= 50 and finding.cosine >= threshold
            assert -2 <= finding.margin <= 2


class TestGuides:
    def test_a_text_guide_finds_texts_and_nothing_else(self, tiny_config, tiny_tokenizer):
        from transformers import BertConfig, BertModel

        torch.manual_seed(0)
        config = BertConfig(**{**tiny_config.text_config.to_dict(), "vocab_size": 99})
        guide = Guide(BertModel(config), tiny_tokenizer)
        colors, _, _ = make_pairs(6)
        texts = ["a red bus", "a green cat", "this photo of a dog", "a red bus", "two dog sits", "a blue house runs"]
        report = audit_pairs(make_dataset(colors, texts), guide, show_progress=False)
        assert list(report.summary["counts"]) == [SIMILAR_TEXTS] and (0, 3) in rows_of(report, SIMILAR_TEXTS)
        assert "false negative" not in report.to_text().split("\n")[0]
        report.suggestions()


class TestReport:
    def test_captions_in_the_gallery_are_text(self, report, tmp_path):
        report.to_html(tmp_path / "audit.html")
        page = (tmp_path / "audit.html").read_text()
        assert "<script" not in page.lower() and "&lt;script&gt;alert(1)&lt;/script&gt;" in page

    def test_the_gallery_needs_nothing_beside_it(self, report, tmp_path):
        report.to_html(tmp_path / "audit.html", limit=2)
        page = (tmp_path / "audit.html").read_text()
        sources = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert sources and all(source.startswith(("data:image/jpeg;base64,", "#")) for source in sources)
        assert "http" not in re.sub(r'http-equiv="[^"]*"', "", page) and 'name="viewport"' in page
        assert page.count('class="card"') <= 2 * len(KINDS)

    def test_an_image_that_cannot_be_read_is_said_so(self, report, tmp_path):
        broken = report.dataset.cast_column("image", Image(decode=False)).map(
            lambda row: {"image": {"bytes": b"broken", "path": None}}
        )
        type(report)(report.findings, report.summary, broken).to_html(tmp_path / "audit.html")
        assert "cannot be read" in (tmp_path / "audit.html").read_text()

    def test_parquet_has_every_finding(self, report, tmp_path):
        report.to_parquet(tmp_path / "audit.parquet")
        rows = Dataset.from_parquet(str(tmp_path / "audit.parquet"), cache_dir=str(tmp_path)).to_list()
        assert [tuple(row.values()) for row in rows] == [tuple(finding) for finding in report.findings]

    def test_an_audit_without_findings_can_be_written(self, tmp_path):
        colors, texts, processor = make_pairs(12)
        report = audit(make_dataset(colors, texts), processor)
        report.to_parquet(tmp_path / "audit.parquet")
        report.to_html(tmp_path / "audit.html")
        assert "expect little" in report.to_text()

    def test_the_summary_is_json(self, report, tmp_path):
        report.to_json(tmp_path / "audit.json")
        assert json.loads((tmp_path / "audit.json").read_text()) == report.summary

    def test_the_text_keeps_control_characters_from_the_terminal(self, report):
        assert "\x1b" not in report.to_text(100)

    def test_weights_at_the_threshold_fall_with_the_strength(self, report):
        one, two, four = report.summary["weight_at_threshold"].values()
        assert 1 > one > two > four > 0

    def test_a_model_that_knows_nothing_is_not_believed(self):
        colors, texts, _ = make_pairs(30)
        report = audit(make_dataset(colors, texts), Knowing({}))
        assert "more about the model" in report.suggestions()[0]


class TestErrors:
    @pytest.mark.parametrize(
        "options, message",
        [
            ({"positive_quantile": 1.5}, "`positive_quantile` must be from 0 to 1, got 1.5"),
            ({"duplicate_quantile": -1}, "`duplicate_quantile`"),
            ({"top_k": 0}, "`top_k` must be at least 1"),
            ({"batch_sizes": (64, 0)}, "`batch_sizes`"),
            ({"caption_column": "title"}, "no column 'title'.*`caption_column`"),
            ({"pair_id_column": "id"}, "no column 'id'.*`pair_id_column`"),
        ],
    )
    def test_wrong_arguments_are_named(self, options, message):
        colors, texts, processor = make_pairs(3)
        with pytest.raises(ValueError, match=message):
            audit(make_dataset(colors, texts), processor, **options)

    def test_one_pair_has_no_negatives(self):
        colors, texts, processor = make_pairs(3)
        with pytest.raises(ValueError, match="one pair id"):
            audit(make_dataset(colors, texts, [7, 7, 7]), processor)

    def test_a_processor_is_needed(self):
        colors, texts, _ = make_pairs(3)
        with pytest.raises(ValueError, match="`processor`"):
            audit_pairs(make_dataset(colors, texts), ByEye())

    def test_a_stream_is_refused(self):
        colors, texts, processor = make_pairs(3)
        with pytest.raises(ValueError, match="one split"):
            audit(make_dataset(colors, texts).to_iterable_dataset(), processor)
