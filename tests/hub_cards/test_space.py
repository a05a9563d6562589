# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The page without a browser: weights against a loop, what model and data are asked, what becomes HTML, and a folder
that runs by itself."""

import configparser
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset, Features, Image, Value
from huggingface_hub import HfApi
from PIL import Image as PILImage

from hub_cards.space import explain_negatives, load_model, open_dataset, push_space, render, write_space
from hub_cards.space import folder as folder_module
from hub_cards.space.backend import Backend, Refusal
from modeling_sacl import SaclForPreTraining, SaclModel
from trainer import embed_dataset, ground_text
from trainer.evaluation import Grounding
from trainer.search import SearchResult

from .space_common import HAS_EMOJI, emoji, tiny_clip, tiny_sacl


pytest.importorskip("faiss")
pytestmark = pytest.mark.skipif(not HAS_EMOJI, reason="the emoji data are not part of this checkout")

ROOT = Path(__file__).parents[2]
HOSTILE = """<script>window.hacked = 1</script><img src=x onerror="window.hacked = 1"> ${window.hacked=1} {{7*7}} "'"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture(scope="module")
def sacl():
    return tiny_sacl()


@pytest.fixture(scope="module")
def pairs():
    return emoji()


@pytest.fixture(scope="module")
def make_backend(cache):
    def make(model, processor, dataset) -> Backend:
        return Backend(model, processor, dataset, cache_dir=cache, show_progress=False)

    return make


@pytest.fixture(scope="module")
def backend(sacl, pairs, make_backend):
    return make_backend(*sacl, pairs)


@pytest.fixture
def picture():
    return PILImage.new("RGB", (40, 30), "#c03020")


def of_pictures(pictures, **columns) -> Dataset:
    features = Features({"image": Image(), **{name: Value("string") for name in columns}})
    return Dataset.from_dict({"image": pictures, **columns}, features=features)


class Tags(HTMLParser):
    """The tags, attributes and text of a page, as a browser reads them."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


# Negatives -----------------------------------------------------------------------------------------------------------


class TestExplainNegatives:
    @pytest.fixture
    def embeds(self):
        generator = torch.Generator().manual_seed(0)
        return tuple(torch.nn.functional.normalize(torch.randn(7, 5, generator=generator), dim=-1) for _ in range(2))

    @pytest.mark.parametrize("strength", [0.5, 1.0, 4.0])
    def test_weights_are_the_papers_formula(self, embeds, strength):
        """w_ij = exp(cos_ij)^-strength over its mean, in a loop over floats."""
        images, texts = embeds
        seen = explain_negatives(images, texts, anchor=3, strength=strength)
        for direction, anchor, candidates in (
            ("image_to_text", images[3], texts),
            ("text_to_image", texts[3], images),
        ):
            cosines = [sum(a * b for a, b in zip(anchor.tolist(), row.tolist(), strict=True)) for row in candidates]
            raw = {place: math.exp(value) ** -strength for place, value in enumerate(cosines) if place != 3}
            mean = sum(raw.values()) / len(raw)
            expected = sorted(raw, key=raw.get)
            found = seen[direction]
            assert [negative.position for negative in found.negatives] == expected
            for negative in found.negatives:
                assert negative.weight == pytest.approx(raw[negative.position] / mean, rel=1e-5)
                assert negative.similarity == pytest.approx(cosines[negative.position], abs=1e-6)
            assert found.own_similarity == pytest.approx(cosines[3], abs=1e-6)
            assert found.positives == []

    def test_the_most_similar_comes_first_and_is_spared(self, embeds):
        images, texts = embeds
        texts = torch.cat([texts[:-1], images[:1]])  # a text like the anchor's image, of another pair
        first = explain_negatives(images, texts, strength=2.0)["image_to_text"].negatives[0]
        assert first.position == 6
        assert first.similarity == pytest.approx(1.0, abs=1e-5)
        assert first.weight < 0.5

    def test_without_regulation_all_count_alike(self, embeds):
        seen = explain_negatives(*embeds, strength=0)["text_to_image"].negatives
        assert {negative.weight for negative in seen} == {1.0}
        cosines = [negative.similarity for negative in seen]
        assert cosines == sorted(cosines, reverse=True)

    def test_rows_of_the_same_pair_are_no_negatives(self, embeds):
        ids = torch.tensor([5, 1, 5, 2, 3, 5, 4])
        for seen in explain_negatives(*embeds, pair_ids=ids).values():
            assert seen.positives == [2, 5]
            assert sorted(negative.position for negative in seen.negatives) == [1, 3, 4, 6]
            assert sum(negative.weight for negative in seen.negatives) / 4 == pytest.approx(1.0, abs=1e-5)

    def test_bad_arguments_raise(self, embeds):
        images, texts = embeds
        with pytest.raises(ValueError, match=r"\(7, 5\) and \(6, 5\)"):
            explain_negatives(images, texts[:6])
        with pytest.raises(ValueError, match="0 to 6, got 7"):
            explain_negatives(images, texts, anchor=7)
        with pytest.raises(ValueError, match=r"\(7,\), got shape \(3,\)"):
            explain_negatives(images, texts, pair_ids=torch.arange(3))
        with pytest.raises(ValueError, match="strength"):
            explain_negatives(images, texts, strength=-1)


# What model and data are asked ---------------------------------------------------------------------------------------


class TestBackend:
    def test_searches_are_those_of_the_searcher(self, backend, picture):
        assert backend.find_images(" red heart ", 5) == backend.searcher.search_images("red heart", 5)
        assert backend.find_texts(picture, 5) == backend.searcher.search_texts(picture, 5)
        assert backend.find_composed(picture, "blue", 5, 0.3) == backend.searcher.search_composed(
            picture, "blue", 5, text_weight=0.3
        )
        assert backend.find_composed(picture, "", 5) == backend.searcher.search_similar_images(picture, 5)

    def test_looks_twice_if_asked(self, backend, picture):
        found = backend.find_images("red heart", 4, True)
        assert found == backend.searcher.search_images("red heart", 4, rerank_top_k=32)
        assert found != backend.find_images("red heart", 4)
        assert all(0 <= score <= 1 for _, score in backend.find_texts(picture, 4, True))

    def test_more_than_there_is(self, backend):
        assert len(backend.find_images("red heart", 10**6)) == len(backend) == 24

    @pytest.mark.parametrize("text", ["", "  \n", None])
    def test_an_empty_text_is_refused(self, backend, picture, text):
        for ask in (lambda: backend.find_images(text, 3), lambda: backend.ground(picture, text)):
            with pytest.raises(Refusal, match="the text is empty"):
                ask()

    def test_a_broken_picture_is_refused(self, backend, tmp_path):
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
        for ask in (
            lambda: backend.find_texts(str(broken), 3),
            lambda: backend.find_composed(str(broken), "blue", 3),
            lambda: backend.ground(str(broken), "blue"),
            lambda: backend.kept_patches(str(broken), 0.5),
        ):
            with pytest.raises(Refusal, match="cannot be read as a picture") as refused:
                ask()
            assert str(tmp_path) not in str(refused.value)
        with pytest.raises(Refusal, match="Choose a picture first"):
            backend.find_texts(None, 3)

    def test_a_text_that_is_too_long_is_cut_and_said_to_be(self, backend, picture):
        long = "red heart " * 20
        assert backend.find_images(long, 3)
        assert backend.text_note(long) == (
            "The text has 42 tokens, and the model reads the first 16: the rest was left out."
        )
        assert backend.text_note("red heart") is None
        with pytest.raises(ValueError, match="42 tokens, but the model reads 16: shorten it"):
            backend.ground(picture, long)

    def test_grounding_is_that_of_the_library(self, backend, sacl, picture):
        _, grounding = backend.ground(picture, "red heart")
        expected = ground_text(*sacl, picture, "red heart")
        assert grounding.words == expected.words == ["red", "heart"]
        assert torch.equal(grounding.word_maps, expected.word_maps)

    def test_patches_are_dropped_for_the_picture_only(self, backend, sacl, picture):
        before, config = backend.find_images("red heart", 5), sacl[0].config.to_dict()
        panels = backend.kept_patches(picture, 0.5)
        assert [panel.title for panel in panels[1:]] == ["layer 1: 8 of 16 patches", "layer 3: 4 of 16 patches"]
        assert panels[0].picture.size == (32, 32)
        # Of 32 x 32 pixels half are dark, then three quarters; the picture is of one bright colour.
        for panel, dark in zip(panels, (0, 512, 768), strict=True):
            pixels = torch.from_numpy(np.asarray(panel.picture).copy()).sum(dim=-1)
            assert (pixels < 150).sum() == dark
        assert backend.kept_patches(picture, 0.25, "red heart")[1].title == "layer 1: 4 of 16 patches"
        assert sacl[0].config.to_dict() == config
        assert backend.find_images("red heart", 5) == before
        with pytest.raises(Refusal, match="between 0 and 1 can be kept, not 1"):
            backend.kept_patches(picture, 1)

    def test_a_model_in_training_stays_in_training(self, sacl, pairs, make_backend, picture):
        model, processor = sacl
        backend = make_backend(model, processor, pairs)
        model.train()
        try:
            assert [p.title for p in backend.kept_patches(picture, 0.5)] == [
                p.title for p in backend.kept_patches(picture, 0.5)
            ]
            assert model.training
        finally:
            model.eval()

    def test_negatives_of_a_drawn_batch(self, backend):
        rows, directions = backend.negatives(3, 10, 2.0, seed=1)
        assert rows[0] == 3 and len(set(rows)) == 10
        assert backend.negatives(3, 10, 2.0, seed=1).rows == rows
        assert backend.negatives(3, 10, 2.0, seed=2).rows != rows
        dataset = backend.dataset.with_format("torch", columns=["image_embeds", "text_embeds"])
        ids = torch.tensor([hash(backend.dataset[row]["pair_id"]) for row in rows])
        expected = explain_negatives(
            dataset[rows]["image_embeds"], dataset[rows]["text_embeds"], strength=2.0, pair_ids=ids
        )
        assert directions == expected

    def test_impossible_batches_are_refused(self, backend):
        with pytest.raises(Refusal, match="no row 24: rows are counted from 0 to 23"):
            backend.negatives(24, 8, 1.0)
        with pytest.raises(Refusal, match="3 to 24 pairs here, not 25"):
            backend.negatives(0, 25, 1.0)
        with pytest.raises(Refusal, match="whole number is needed, got None"):
            backend.negatives(None, 8, 1.0)
        with pytest.raises(Refusal, match="whole number is needed, got 1.5"):
            backend.negatives(1.5, 8, 1.0)
        with pytest.raises(ValueError, match="strength"):
            backend.negatives(0, 8, -1.0)

    def test_a_plain_dual_encoder_says_what_it_lacks(self, pairs, make_backend, picture):
        backend = make_backend(*tiny_clip(), pairs)
        assert set(backend.lacking) == {"rerank", "ground", "patches"}
        assert "`CLIPModel` has no fusion encoder" in backend.lacking["ground"]
        assert "SACL" in backend.lacking["patches"]
        assert len(backend.find_images("red heart", 3)) == 3
        with pytest.raises(Refusal, match="no matching head"):
            backend.find_images("red heart", 3, True)
        with pytest.raises(Refusal, match="cannot select patches"):
            backend.kept_patches(picture, 0.5)

    def test_towers_without_heads(self, sacl, pairs, make_backend):
        model, processor = sacl
        backend = make_backend(model.sacl, processor, pairs)
        assert set(backend.lacking) == {"rerank", "ground"}

    def test_data_without_images_or_captions(self, sacl, pairs, make_backend, picture):
        words = make_backend(*sacl, pairs.remove_columns("image"))
        assert set(words.lacking) == {"find images", "compose", "negatives"}
        assert words.lacking["find images"] == "The data set has no images to be searched."
        assert len(words.find_texts(picture, 3)) == 3
        assert words.picture(0) is None
        images = make_backend(*sacl, pairs.select_columns(["image"]))
        assert set(images.lacking) == {"find texts", "negatives"}
        assert len(images.find_images("red heart", 3)) == 3
        assert images.caption(0) == ""
        with pytest.raises(ValueError, match="neither images nor captions"):
            make_backend(*sacl, pairs.select_columns(["pair_id"]))

    def test_rows_that_cannot_be_read_are_left_out(self, sacl, pairs, make_backend):
        content = [pairs.cast_column("image", Image(decode=False))[row]["image"] for row in range(6)]
        content[2] = {"bytes": content[2]["bytes"][:60], "path": None}
        backend = make_backend(*sacl, of_pictures(content, caption=pairs["caption"][:6]))
        assert len(backend) == 5

    def test_embeddings_that_are_there_are_used(self, sacl, pairs, make_backend, cache):
        model, processor = sacl
        embedded = embed_dataset(model, pairs, processor, cache_dir=cache, show_progress=False)
        assert make_backend(model, processor, embedded).dataset is embedded


# HTML ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(sacl, pairs, make_backend):
    """Captions that would like to be more than captions."""
    pictures = [pairs[row]["image"] for row in range(4)]
    return make_backend(*sacl, of_pictures(pictures, caption=[f"{HOSTILE} {row}" for row in range(4)]))


class TestRender:
    def test_captions_stay_text(self, hostile, picture):
        results = [SearchResult(row, 0.5) for row in range(4)]
        answers = [
            render.found_images(hostile, results, render.cosine),
            render.found_texts(hostile, results, render.match),
            render.weighed_negatives(hostile, hostile.negatives(0, 4, 1.0), 1.0),
            render.notice(HOSTILE),
            render.note(HOSTILE),
            render.grounded(picture, HOSTILE, Grounding([HOSTILE], torch.rand(1, 4, 4), torch.rand(4, 4), 0.5)),
        ]
        for answer in answers:
            page = Tags(answer)
            assert HOSTILE in page.text
            assert {tag for tag, _ in page.tags} <= set(
                "b br details div figcaption figure h3 h4 i img li ol p section span summary ul".split()
            )
            for tag, attributes in page.tags:
                assert not [name for name in attributes if name.startswith("on")]
                if tag == "img":
                    assert attributes["src"].startswith("data:image/webp;base64,")
                    assert attributes["alt"].strip()

    def test_results_say_rank_score_and_row(self, backend):
        results = [SearchResult(7, 0.25), SearchResult(3, 0.125)]
        page = Tags(render.found_images(backend, results, render.cosine))
        assert "1. cosine 0.250row 7" in page.text and "2. cosine 0.125row 3" in page.text
        assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] == [
            backend.caption(7),
            backend.caption(3),
        ]
        assert "1. match 25.0%" in Tags(render.found_texts(backend, results, render.match)).text

    def test_equal_captions_stand_together(self, sacl, pairs, make_backend):
        pictures = [pairs[row]["image"] for row in range(4)]
        backend = make_backend(*sacl, of_pictures(pictures, caption=["a dog", "a cat", "a dog", "a fox"]))
        results = [SearchResult(0, 0.5), SearchResult(1, 0.4), SearchResult(2, 0.3)]
        page = Tags(render.found_texts(backend, results, render.cosine))
        assert page.text == "a dog1. cosine 0.500rows 0, 2a cat2. cosine 0.400row 1"
        assert len([tag for tag, _ in page.tags if tag == "img"]) == 3

    def test_bars_are_weights(self, backend):
        """From the middle, which is weight 1, to the left below it and to the right above, all on one scale."""
        batch = backend.negatives(0, 12, 3.0)
        html = render.weighed_negatives(backend, batch, 3.0)
        bars = re.findall(r'sacl-bar (\S+)" aria-hidden="true"><i style="left:([\d.]+)%;width:([\d.]+)%"', html)
        negatives = [negative for seen in batch.directions.values() for negative in seen.negatives]
        assert len(bars) == len(negatives) == 22
        for start in (0, 11):
            reach = max(abs(negative.weight - 1) for negative in negatives[start : start + 11])
            for (kind, left, width), negative in zip(
                bars[start : start + 11], negatives[start : start + 11], strict=True
            ):
                assert kind == ("sacl-spared" if negative.weight < 1 else "sacl-pushed")
                assert float(width) == pytest.approx(50 * abs(negative.weight - 1) / reach, abs=0.06)
                assert float(left) + (float(width) if negative.weight < 1 else 0) == pytest.approx(50, abs=0.11)
        assert f"weight <b>{negatives[0].weight:.3f}</b>, spared" in html

    def test_a_batch_of_one_pair_has_no_negatives(self, sacl, pairs, make_backend):
        few = pairs.select(range(4)).remove_columns("pair_id").add_column("pair_id", [1, 1, 1, 2])
        backend = make_backend(*sacl, few.flatten_indices())
        batches = [backend.negatives(0, 3, 1.0, seed) for seed in range(20)]
        whole = next(batch for batch in batches if 3 not in batch.rows)
        assert Tags(render.weighed_negatives(backend, whole, 1.0)).text.count("There is no negative") == 2

    def test_words_without_maps_are_left_out(self, picture):
        """As of a model with one fusion layer."""
        silent = Grounding(["red", "heart"], torch.zeros(2, 4, 4), torch.rand(4, 4), 0.9)
        page = Tags(render.grounded(picture, "red heart", silent))
        assert len([tag for tag, _ in page.tags if tag == "img"]) == 1
        assert "one fusion layer" in page.text and "90.0%" in page.text

    def test_dims_where_a_map_is_low(self):
        white = PILImage.new("RGB", (20, 20), "white")
        map = torch.zeros(2, 2)
        map[0, 1] = 1
        dimmed = render._dimmed(white, map)
        assert min(dimmed.getpixel((19, 0))) > 250
        assert max(dimmed.getpixel((0, 19))) < 80


# Names of models and data ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(sacl, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model, processor = sacl
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


class TestLoading:
    def test_a_checkpoint_comes_with_its_matching_head(self, saved, sacl):
        model, _ = load_model(saved, device="cpu")
        assert type(model) is SaclForPreTraining and not model.training
        for name, value in sacl[0].state_dict().items():
            assert torch.equal(value, model.state_dict()[name]), name

    def test_others_come_as_dual_encoders(self, sacl, tmp_path):
        model, processor = tiny_clip()
        for kind, (model, processor) in {"CLIPModel": tiny_clip(), "SaclModel": (sacl[0].sacl, sacl[1])}.items():
            model.save_pretrained(tmp_path / kind)
            processor.save_pretrained(tmp_path / kind)
            loaded, _ = load_model(tmp_path / kind, device="cpu")
            assert type(loaded).__name__ == kind
        assert isinstance(loaded, SaclModel)

    def test_pairs_and_plain_pictures(self, pairs, tmp_path):
        for row in range(3):
            pairs[row]["image"].convert("RGB").save(tmp_path / f"{row}.png")
        plain = open_dataset(tmp_path)
        assert plain.column_names == ["image"] and len(plain) == 3
        lines = [json.dumps({"file_name": f"{row}.png", "caption": f"emoji {row}"}) for row in range(3)]
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
        assert open_dataset(tmp_path)["caption"][:] == ["emoji 0", "emoji 1", "emoji 2"]
        with pytest.raises(ValueError, match="title"):
            open_dataset(tmp_path, caption_columns="title")

    def test_what_is_neither_raises(self, tmp_path):
        (tmp_path / "data.csv").write_text("a,b\n1,2\n")
        with pytest.raises(ValueError, match="no image column"):
            open_dataset(tmp_path / "data.csv")
        with pytest.raises(ValueError, match="no image column"):
            open_dataset(tmp_path)
        with pytest.raises(FileNotFoundError):
            open_dataset(tmp_path / "nothing")

    def test_which_split(self, pairs, tmp_path):
        from datasets import DatasetDict

        parts = {"train": pairs.select(range(5)), "validation": pairs.select(range(4)), "other": pairs.select([1])}
        DatasetDict(parts).save_to_disk(tmp_path / "data")
        assert len(open_dataset(tmp_path / "data")) == 4
        assert len(open_dataset(tmp_path / "data", split="train")) == 5
        with pytest.raises(ValueError, match="no split 'test'"):
            open_dataset(tmp_path / "data", split="test")

    def test_some_rows(self, pairs, tmp_path):
        pairs.save_to_disk(tmp_path / "data")
        some = open_dataset(tmp_path / "data", max_rows=7)
        assert len(some) == 7
        assert some["caption"][:] == open_dataset(tmp_path / "data", max_rows=7)["caption"][:]
        assert some["caption"][:] != pairs["caption"][:7]
        with pytest.raises(ValueError, match="`max_rows` must be at least 1, got 0"):
            open_dataset(tmp_path / "data", max_rows=0)


# The folder ----------------------------------------------------------------------------------------------------------


def settings_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


class TestWriteSpace:
    def test_settings(self, tmp_path):
        folder = write_space(tmp_path / "space", "user/sacl", "user/photos", title="Say: what's #1?", license="mit")
        settings = settings_of(folder)
        assert settings["sdk"] == "gradio" and settings["app_file"] == "app.py"
        assert settings["title"] == "Say: what's #1?"
        assert settings["models"] == ["user/sacl"] and settings["datasets"] == ["user/photos"]
        assert settings["license"] == "mit"
        assert len(settings["short_description"]) <= 60
        constraints = (ROOT / "constraints.txt").read_text()
        assert f"gradio=={folder_module.TESTED_GRADIO}\n" in constraints
        assert re.fullmatch(r"\d+\.\d+\.\d+", settings["sdk_version"])

    def test_requirements_are_lower_bounds_of_all_that_is_needed(self, tmp_path):
        folder = write_space(tmp_path / "space", "user/sacl", "user/photos")
        bounds = dict(line.split(">=") for line in (folder / "requirements.txt").read_text().splitlines())
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        extras = setup["options.extras_require"]
        needed = [setup["options"]["install_requires"], extras["hub"], extras["search"]]
        assert set(bounds) == {re.match(r"[\w-]+", name)[0] for names in needed for name in names.split()}
        assert all(re.fullmatch(r"[\d.]+", version) for version in bounds.values())

    def test_code_travels_without_leftovers(self, tmp_path):
        folder = write_space(tmp_path / "space", "user/sacl", "user/photos")
        for package in ("modeling_sacl", "trainer", "hub_cards"):
            here = {p.relative_to(ROOT) for p in (ROOT / package).rglob("*.py")}
            there = {p.relative_to(folder) for p in (folder / package).rglob("*.py")}
            assert here == there
        assert (folder / "hub_cards" / "space" / "page.css").is_file()
        assert not list(folder.rglob("__pycache__"))

    def test_writing_again_keeps_what_a_person_wrote(self, tmp_path):
        folder = write_space(tmp_path / "space", "user/sacl", "user/photos", title="First")
        readme = folder / "README.md"
        readme.write_text(readme.read_text(encoding="utf-8") + "\nOur dog is in row 7.\n", encoding="utf-8")
        (folder / "trainer" / "gone.py").write_text("")
        write_space(folder, "user/sacl", "user/photos", title="Second", max_rows=5, model_revision="v1")
        assert settings_of(folder)["title"] == "Second"
        assert readme.read_text(encoding="utf-8").count("Our dog is in row 7.") == 1
        app = (folder / "app.py").read_text()
        assert "max_rows=5" in app and "model_revision='v1'" in app and "dataset_revision=None" in app
        assert not (folder / "trainer" / "gone.py").exists()

    def test_nothing_of_others_is_written_over(self, tmp_path):
        (tmp_path / "trainer").mkdir()
        (tmp_path / "app.py").write_text("print('mine')")
        with pytest.raises(ValueError, match="no Space that was written here"):
            write_space(tmp_path, "user/sacl", "user/photos")
        assert (tmp_path / "trainer").is_dir() and (tmp_path / "app.py").read_text() == "print('mine')"

    def test_names_are_no_code(self, tmp_path):
        title = '"); import os; os.abort() #\n$model'
        folder = write_space(tmp_path / "space", "user/sacl", "user/photos", title=title, examples=["$title", "'"])
        app = compile((folder / "app.py").read_text(), "app.py", "exec")
        assert {title, "$title", "'"} <= set(_constants(app))

    def test_what_is_no_id_raises(self, tmp_path):
        with pytest.raises(ValueError, match="`model_id` must be an id on the Hub or a path that exists, got 'a b'"):
            write_space(tmp_path / "space", "a b", "user/photos")
        with pytest.raises(ValueError, match="`dataset_id`"):
            write_space(tmp_path / "space", "user/sacl", "/nowhere/at/all")
        with pytest.raises(ValueError, match="`max_rows`"):
            write_space(tmp_path / "space", "user/sacl", "user/photos", max_rows=0)
        assert not (tmp_path / "space").exists()

    def test_runs_by_itself(self, sacl, pairs, tmp_path):
        """In a fresh process that sees the folder and nothing of this checkout."""
        pytest.importorskip("gradio")
        model, processor = sacl
        model.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        pairs.save_to_disk(tmp_path / "data")
        folder = write_space(tmp_path / "space", tmp_path / "model", tmp_path / "data", title="It runs")
        settings = settings_of(folder)
        assert "models" not in settings and "datasets" not in settings

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": str(tmp_path / "uploads"),
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "1",
        }
        log = tmp_path / "log.txt"
        with open(log, "w") as output:
            process = subprocess.Popen(
                [sys.executable, "app.py"], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            config = json.loads(_when_up(f"http://127.0.0.1:{port}/config", process, log))
        finally:
            process.terminate()
            process.wait()
        assert config["title"] == "It runs" and config["analytics_enabled"] is False
        texts = json.dumps(config)
        assert "24 rows to search" in texts and pairs[0]["caption"] in texts
        assert str(ROOT / "hub_cards") not in log.read_text()


def _constants(code) -> list:
    """All constants of a program."""
    values = []
    for constant in code.co_consts:
        values += constant if isinstance(constant, tuple) else [constant]
    return values


def _when_up(address: str, process: subprocess.Popen, log: Path, timeout: float = 200) -> bytes:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            return urllib.request.urlopen(address, timeout=5).read()
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"The page did not come up:\n{log.read_text()}")


class TestPushSpace:
    def test_one_commit_to_a_gradio_space(self, tmp_path, monkeypatch):
        """What the Hub is asked for; that it answers is tested with a server."""
        folder = write_space(tmp_path / "space", "user/sacl", "user/photos")
        calls = {}

        class Answer:
            repo_id, pr_url = "user/page", None

            def __str__(self):
                return "address"

        def record(name):
            def method(self, *args, **options):
                calls[name] = (self.token, args, options)
                return Answer()

            return method

        monkeypatch.setattr(HfApi, "create_repo", record("create_repo"))
        monkeypatch.setattr(HfApi, "upload_folder", record("upload_folder"))
        assert push_space(folder, "user/page", private=True, token="secret") == "address"
        token, args, options = calls["create_repo"]
        assert token == "secret" and args == ("user/page",)
        assert options == {"repo_type": "space", "space_sdk": "gradio", "private": True, "exist_ok": True}
        _, _, options = calls["upload_folder"]
        assert options["repo_id"] == "user/page" and options["repo_type"] == "space"
        assert options["delete_patterns"] == ["modeling_sacl/**", "trainer/**", "hub_cards/**"]

    def test_what_is_no_space_raises(self, tmp_path):
        (tmp_path / "README.md").write_text("Hello.")
        with pytest.raises(ValueError, match="There is no app.py"):
            push_space(tmp_path, "user/page")
