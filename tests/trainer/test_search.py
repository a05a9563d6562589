# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Searching: embeddings as columns, engines against brute force, four ways to search, and what is kept on disk."""

import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time
from functools import partial

import datasets
import numpy as np
import pytest
import torch
import torch.distributed as dist
import xxhash
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from modeling_sacl import SaclForPreTraining
from trainer import FaissEngine, LanceEngine, SaclSearcher, SearchResult, embed_dataset, embed_pairs
from trainer import features as features_module
from trainer.search import searcher as searcher_module
from trainer.search.embed import RowEncoder

from .dual_encoders import make_dual_encoder


pytest.importorskip("faiss")
EMBEDS = ["image_embeds", "text_embeds"]


@pytest.fixture
def clip(tiny_tokenizer):
    return make_dual_encoder("clip", tiny_tokenizer)


@pytest.fixture
def sacl(make_model, tiny_processor):
    """With weights so large that images differ, and a matching head that has an opinion."""
    model = make_model().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model, tiny_processor


@pytest.fixture
def embed(tmp_path):
    """[`embed_dataset`] with its files in a folder of the test."""
    return partial(embed_dataset, cache_dir=tmp_path / "cache", show_progress=False)


@pytest.fixture
def embedded(clip, pairs, embed):
    model, processor = clip
    return embed(model, pairs, processor)


@pytest.fixture
def searcher(clip, embedded):
    return SaclSearcher(*clip, embedded)


def matrix(dataset, column):
    return np.array(dataset[column][:], dtype=np.float32)


def expected_embeds(model, processor, pairs):
    """Each pair of the tests is one image and one text, so that embeddings are in the order of the rows."""
    embeddings = embed_pairs(model, pairs, processor, show_progress=False)
    return embeddings.image_embeds.numpy(), embeddings.text_embeds.numpy()


def embed_text(model, processor, text):
    """A text by itself, without anything of the library."""
    inputs = processor(text=[text], return_tensors="pt")
    with torch.inference_mode():
        features = model.eval().get_text_features(**inputs).pooler_output
    return torch.nn.functional.normalize(features, dim=-1)[0].numpy()


def embed_image(model, processor, image):
    inputs = processor(images=[image], return_tensors="pt")
    with torch.inference_mode():
        features = model.eval().get_image_features(**inputs).pooler_output
    return torch.nn.functional.normalize(features, dim=-1)[0].numpy()


def assert_best(found, scores, k):
    """What was found are the k best of these scores, in their order, up to ties."""
    assert len(found) == k
    assert [result.score for result in found] == pytest.approx(sorted(scores, reverse=True)[:k], abs=1e-5)
    for row, score in found:
        assert score == pytest.approx(scores[row], abs=1e-5)
    assert len({row for row, _ in found}) == k


def with_broken_images(pairs, broken):
    """Pairs of which some images are cut short or not there."""
    content = [pairs.cast_column("image", Image(decode=False))[row]["image"] for row in range(len(pairs))]
    for row, how in broken.items():
        content[row] = None if how == "none" else {"bytes": content[row]["bytes"][:40], "path": None}
    columns = {"image": content, "caption": pairs["caption"][:]}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "caption": Value("string")}))


class TestEmbedDataset:
    @pytest.mark.parametrize("name", ["clip", "sacl"])
    def test_equals_evaluation(self, name, pairs, embed, request):
        model, processor = request.getfixturevalue(name)
        embedded = embed(model, pairs, processor, batch_size=5)
        for column, expected in zip(EMBEDS, expected_embeds(model, processor, pairs), strict=True):
            assert embedded.features[column] == List(Value("float32"), length=20)
            np.testing.assert_allclose(matrix(embedded, column), expected, atol=1e-5)
            np.testing.assert_allclose(np.linalg.norm(matrix(embedded, column), axis=1), 1, atol=1e-5)
        assert embedded.remove_columns(EMBEDS)[7]["caption"] == pairs[7]["caption"]
        assert embedded[7]["image"].tobytes() == pairs[7]["image"].tobytes()

    def test_one_side_and_other_names(self, clip, pairs, embed):
        model, processor = clip
        renamed = pairs.rename_columns({"image": "photo", "caption": "titre_été"})
        by_image = embed(model, renamed, processor, image_column="photo")
        assert [column for column in EMBEDS if column in by_image.column_names] == ["image_embeds"]
        by_text = embed(model, by_image, processor, caption_column="titre_été", image_column="photo", images=False)
        for column, expected in zip(EMBEDS, expected_embeds(model, processor, pairs), strict=True):
            np.testing.assert_allclose(matrix(by_text, column), expected, atol=1e-5)
        assert "text_embeds" not in embed(model, pairs, processor, texts=False).column_names

    def test_a_part_of_a_data_set_keeps_its_rows_together(self, clip, pairs, embed):
        rows = [9, 2, 5]
        part = embed(clip[0], pairs.select(rows), clip[1])
        images, texts = expected_embeds(*clip, pairs)
        assert part["caption"][:] == [pairs[row]["caption"] for row in rows]
        np.testing.assert_allclose(matrix(part, "image_embeds"), images[rows], atol=1e-5)
        np.testing.assert_allclose(matrix(part, "text_embeds"), texts[rows], atol=1e-5)

    def test_the_first_caption_stands_for_a_row(self, clip, embed):
        model, processor = clip
        dataset = Dataset.from_dict({"captions": [["a red bus", "a cat"], [" ", "a green dog"]]})
        texts = matrix(embed(model, dataset, processor), "text_embeds")
        for text, caption in zip(texts, ("a red bus", "a green dog"), strict=True):
            np.testing.assert_allclose(text, embed_text(model, processor, caption), atol=1e-5)

    def test_every_module_is_left_in_its_mode(self, clip, pairs, embed):
        model, processor = clip
        model.train().vision_model.eval()
        embed(model, pairs, processor)
        assert model.training and model.text_model.training and not model.vision_model.training

    def test_a_killed_run_goes_on_where_it_stopped(self, clip, pairs, embed, tmp_path, monkeypatch):
        model, processor = clip
        uninterrupted = embed(model, pairs, processor, batch_size=2, cache_dir=tmp_path / "other")
        monkeypatch.setattr(features_module, "_ROWS_PER_FILE", 4)
        encode, calls = RowEncoder.encode, []

        def killed_at_the_fourth(encoder, rows):
            calls.append([row["row"] for row in rows])
            if len(calls) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return encode(encoder, rows)

        def run():
            RowEncoder.encode = killed_at_the_fourth
            embed(model, pairs, processor, batch_size=2)

        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL

        def counted(encoder, rows):
            calls.append([row["row"] for row in rows])
            return encode(encoder, rows)

        monkeypatch.setattr(RowEncoder, "encode", counted)
        resumed = embed(model, pairs, processor, batch_size=2)
        # The first file, of two batches, was whole; the third batch was lost with its file.
        assert calls == [[4, 5], [6, 7], [8, 9], [10, 11]]
        for column in EMBEDS:
            assert np.array_equal(matrix(resumed, column), matrix(uninterrupted, column))
        embed(model, pairs, processor, batch_size=2)
        assert len(calls) == 4

    def test_another_model_or_processor_embeds_anew(self, clip, pairs, embed, tiny_tokenizer):
        model, processor = clip
        first = embed(model, pairs, processor)
        other, _ = make_dual_encoder("clip", tiny_tokenizer, seed=1)
        assert (
            np.abs(matrix(embed(other, pairs, processor), "image_embeds") - matrix(first, "image_embeds")).max() > 0.1
        )
        processor.image_processor.image_mean = [0.1, 0.2, 0.9]
        assert np.abs(matrix(embed(model, pairs, processor), "image_embeds") - matrix(first, "image_embeds")).max() > 0

    def test_several_processes_agree_with_one(self, clip, pairs, embed, tmp_path, monkeypatch):
        model, processor = clip
        alone = embed(model, pairs, processor, cache_dir=tmp_path / "alone")
        monkeypatch.setattr(features_module, "_ROWS_PER_FILE", 2)

        def run(rank):
            dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=rank, world_size=2)
            encode, rows_of_mine = RowEncoder.encode, []

            def slowly(encoder, rows):
                rows_of_mine.extend(row["row"] for row in rows)
                time.sleep(0.2)
                return encode(encoder, rows)

            RowEncoder.encode = slowly
            dist.barrier()
            together = embed(model, pairs, processor)
            np.savez(tmp_path / f"{rank}.npz", rows=rows_of_mine, **{c: matrix(together, c) for c in EMBEDS})

        processes = [multiprocessing.get_context("fork").Process(target=run, args=(rank,)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0]
        results = [np.load(tmp_path / f"{rank}.npz") for rank in range(2)]
        for result in results:
            for column in EMBEDS:
                np.testing.assert_allclose(result[column], matrix(alone, column), atol=1e-6)
        # Each begins elsewhere, and all together do less than each would alone.
        assert results[0]["rows"][0] == 0 and results[1]["rows"][0] == 6
        assert sum(len(result["rows"]) for result in results) < 2 * len(pairs)

    def test_processes_that_do_not_know_of_each_other_raise(self, clip, pairs, embed, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ValueError, match="PartialState"):
            embed(clip[0], pairs, clip[1])

    @pytest.mark.parametrize("batch_size", [1, 64])
    @pytest.mark.parametrize("how", ["cut", "none"])
    def test_a_broken_image_raises_with_its_row(self, clip, pairs, embed, how, batch_size):
        with pytest.raises(ValueError, match="Row 7 cannot be embedded: its image cannot be read"):
            embed(clip[0], with_broken_images(pairs, {7: how}), clip[1], batch_size=batch_size)

    @pytest.mark.parametrize("batch_size", [1, 64])
    def test_broken_images_are_left_out_and_counted(self, clip, pairs, embed, batch_size, caplog):
        broken = with_broken_images(pairs, {3: "cut", 7: "none"})
        with caplog.at_level(logging.WARNING, logger="trainer.search.embed"):
            embedded = embed(clip[0], broken, clip[1], batch_size=batch_size, on_error="skip")
        assert "2 of 12 rows could not be embedded and are left out: 3, 7." in caplog.text
        images, _ = expected_embeds(*clip, pairs)
        kept = [row for row in range(12) if row not in (3, 7)]
        assert embedded["caption"][:] == [pairs[row]["caption"] for row in kept]
        np.testing.assert_allclose(matrix(embedded, "image_embeds"), images[kept], atol=1e-5)
        # What was skipped once is still an error where it has to be one, without the model being asked again.
        with pytest.raises(ValueError, match=r"2 of 12 rows cannot be embedded \(3, 7\)"):
            embed(clip[0], broken, clip[1])
        assert len(SaclSearcher(*clip, embedded).search_images("a cat", k=99)) == 10

    def test_a_row_without_a_caption_is_an_error_or_left_out(self, clip, embed):
        model, processor = clip
        dataset = Dataset.from_dict({"caption": ["a cat", " ", None, "a dog"]})
        with pytest.raises(ValueError, match="Row 1 cannot be embedded: it has no caption"):
            embed(model, dataset, processor)
        assert embed(model, dataset, processor, on_error="skip")["caption"][:] == ["a cat", "a dog"]

    def test_nothing_left_raises(self, clip, pairs, embed):
        broken = with_broken_images(pairs, dict.fromkeys(range(12), "cut"))
        with pytest.raises(ValueError, match=r"12 of 12 rows cannot be embedded \(0, 1, 2, 3, 4, \.\.\.\)"):
            embed(clip[0], broken, clip[1], on_error="skip")

    def test_what_cannot_be_embedded_raises(self, clip, pairs, embed):
        model, processor = clip
        for dataset, message in (
            (pairs.to_iterable_dataset(), "not a `IterableDataset`"),
            (datasets.DatasetDict(train=pairs), "not a `DatasetDict`"),
            (pairs.select([]), "no rows"),
            (pairs.select_columns("pair_id"), "neither images nor captions"),
            (embed(model, pairs, processor, texts=False), "'image_embeds' already"),
        ):
            with pytest.raises(ValueError, match=message):
                embed(model, dataset, processor)
        for options, message in (
            ({"image_column": "photo"}, "no column 'photo'"),
            ({"caption_column": "title"}, "no column 'title'"),
            ({"on_error": "ignore"}, "'ignore'"),
            ({"batch_size": 0}, "at least 1"),
        ):
            with pytest.raises(ValueError, match=message):
                embed(model, pairs, processor, **options)
        with pytest.raises(TypeError, match="dual encoder"):
            embed(torch.nn.Linear(2, 2), pairs, processor)


def unit_vectors(count, dim=16, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(params=["flat", "HNSW32", "IVF4,Flat", "lance"])
def make_engine(request, tmp_path):
    if request.param == "lance":
        pytest.importorskip("lancedb")
        return lambda: LanceEngine(tmp_path / "lance", "vectors")
    return lambda: FaissEngine(None if request.param == "flat" else request.param)


class TestEngines:
    def test_finds_what_brute_force_finds(self, make_engine):
        vectors, queries = unit_vectors(500), unit_vectors(7, seed=1)
        engine = make_engine()
        assert len(engine) == 0
        engine.add(vectors[:300], np.arange(300))
        engine.add(vectors[300:], np.arange(300, 500))
        assert len(engine) == 500
        if hasattr(getattr(engine, "faiss_index", None), "nprobe"):
            engine.faiss_index.nprobe = 4  # all there are
        scores, rows = engine.search(queries, 10)
        products = queries @ vectors.T
        assert rows.shape == scores.shape == (7, 10)
        np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :10], atol=1e-5)
        np.testing.assert_allclose(np.take_along_axis(products, rows, axis=1), scores, atol=1e-5)

    def test_one_query(self, make_engine):
        vectors = unit_vectors(40)
        engine = make_engine()
        engine.add(vectors, np.arange(40))
        scores, rows = engine.search(vectors[5:6], 1)
        assert rows.tolist() == [[5]] and scores[0, 0] == pytest.approx(1, abs=1e-5)

    def test_faiss_counts_rows_itself(self):
        engine = FaissEngine()
        engine.add(unit_vectors(3), np.arange(3))
        with pytest.raises(ValueError, match="go on from 3"):
            engine.add(unit_vectors(2), np.array([7, 8]))

    def test_an_index_is_the_one_of_datasets(self, tmp_path):
        vectors = unit_vectors(50)
        dataset = Dataset.from_dict({"embeds": vectors})
        engine = FaissEngine("HNSW32")
        engine.add(vectors, np.arange(50))
        engine.save(tmp_path / "index.faiss")
        dataset.load_faiss_index("embeds", tmp_path / "index.faiss")
        scores, rows = dataset.search_batch("embeds", vectors[:4], k=3)
        expected_scores, expected_rows = FaissEngine.load(tmp_path / "index.faiss").search(vectors[:4], 3)
        assert np.array_equal(rows, expected_rows) and np.allclose(scores, expected_scores)

    def test_a_lance_table_is_there_when_it_is_opened_again(self, tmp_path):
        pytest.importorskip("lancedb")
        vectors = unit_vectors(20)
        LanceEngine(tmp_path, "vectors").add(vectors, np.arange(20))
        again = LanceEngine(tmp_path, "vectors")
        assert len(again) == 20 and len(LanceEngine(tmp_path, "others")) == 0
        assert again.search(vectors[3:4], 1)[1].tolist() == [[3]]

    @pytest.mark.parametrize(
        ("package", "make", "message"),
        [
            ("faiss", FaissEngine, r"pip install sacl\[search\]"),
            ("lancedb", lambda: LanceEngine("folder", "name"), "pip install lancedb"),
        ],
    )
    def test_what_is_not_installed_is_named(self, package, make, message, monkeypatch):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=message):
            make()


@pytest.fixture(params=["flat", "HNSW32", "lance"])
def any_searcher(request, clip, embedded, tmp_path):
    """Twelve pairs, in each engine."""
    if request.param == "lance":
        pytest.importorskip("lancedb")
        return SaclSearcher(*clip, embedded, engine=partial(LanceEngine, tmp_path / "lance"))
    return SaclSearcher(*clip, embedded, string_factory=None if request.param == "flat" else request.param)


class TestSearching:
    def test_four_ways_against_brute_force(self, any_searcher, clip, pairs):
        images, texts = expected_embeds(*clip, pairs)
        text, image = "two green dogs", pairs[4]["image"].rotate(40)
        text_query, image_query = embed_text(*clip, text), embed_image(*clip, image)
        assert_best(any_searcher.search_images(text, k=5), images @ text_query, 5)
        assert_best(any_searcher.search_texts(image, k=5), texts @ image_query, 5)
        assert_best(any_searcher.search_similar_images(image, k=5), images @ image_query, 5)
        for weight in (0.0, 0.3, 1.0):
            query = (1 - weight) * image_query + weight * text_query
            scores = images @ (query / np.linalg.norm(query))
            assert_best(any_searcher.search_composed(image, text, k=5, text_weight=weight), scores, 5)

    def test_sacl_with_its_heads(self, sacl, pairs, embed):
        model, processor = sacl
        searcher = SaclSearcher(model, processor, embed(model, pairs, processor))
        images, _ = expected_embeds(model, processor, pairs)
        text = "a photo of the blue house"
        assert_best(searcher.search_images(text, k=4), images @ embed_text(model.sacl, processor, text), 4)

    def test_embeds_what_is_not_embedded(self, clip, pairs, embedded, monkeypatch, tmp_path):
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
        searcher = SaclSearcher(*clip, pairs, show_progress=False)
        assert searcher.dataset.column_names == embedded.column_names
        assert searcher.search_images("a cat") == SaclSearcher(*clip, embedded).search_images("a cat")

    def test_batched_queries_are_one_call(self, searcher, pairs, monkeypatch):
        texts = ["a red cat", "über den Fluß 🚌", "the bus sits on a house", "狗"]
        images = [pairs[row]["image"] for row in (0, 5, 11)]
        one_by_one = [
            [searcher.search_images(text, k=3) for text in texts],
            [searcher.search_texts(image, k=3) for image in images],
            [searcher.search_similar_images(image, k=3) for image in images],
            [searcher.search_composed(image, text, k=3) for image, text in zip(images, texts[:3], strict=True)],
        ]
        searcher.batch_size, calls = 2, []
        search = FaissEngine.search
        monkeypatch.setattr(
            FaissEngine, "search", lambda engine, queries, k: calls.append(len(queries)) or search(engine, queries, k)
        )
        batched = [
            searcher.search_images(texts, k=3),
            searcher.search_texts(images, k=3),
            searcher.search_similar_images(images, k=3),
            searcher.search_composed(images, texts[:3], k=3),
        ]
        assert calls == [4, 3, 3, 3]
        for alone, together in zip(one_by_one, batched, strict=True):
            assert len(alone) == len(together)
            for ours, theirs in zip(alone, together, strict=True):
                assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-5)

    def test_results_are_rows(self, searcher, pairs):
        found = searcher.search_similar_images(pairs[6]["image"], k=2)
        assert isinstance(found[0], SearchResult) and found[0].row == 6
        assert found[0].score == pytest.approx(1, abs=1e-5)
        first, second = searcher.rows(found)
        assert first["caption"] == pairs[6]["caption"] and first["image"].tobytes() == pairs[6]["image"].tobytes()
        assert not set(EMBEDS) & set(first)
        assert second["caption"] == searcher.dataset[found[1].row]["caption"]

    def test_an_image_may_be_a_file(self, searcher, pairs, tmp_path):
        pairs[3]["image"].save(tmp_path / "a bus – été.png")
        from_file = searcher.search_texts(tmp_path / "a bus – été.png")
        assert from_file == searcher.search_texts(pairs[3]["image"])

    def test_no_more_than_there_are(self, any_searcher):
        assert sorted(row for row, _ in any_searcher.search_images("a cat", k=1000)) == list(range(12))

    def test_no_queries_find_nothing(self, searcher):
        assert searcher.search_images([]) == searcher.search_texts([]) == searcher.search_composed([], []) == []

    @pytest.mark.parametrize("k", [0, -3])
    def test_fewer_than_one_raises(self, searcher, pairs, k):
        for search in (
            partial(searcher.search_images, "a cat"),
            partial(searcher.search_images, []),
            partial(searcher.search_texts, pairs[0]["image"]),
            partial(searcher.search_composed, pairs[0]["image"], "a cat"),
        ):
            with pytest.raises(ValueError, match=f"at least 1, got {k}"):
                search(k=k)

    def test_wrong_queries_raise(self, searcher, pairs):
        image = pairs[0]["image"]
        for text in ("", " \n", ["a cat", ""], [None]):
            with pytest.raises(ValueError, match="has to say something"):
                searcher.search_images(text)
        with pytest.raises(ValueError, match="cannot be read"):
            searcher.search_texts("nowhere.png")
        with pytest.raises(ValueError, match="1 images and 2 texts"):
            searcher.search_composed([image], ["a cat", "a dog"])
        with pytest.raises(ValueError, match="pass one of each"):
            searcher.search_composed(image, ["a cat"])
        for weight in (-0.1, 1.5):
            with pytest.raises(ValueError, match="from 0 to 1"):
                searcher.search_composed(image, "a cat", text_weight=weight)

    def test_what_was_not_embedded_raises(self, clip, embedded, pairs):
        searcher = SaclSearcher(*clip, embedded.remove_columns("text_embeds"))
        assert searcher.search_images("a cat")
        with pytest.raises(ValueError, match="no `text_embeds` to search, only image_embeds"):
            searcher.search_texts(pairs[0]["image"])

    def test_an_engine_gets_what_it_lacks(self, clip, embedded, tmp_path, monkeypatch):
        """As after an interruption between two additions."""
        pytest.importorskip("lancedb")
        monkeypatch.setattr("trainer.search.embed.ROWS_AT_A_TIME", 5)
        engine = partial(LanceEngine, tmp_path / "lance")
        add, added = LanceEngine.add, []

        def interrupted(engine, embeds, rows):
            if len(added) == 2:
                raise KeyboardInterrupt
            added.append(rows.tolist())
            add(engine, embeds, rows)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(LanceEngine, "add", interrupted)
            SaclSearcher(*clip, embedded, engine=engine)
        assert added == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
        searcher = SaclSearcher(*clip, embedded, engine=engine)
        again = SaclSearcher(*clip, embedded, engine=engine)
        for each in (searcher, again):
            assert [len(engine) for engine in each.engines.values()] == [12, 12]
            assert sorted(row for row, _ in each.search_images("a cat", k=12)) == list(range(12))

    def test_other_embeddings_have_another_table(self, clip, embedded, tiny_tokenizer, pairs, embed, tmp_path):
        pytest.importorskip("lancedb")
        engine = partial(LanceEngine, tmp_path / "lance")
        SaclSearcher(*clip, embedded, engine=engine)
        model, processor = make_dual_encoder("clip", tiny_tokenizer, seed=1)
        other = SaclSearcher(model, processor, embed(model, pairs, processor), engine=engine)
        images, _ = expected_embeds(model, processor, pairs)
        assert_best(other.search_images("a cat", k=3), images @ embed_text(model, processor, "a cat"), 3)

    def test_two_engines_raise(self, clip, embedded):
        with pytest.raises(ValueError, match="HNSW32"):
            SaclSearcher(*clip, embedded, string_factory="HNSW32", engine=FaissEngine)

    def test_a_missing_package_is_named_before_anything_is_embedded(self, clip, pairs, monkeypatch):
        monkeypatch.setitem(sys.modules, "faiss", None)
        monkeypatch.setattr(searcher_module, "embed_dataset", lambda *_, **__: pytest.fail("it was embedded"))
        with pytest.raises(ImportError, match=r"sacl\[search\]"):
            SaclSearcher(*clip, pairs)


class TestWrongEmbeddings:
    def test_another_model_raises(self, embedded, tiny_tokenizer):
        other = make_dual_encoder("clip", tiny_tokenizer, seed=1)
        with pytest.raises(ValueError, match="not what this model, processor and `max_length` give"):
            SaclSearcher(*other, embedded)

    def test_another_processor_raises(self, clip, embedded):
        model, processor = clip
        processor.image_processor.image_mean = [-1.0, 2.0, 0.0]
        with pytest.raises(ValueError, match="cosine of"):
            SaclSearcher(model, processor, embedded)

    def test_another_width_raises(self, clip, embedded, tiny_tokenizer):
        other = make_dual_encoder("siglip", tiny_tokenizer)
        with pytest.raises(ValueError, match="20 dimensions and `SiglipModel` gives 48"):
            SaclSearcher(*other, embedded)

    def test_half_precision_is_the_same_model(self, clip, embedded):
        model, processor = clip
        found = SaclSearcher(model.bfloat16(), processor, embedded).search_images("a cat", k=12)
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)

    def test_embeddings_alone_are_taken_on_trust(self, clip, embedded, caplog):
        alone = embedded.select_columns(EMBEDS)
        with caplog.at_level(logging.WARNING, logger="trainer.search.searcher"):
            searcher = SaclSearcher(*clip, alone)
        assert "on trust" in caplog.text
        assert searcher.search_images("a cat") == SaclSearcher(*clip, embedded).search_images("a cat")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda row: {"image_embeds": [2 * value for value in row["image_embeds"]]}, "row 0 has length 2"),
            (lambda row: {"image_embeds": [float("nan")] * 20}, "row 0 has length nan"),
            (lambda row: {"image_embeds": row["image_embeds"][: 19 + row["pair_id"] % 2]}, "of one length"),
        ],
    )
    def test_what_embed_dataset_does_not_make_raises(self, clip, embedded, change, message):
        features = Features({**embedded.features, "image_embeds": List(Value("float32"))})
        wrong = embedded.map(change, features=features).remove_columns(["image", "caption"])
        with pytest.raises(ValueError, match=message):
            SaclSearcher(*clip, wrong)

    def test_streams_and_splits_raise(self, clip, embedded):
        for dataset in (embedded.to_iterable_dataset(), datasets.DatasetDict(train=embedded)):
            with pytest.raises(ValueError, match=type(dataset).__name__):
                SaclSearcher(*clip, dataset)

    def test_no_rows_raise(self, clip, embedded):
        with pytest.raises(ValueError, match="no rows"):
            SaclSearcher(*clip, embedded.select([]))


def match_probability(model, processor, text, image):
    """One pair through the whole model."""
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    with torch.inference_mode():
        texts = model.sacl.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"])
        images = model.sacl.get_image_features(inputs["pixel_values"])
        fused = model.sacl.fuse(texts.last_hidden_state, images, inputs["attention_mask"]).last_hidden_state
        return model.itm_head(fused[:, 0]).softmax(dim=-1)[0, 1].item()


class TestReranking:
    @pytest.fixture
    def searcher(self, sacl, pairs, embed):
        model, processor = sacl
        return SaclSearcher(model, processor, embed(model, pairs, processor), batch_size=3)

    def check(self, reranked, candidates, score, k):
        """The candidates of the first stage, in the order of the second."""
        scores = {row: score(row) for row, _ in candidates}
        assert np.std(list(scores.values())) > 1e-3
        assert len(reranked) == k
        for result, expected in zip(reranked, sorted(scores.values(), reverse=True)[:k], strict=True):
            assert result.score == pytest.approx(expected, abs=1e-4)
            assert scores[result.row] == pytest.approx(expected, abs=1e-4)

    def test_images_by_the_probability_of_a_match(self, searcher, sacl, pairs):
        text = "the blue bus on a house"
        candidates = searcher.search_images(text, k=8)
        reranked = searcher.search_images(text, k=4, rerank_top_k=8)
        self.check(reranked, candidates, lambda row: match_probability(*sacl, text, pairs[row]["image"]), 4)
        together = searcher.search_images([text, "a cat"], k=4, rerank_top_k=8)
        assert [row for row, _ in together[0]] == [row for row, _ in reranked]

    def test_texts_by_the_probability_of_a_match(self, searcher, sacl, pairs):
        image = pairs[2]["image"].rotate(90)
        candidates = searcher.search_texts(image, k=8)
        reranked = searcher.search_texts([image], k=4, rerank_top_k=8)[0]
        self.check(reranked, candidates, lambda row: match_probability(*sacl, pairs[row]["caption"], image), 4)

    def test_composed_by_match_and_cosine(self, searcher, sacl, pairs):
        model, processor = sacl
        image, text = pairs[1]["image"].rotate(30), "a red dog"
        images, _ = expected_embeds(model, processor, pairs)
        cosines = images @ embed_image(model.sacl, processor, image)
        candidates = searcher.search_composed(image, text, k=8, text_weight=0.3)
        reranked = searcher.search_composed(image, text, k=4, text_weight=0.3, rerank_top_k=8)
        self.check(
            reranked,
            candidates,
            lambda row: match_probability(model, processor, text, pairs[row]["image"]) + cosines[row],
            4,
        )

    def test_all_there_are(self, searcher):
        assert sorted(row for row, _ in searcher.search_images("a cat", k=50, rerank_top_k=99)) == list(range(12))

    def test_one_candidate(self, searcher, pairs):
        for found in (
            searcher.search_images("a cat", k=1, rerank_top_k=1),
            searcher.search_texts(pairs[0]["image"], k=1, rerank_top_k=1),
        ):
            assert len(found) == 1 and 0 < found[0].score < 1

    def test_fewer_candidates_than_results_raise(self, searcher):
        with pytest.raises(ValueError, match=r"at least `k` \(10\), got 5"):
            searcher.search_images("a cat", rerank_top_k=5)

    def test_a_model_without_head_raises(self, clip, embedded):
        with pytest.raises(TypeError, match="CLIPModel"):
            SaclSearcher(*clip, embedded).search_images("a cat", k=2, rerank_top_k=3)

    def test_what_is_read_again_has_to_be_there(self, searcher, sacl, pairs):
        alone = SaclSearcher(*sacl, searcher.dataset.remove_columns(["image", "caption"]))
        with pytest.raises(ValueError, match="`image_column`"):
            alone.search_images("a cat", k=2, rerank_top_k=3)
        with pytest.raises(ValueError, match="`caption_column`"):
            alone.search_texts(pairs[0]["image"], k=2, rerank_top_k=3)


class TestSaving:
    @pytest.fixture
    def folder(self, searcher, tmp_path):
        searcher.save_pretrained(tmp_path / "été 🚌")
        return tmp_path / "été 🚌"

    @pytest.mark.parametrize("string_factory", [None, "HNSW32"])
    def test_finds_the_same(self, clip, embedded, tmp_path, pairs, string_factory, monkeypatch):
        searcher = SaclSearcher(*clip, embedded, string_factory=string_factory)
        searcher.save_pretrained(tmp_path / "index")
        monkeypatch.setattr(FaissEngine, "add", lambda *_: pytest.fail("the index was built again"))
        loaded = SaclSearcher.from_pretrained(tmp_path / "index", *clip)
        assert hasattr(loaded.engines["image_embeds"].faiss_index, "hnsw") == (string_factory == "HNSW32")
        image = pairs[8]["image"]
        assert loaded.search_images("a red cat", k=5) == searcher.search_images("a red cat", k=5)
        assert loaded.search_texts(image) == searcher.search_texts(image)
        assert loaded.search_composed(image, "a cat") == searcher.search_composed(image, "a cat")
        assert loaded.rows(loaded.search_images("a cat", k=1))[0]["image"].size == (32, 32)

    def test_other_columns_and_length_are_kept(self, clip, pairs, embed, tmp_path):
        model, processor = clip
        names = {"image_column": "photo", "caption_column": "titre", "max_length": 4}
        renamed = pairs.rename_columns({"image": "photo", "caption": "titre"})
        searcher = SaclSearcher(model, processor, embed(model, renamed, processor, **names), **names)
        searcher.save_pretrained(tmp_path / "index")
        loaded = SaclSearcher.from_pretrained(tmp_path / "index", model, processor)
        assert (loaded.image_column, loaded.caption_column, loaded.max_length) == ("photo", "titre", 4)
        # Cut to four tokens, of which one begins the text and one ends it.
        assert loaded.search_images("a red bus", k=3) == loaded.search_images("a red dog on this house", k=3)

    def test_another_engine_is_passed_again(self, clip, embedded, tmp_path):
        pytest.importorskip("lancedb")
        engine = partial(LanceEngine, tmp_path / "lance")
        searcher = SaclSearcher(*clip, embedded, engine=engine)
        searcher.save_pretrained(tmp_path / "index")
        with pytest.raises(ValueError, match="other than FAISS"):
            SaclSearcher.from_pretrained(tmp_path / "index", *clip)
        loaded = SaclSearcher.from_pretrained(tmp_path / "index", *clip, engine=engine)
        assert loaded.search_images("a cat") == searcher.search_images("a cat")

    def test_another_model_raises(self, folder, tiny_tokenizer):
        other = make_dual_encoder("clip", tiny_tokenizer, seed=1)
        with pytest.raises(ValueError, match="embedded by 'CLIPModel'"):
            SaclSearcher.from_pretrained(folder, *other)

    def test_a_stale_index_raises(self, folder, clip, embedded, tmp_path):
        """An index of as many embeddings, but of others."""
        shuffled = embedded.select(range(11, -1, -1))
        SaclSearcher(*clip, shuffled).save_pretrained(tmp_path / "shuffled")
        shutil.copy(tmp_path / "shuffled" / "image_embeds.faiss", folder / "image_embeds.faiss")
        with pytest.raises(ValueError, match="image_embeds.faiss is stale"):
            SaclSearcher.from_pretrained(folder, *clip)

    def test_an_index_of_another_size_raises(self, folder, clip):
        engine = FaissEngine()
        engine.add(unit_vectors(7, dim=20), np.arange(7))
        engine.save(folder / "text_embeds.faiss")
        settings = json.loads((folder / "searcher.json").read_text())
        settings["columns"]["text_embeds"]["index"] = xxhash.xxh3_128_hexdigest(
            (folder / "text_embeds.faiss").read_bytes()
        )
        (folder / "searcher.json").write_text(json.dumps(settings))
        with pytest.raises(ValueError, match="7 embeddings of 20 dimensions, the data set 12 of 20"):
            SaclSearcher.from_pretrained(folder, *clip)

    def test_other_embeddings_raise(self, folder, clip, embedded):
        """One row has changed, none that is embedded anew."""
        changed = matrix(embedded, "image_embeds")
        changed[[1, 2]] = changed[[2, 1]]
        column = Dataset.from_dict(
            {"image_embeds": changed}, features=embedded.select_columns("image_embeds").features
        )
        rest = embedded.remove_columns("image_embeds")
        shutil.rmtree(folder / "dataset")
        datasets.concatenate_datasets([rest, column], axis=1).save_to_disk(folder / "dataset")
        with pytest.raises(ValueError, match="`image_embeds` .* are not those that were saved"):
            SaclSearcher.from_pretrained(folder, *clip)

    def test_other_rows_raise(self, folder, clip, embedded):
        shutil.rmtree(folder / "dataset")
        embedded.select(range(5)).save_to_disk(folder / "dataset")
        with pytest.raises(ValueError, match="5 rows .* 12 "):
            SaclSearcher.from_pretrained(folder, *clip)

    def test_what_is_not_there_raises(self, folder, clip, tmp_path):
        with pytest.raises(FileNotFoundError, match="not saved there"):
            SaclSearcher.from_pretrained(tmp_path / "nowhere", *clip)
        (folder / "image_embeds.faiss").unlink()
        with pytest.raises(FileNotFoundError, match="image_embeds.faiss"):
            SaclSearcher.from_pretrained(folder, *clip)

    def test_an_interrupted_save_is_not_taken_for_whole(self, searcher, folder, clip, monkeypatch):
        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(FaissEngine, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            searcher.save_pretrained(folder)
        with pytest.raises(FileNotFoundError, match="to its end"):
            SaclSearcher.from_pretrained(folder, *clip)

    def test_what_was_read_from_a_folder_is_not_written_over(self, folder, clip, tmp_path):
        loaded = SaclSearcher.from_pretrained(folder, *clip)
        with pytest.raises(ValueError, match="save it elsewhere"):
            loaded.save_pretrained(folder)
        loaded.save_pretrained(tmp_path / "elsewhere")
        for each in (folder, tmp_path / "elsewhere"):
            found = SaclSearcher.from_pretrained(each, *clip).search_images("a cat")
            assert found == loaded.search_images("a cat")

    def test_saving_again_replaces(self, clip, searcher, folder, embedded):
        SaclSearcher(*clip, embedded.select(range(4))).save_pretrained(folder)
        loaded = SaclSearcher.from_pretrained(folder, *clip)
        assert len(loaded.search_images("a cat", k=99)) == len(loaded.dataset) == 4
        assert json.loads((folder / "searcher.json").read_text())["rows"] == 4


def test_heads_and_their_encoder_share_embeddings(sacl, pairs, embed):
    """What a pre-trained model embedded is searched with its encoder alone, and the other way round."""
    model, processor = sacl
    assert isinstance(model, SaclForPreTraining)
    searcher = SaclSearcher(model.sacl, processor, embed(model, pairs, processor))
    assert searcher.search_images("a cat") == SaclSearcher(model, processor, searcher.dataset).search_images("a cat")


def test_grey_and_transparent_queries(searcher, pairs):
    image = pairs[0]["image"]
    transparent = PILImage.new("RGBA", (32, 32), (0, 0, 0, 0))
    transparent.paste(image, (0, 0))
    assert searcher.search_texts(transparent) == searcher.search_texts(image)
    assert searcher.search_texts(image.convert("L"))
