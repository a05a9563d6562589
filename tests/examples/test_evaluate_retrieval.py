# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The evaluation script on Karpathy's format, made of emoji, and the reader of that format."""

import json
import sys
from pathlib import Path

import pytest
import torch

from modeling_sacl import SaclForImageTextRetrieval
from trainer import evaluate_retrieval, load_karpathy

from .scripts import ROOT, run_here


sys.path.insert(0, str(ROOT / "examples"))
from emoji import load_emoji  # noqa: E402


@pytest.fixture(scope="module")
def karpathy(tmp_path_factory) -> tuple[Path, Path]:
    """Annotations as those of COCO, and images in folders: thirty emoji with two captions each."""
    folder = tmp_path_factory.mktemp("karpathy")
    images = []
    for number, row in enumerate(load_emoji("test_unseen_concept").select(range(0, 300, 10))):
        place = "val2014" if number % 2 else "train2014"
        (folder / "images" / place).mkdir(parents=True, exist_ok=True)
        row["image"].save(folder / "images" / place / f"{number}.png")
        split = "train" if number < 5 else "restval" if number < 8 else "val" if number < 12 else "test"
        sentences = [{"raw": row["caption"], "tokens": row["caption"].split(), "imgid": number, "sentid": 2 * number}]
        sentences.append({"raw": row["sentence"], "tokens": [], "imgid": number, "sentid": 2 * number + 1})
        images.append(
            {"filepath": place, "filename": f"{number}.png", "imgid": number, "split": split, "sentences": sentences}
        )
    annotations = folder / "dataset_coco.json"
    annotations.write_text(json.dumps({"dataset": "coco", "images": images}), encoding="utf-8")
    return annotations, folder / "images"


class TestLoadKarpathy:
    @pytest.mark.parametrize(("split", "count"), [("test", 18), ("val", 4), ("train", 8)])
    def test_splits(self, karpathy, split, count):
        dataset = load_karpathy(*karpathy, split)
        assert len(dataset) == count and dataset.column_names == ["image", "captions", "pair_id"]

    def test_row(self, karpathy):
        emoji = load_emoji("test_unseen_concept")[120]
        row = load_karpathy(*karpathy)[0]
        assert row["pair_id"] == 12 and row["captions"] == [emoji["caption"], emoji["sentence"]]
        assert row["image"].convert("RGB").tobytes() == emoji["image"].convert("RGB").tobytes()

    def test_first_captions_only(self, karpathy):
        assert {len(captions) for captions in load_karpathy(*karpathy, max_captions=1)["captions"]} == {1}

    def change(self, karpathy, tmp_path, **changes) -> Path:
        content = json.loads(karpathy[0].read_text())
        content["images"][20].update(changes)
        (tmp_path / "changed.json").write_text(json.dumps(content))
        return tmp_path / "changed.json"

    def test_missing_image_is_named(self, karpathy, tmp_path):
        changed = self.change(karpathy, tmp_path, filename="lost.jpg")
        with pytest.raises(FileNotFoundError, match="'train2014/lost.jpg' is not in"):
            load_karpathy(changed, karpathy[1])

    def test_nothing_outside_the_folder_is_read(self, karpathy, tmp_path):
        (karpathy[1].parent / "secret.png").write_bytes(b"")
        changed = self.change(karpathy, tmp_path, filepath="..", filename="secret.png")
        with pytest.raises(FileNotFoundError, match="secret.png' is not in"):
            load_karpathy(changed, karpathy[1])

    def test_image_without_caption_is_named(self, karpathy, tmp_path):
        with pytest.raises(ValueError, match="'20.png' has no caption"):
            load_karpathy(self.change(karpathy, tmp_path, sentences=[{"raw": "  "}]), karpathy[1])
        with pytest.raises(ValueError, match="lacks `filename`, `imgid` or `sentences`"):
            load_karpathy(self.change(karpathy, tmp_path, sentences=[{"tokens": []}]), karpathy[1])

    def test_other_files_are_refused(self, karpathy, tmp_path):
        (tmp_path / "list.json").write_text('[{"image": "a.jpg", "caption": "a"}]')
        (tmp_path / "cut.json").write_text(karpathy[0].read_text()[:100])
        with pytest.raises(ValueError, match="not in Karpathy's format"):
            load_karpathy(tmp_path / "list.json", karpathy[1])
        with pytest.raises(ValueError, match="no JSON file"):
            load_karpathy(tmp_path / "cut.json", karpathy[1])
        with pytest.raises(FileNotFoundError, match="annotations"):
            load_karpathy(tmp_path / "none.json", karpathy[1])
        with pytest.raises(FileNotFoundError, match="folder of images"):
            load_karpathy(karpathy[0], tmp_path / "none")
        with pytest.raises(ValueError, match="no split 'dev', only 'restval', 'test', 'train', 'val'"):
            load_karpathy(*karpathy, "dev")


def test_script_evaluates_with_re_ranking(karpathy, tiny_config, tiny_processor, tmp_path):
    tiny_config.text_config.vocab_size = len(tiny_processor.tokenizer)
    torch.manual_seed(0)
    model = SaclForImageTextRetrieval(tiny_config).eval()
    model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    printed = run_here(
        "evaluate_retrieval.py", "--model", str(tmp_path / "model"), "--karpathy", str(karpathy[0]),
        "--image_dir", str(karpathy[1]), "--rerank_top_k", "12", "--output", str(tmp_path / "metrics.json"),
    )  # fmt: skip
    assert "18 rows" in printed
    assert [line.split()[0] for line in printed.splitlines() if line.startswith(("cosine", "ITM"))] == [
        "cosine",
        "ITM",
        "ITM",
    ]
    expected = evaluate_retrieval(model, load_karpathy(*karpathy), tiny_processor, rerank_top_k=12)
    assert json.loads((tmp_path / "metrics.json").read_text()) == pytest.approx(expected, abs=1e-9)
