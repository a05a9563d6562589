# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Nothing that came from outside is unpickled: whatever holds the payload, it is refused or left alone."""

import contextlib
import io
import json
import pickle
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pytest
import torch
from huggingface_hub import HfApi

from hub_cards.space.loading import load_model
from modeling_sacl import SaclForImageTextRetrieval, SaclModel
from tests.hub.conftest import hub  # noqa: F401
from tests.security.conftest import encoded
from trainer import Guide, SaclSearcher, embed_dataset, load_pairs, seal_checkpoint
from trainer.data.transforms import ImageDecodingError, decode_image
from trainer.evaluation import evaluate_retrieval


class TestPayload:
    def test_runs_where_it_is_unpickled(self, tmp_path):
        """Else nothing below would prove anything."""
        from tests.security.conftest import Hostile

        for form, load in {
            "pickled": pickle.loads,
            "torch_saved": lambda content: torch.load(io.BytesIO(content), weights_only=False),
            "numpy_saved": lambda content: np.load(io.BytesIO(content), allow_pickle=True),
            "numpy_zipped": lambda content: np.load(io.BytesIO(content), allow_pickle=True)["array"],
        }.items():
            hostile = Hostile(tmp_path / form)
            load(getattr(hostile, form)())
            assert hostile.ran, form


@pytest.fixture(params=["pickled", "torch_saved"])
def pickled_weights(request, model_folder, hostile):
    """The folder of a model whose weights are a pickle."""
    (model_folder / "model.safetensors").unlink()
    (model_folder / "pytorch_model.bin").write_bytes(getattr(hostile, request.param)())
    return model_folder


class TestModels:
    @pytest.mark.parametrize(
        "load",
        [
            SaclModel.from_pretrained,
            SaclForImageTextRetrieval.from_pretrained,
            Guide.from_pretrained,
            load_model,
        ],
    )
    def test_weights(self, pickled_weights, hostile, load):
        with pytest.raises((pickle.UnpicklingError, ValueError, OSError, RuntimeError)):
            load(str(pickled_weights))
        assert not hostile.ran

    @pytest.mark.parametrize("command", ["evaluate", "embed", "audit", "train"])
    def test_weights_by_the_command_line(self, pickled_weights, hostile, sacl, pairs, tmp_path, command):
        pairs.to_parquet(tmp_path / "pairs.parquet")
        more = ["--output_dir", tmp_path / "out"] if command != "evaluate" else []
        more += ["--use_cpu", "true"] if command == "train" else []
        code, out, err = sacl(command, "--model", pickled_weights, "--dataset", tmp_path / "pairs.parquet", *more)
        assert code == 1 and f"sacl {command}: error: " in err and not hostile.ran

    def test_shards_of_weights(self, model_folder, hostile):
        (model_folder / "model.safetensors").unlink()
        (model_folder / "pytorch_model-00001-of-00001.bin").write_bytes(hostile.torch_saved())
        index = {"metadata": {}, "weight_map": {"logit_scale": "pytorch_model-00001-of-00001.bin"}}
        (model_folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        with pytest.raises((pickle.UnpicklingError, ValueError, OSError, RuntimeError)):
            SaclModel.from_pretrained(model_folder)
        assert not hostile.ran

    def test_a_pickle_by_the_name_of_safetensors(self, model_folder, hostile):
        (model_folder / "model.safetensors").write_bytes(hostile.pickled())
        with pytest.raises(Exception, match="[Hh]eader|[Ss]afetensor"):
            SaclModel.from_pretrained(model_folder)
        assert not hostile.ran

    def test_what_lies_beside_the_weights(self, model_folder, hostile):
        for name in ("training_args.bin", "optimizer.pt", "vocab.pkl", "tokenizer.pkl", "scaler.pt", "scheduler.bin"):
            (model_folder / name).write_bytes(hostile.pickled())
        SaclModel.from_pretrained(model_folder)
        Guide.from_pretrained(model_folder)
        assert not hostile.ran

    def test_adapters(self, model_folder, make_model, hostile, tmp_path):
        from peft import LoraConfig, PeftModel, get_peft_model

        adapted = get_peft_model(make_model(), LoraConfig(target_modules=["q_proj"]))
        adapted.save_pretrained(tmp_path / "adapters")
        (tmp_path / "adapters" / "adapter_model.safetensors").unlink()
        (tmp_path / "adapters" / "adapter_model.bin").write_bytes(hostile.torch_saved())
        with pytest.raises(pickle.UnpicklingError):
            PeftModel.from_pretrained(make_model(), tmp_path / "adapters")
        assert not hostile.ran

    @pytest.mark.parametrize("form", ["pickled", "torch_saved"])
    @pytest.mark.parametrize("name", ["ALBEF.pth", "ALBEF.safetensors"])
    def test_checkpoints_to_convert(self, hostile, sacl, tmp_path, form, name):
        (tmp_path / name).write_bytes(getattr(hostile, form)())
        code, out, err = sacl("convert", "albef", tmp_path / name, tmp_path / "converted")
        assert code == 1 and "sacl convert: error: " in err and not hostile.ran


@pytest.fixture
def checkpoint(make_trainer, tmp_path):  # noqa: F811
    """A sealed checkpoint after one step."""
    make_trainer(max_steps=1, save_strategy="steps", save_steps=1).train()
    return tmp_path / "run" / "checkpoint-1"


class TestCheckpoints:
    """More in tests/trainer/test_checkpoints.py: optimiser, schedule, random states and shards, one by one."""

    def test_weights_in_place_of_the_safetensors(self, checkpoint, make_trainer, hostile):
        (checkpoint / "model.safetensors").unlink()
        (checkpoint / "pytorch_model.bin").write_bytes(hostile.torch_saved())
        seal_checkpoint(checkpoint)
        with pytest.raises(pickle.UnpicklingError):
            make_trainer(max_steps=2).train(resume_from_checkpoint=str(checkpoint))
        assert not hostile.ran

    def test_what_no_one_asked_for_is_left_alone(self, checkpoint, make_trainer, hostile):
        for name in ("extra.pkl", "sacl_training_state.bin", "model.pickle", "custom_checkpoint_0.pkl"):
            (checkpoint / name).write_bytes(hostile.pickled())
        seal_checkpoint(checkpoint)
        make_trainer(max_steps=2).train(resume_from_checkpoint=str(checkpoint))
        assert not hostile.ran

    @pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"])
    def test_from_a_stranger_on_the_hub(self, hub, checkpoint, make_trainer, hostile, tmp_path, name):  # noqa: F811
        """A stranger can seal as well, and need not have pushed with this library."""
        if name == "pytorch_model.bin":
            (checkpoint / "model.safetensors").unlink()
        (checkpoint / name).write_bytes(hostile.torch_saved())
        seal_checkpoint(checkpoint)
        HfApi().create_repo("user/hostile")
        HfApi().upload_folder(folder_path=checkpoint, path_in_repo="checkpoint-1", repo_id="user/hostile")
        trainer = make_trainer(max_steps=2, output_dir=str(tmp_path / "other"))
        with pytest.raises(pickle.UnpicklingError):
            trainer.train(resume_from_checkpoint="user/hostile")
        assert not hostile.ran


PICKLED_FILES = (
    "train.pkl",
    "train.pickle",
    "train.pth",
    "train.pt",
    "train.bin",
    "train.npy",
    "train.npz",
    "data.h5",
)


class TestDataSets:
    @pytest.mark.parametrize("name", PICKLED_FILES)
    def test_files(self, hostile, tmp_path, name):
        form = {"npy": "numpy_saved", "npz": "numpy_zipped", "pth": "torch_saved"}.get(name[-3:], "pickled")
        (tmp_path / name).write_bytes(getattr(hostile, form)())
        with pytest.raises(ValueError, match="Cannot read pairs from the file"):
            load_pairs(tmp_path / name)
        assert not hostile.ran

    @pytest.mark.parametrize("suffix", [".parquet", ".json", ".jsonl", ".csv", ".arrow"])
    def test_by_the_name_of_another(self, hostile, tmp_path, suffix):
        (tmp_path / f"train{suffix}").write_bytes(hostile.pickled())
        with pytest.raises(Exception):  # noqa: B017 (whatever the reader of that format makes of it)
            load_pairs(tmp_path / f"train{suffix}", cache_dir=tmp_path / "cache")
        assert not hostile.ran

    def test_in_a_folder(self, hostile, tmp_path):
        folder = tmp_path / "folder"
        folder.mkdir()
        for name in PICKLED_FILES:
            (folder / name).write_bytes(hostile.pickled())
        with pytest.raises(Exception):  # noqa: B017
            load_pairs(folder, cache_dir=tmp_path / "cache")
        assert not hostile.ran

    @pytest.mark.parametrize("builder", ["pandas", "./pandas"])
    def test_by_the_builder_that_once_unpickled(self, hostile, tmp_path, builder, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "train.pkl").write_bytes(hostile.pickled())
        with pytest.raises(Exception):  # noqa: B017
            load_pairs(builder, data_files=str(tmp_path / "train.pkl"), split="train", cache_dir=tmp_path / "cache")
        assert not hostile.ran

    def test_named_by_the_card_of_a_data_set(self, hostile, tmp_path):
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "train.pkl").write_bytes(hostile.pickled())
        (folder / "README.md").write_text(
            "---\nconfigs:\n- config_name: default\n  builder_name: pandas\n  data_files: train.pkl\n---\n"
        )
        with pytest.raises(Exception):  # noqa: B017
            load_pairs(folder, split="train", cache_dir=tmp_path / "cache")
        assert not hostile.ran

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize("member", ["pyd", "pickle", "pkl", "pth", "npy", "npz", "pt"])
    def test_members_of_shards(self, hostile, tmp_path, member, streaming):
        form = {"npy": "numpy_saved", "npz": "numpy_zipped", "pth": "torch_saved"}.get(member, "pickled")
        folder = tmp_path / "shards"
        folder.mkdir()
        with tarfile.open(folder / "00000.tar", "w") as archive:
            for number in range(2):
                contents = {"jpg": encoded(kind="JPEG"), "txt": b"a red bus", member: getattr(hostile, form)()}
                for suffix, content in contents.items():
                    info = tarfile.TarInfo(f"{number:05d}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        with contextlib.suppress(Exception):  # Refused as a whole, or read without that member.
            loaded = load_pairs(folder, split="train", streaming=streaming, cache_dir=tmp_path / "cache")
            assert len(list(loaded)) == 2
        assert not hostile.ran

    @pytest.mark.parametrize("name", ["arrow.py_extension_type", "datasets.features.features.Array2DExtensionType"])
    def test_extension_types_of_arrow(self, hostile, tmp_path, name):
        """Once, pyarrow unpickled the metadata of a type that it did not know (CVE-2023-47248)."""
        metadata = {"ARROW:extension:name": name, "ARROW:extension:metadata": hostile.pickled()}
        schema = pa.schema(
            [
                pa.field("image", pa.binary()),
                pa.field("caption", pa.string()),
                pa.field("more", pa.binary(), metadata=metadata),
            ]
        )
        table = pa.table([[encoded()], ["a red bus"], [b"x"]], schema=schema)
        with pa.OSFile(str(tmp_path / "pairs.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(table)
        with contextlib.suppress(Exception):
            list(load_pairs(tmp_path / "pairs.arrow", cache_dir=tmp_path / "cache"))
        assert not hostile.ran

    def test_as_an_image(self, hostile):
        for content in (hostile.pickled(), hostile.torch_saved(), hostile.numpy_saved()):
            with pytest.raises(ImageDecodingError):
                decode_image({"bytes": content, "path": None})
        assert not hostile.ran


class TestSearching:
    @pytest.fixture
    def index(self, make_model, tiny_processor, pairs, tmp_path):
        model = make_model()
        SaclSearcher(model, tiny_processor, embed_dataset(model, pairs, tiny_processor)).save_pretrained(
            tmp_path / "index"
        )
        return tmp_path / "index", model

    def test_indexes_and_what_lies_beside_them(self, index, tiny_processor, hostile):
        folder, model = index
        for name in ("index.pkl", "docstore.pkl", "dataset/cache.pkl", "dataset/state.pkl"):
            (folder / name).write_bytes(hostile.pickled())
        SaclSearcher.from_pretrained(folder, model, tiny_processor)
        (folder / "image_embeds.faiss").write_bytes(hostile.pickled())
        with pytest.raises(ValueError, match="stale"):
            SaclSearcher.from_pretrained(folder, model, tiny_processor)
        assert not hostile.ran

    @pytest.mark.slow
    def test_a_folder_of_lancedb(self, tmp_path, hostile):
        from trainer import LanceEngine

        engine = LanceEngine(tmp_path / "lance", "image_embeds")
        engine.add(np.eye(4, dtype=np.float32), np.arange(4))
        for path in (tmp_path / "lance").rglob("*"):
            if path.is_dir():
                (path / "more.pkl").write_bytes(hostile.pickled())
        found = LanceEngine(tmp_path / "lance", "image_embeds").search(np.eye(4, dtype=np.float32)[:1], 1)
        assert found[1].tolist() == [[0]] and not hostile.ran


class TestMeasuring:
    def test_features_that_are_kept(self, make_model, tiny_processor, pairs, tmp_path, hostile):
        """A folder for features that others can write to."""
        model = make_model()
        embed_dataset(model, pairs, tiny_processor, cache_dir=tmp_path / "kept")
        (kept,) = (tmp_path / "kept").rglob("*.arrow")
        kept.write_bytes(hostile.pickled())
        with pytest.raises(Exception, match="[Aa]rrow|[Ii]nvalid|[Ee]xpected|IPC"):
            embed_dataset(model, pairs, tiny_processor, cache_dir=tmp_path / "kept")
        assert not hostile.ran

    def test_images_that_are_none(self, make_model, tiny_processor, pairs, hostile):
        rows = [{**row, "image": {"bytes": hostile.pickled(), "path": None}} for row in pairs.select(range(2))]
        from datasets import Dataset, Features, Image, Value

        features = Features({"image": Image(decode=False), "caption": Value("string"), "pair_id": Value("int64")})
        with pytest.raises(ValueError):
            evaluate_retrieval(make_model(), Dataset.from_list(rows, features=features), tiny_processor)
        assert not hostile.ran

    def test_metrics(self, tmp_path, hostile):
        import evaluate

        from trainer.evaluation import retrieval

        source = __import__("pathlib").Path(retrieval.__file__).parent / "metrics" / "vqa_accuracy"
        folder = shutil.copytree(source, tmp_path / "vqa_accuracy")
        for name in ("cache.pkl", "default.arrow", "state.pickle"):
            (folder / name).write_bytes(hostile.pickled())
        metric = evaluate.load(str(folder), cache_dir=str(tmp_path / "cache"))
        assert metric is not None and not hostile.ran
