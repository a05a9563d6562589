# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""One process pushes, another that knows nothing of this package loads, and all they share is `HF_ENDPOINT`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import set_seed

from modeling_sacl import SaclConfig, SaclForPreTraining
from tests.hub_server import Account, Hub
from tests.without_the_package import WITHOUT_THE_PACKAGE


ROOT = Path(__file__).parents[2]

# Two processes that import everything: on a busy machine that takes its time.
pytestmark = pytest.mark.timeout(900)

PUSH = r"""
import sys, threading
import torch
from datasets import load_from_disk
from huggingface_hub import HfApi
from safetensors.torch import save_file
from transformers import AutoProcessor
from modeling_sacl import SaclForPreTraining
from trainer import PairCollator, SaclTrainer, SaclTrainingArguments

material, root = sys.argv[1:]
torch.set_num_threads(1)
processor = AutoProcessor.from_pretrained(f"{material}/model")
trainer = SaclTrainer(
    model=SaclForPreTraining.from_pretrained(f"{material}/model"),
    args=SaclTrainingArguments(
        f"{material}/run", push_to_hub=True, hub_model_id="user/sacl-emoji", hub_private_repo=True, use_cpu=True,
        hub_strategy="checkpoint", save_strategy="steps", save_steps=1, max_steps=1, per_device_train_batch_size=4,
        report_to="none", disable_tqdm=True,
    ),
    train_dataset=load_from_disk(f"{material}/pairs"),
    data_collator=PairCollator(processor).for_evaluation(),
    processing_class=processor,
)
trainer.train()
trainer.push_to_hub(tag="v1.0", license="apache-2.0")
torch.manual_seed(0)
inputs = {
    "pixel_values": torch.randn(3, 3, 32, 32), "input_ids": torch.randint(5, 30, (3, 7)),
    "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 6 + [0]]),
}
with torch.no_grad():
    outputs = trainer.model.eval()(**inputs)
save_file({**inputs, "image_embeds": outputs["image_embeds"], "text_embeds": outputs["text_embeds"]},
          f"{material}/pushed.safetensors")

api = HfApi()
api.create_repo("user/emoji", repo_type="dataset")
api.upload_folder(repo_id="user/emoji", repo_type="dataset", folder_path=f"{root}/examples/data/emoji")
api.create_repo("user/image_text_retrieval", repo_type="space", space_sdk="gradio")
metric = f"{root}/trainer/evaluation/metrics/image_text_retrieval"
api.upload_folder(repo_id="user/image_text_retrieval", repo_type="space", folder_path=metric)

# A Hub that never answers must not keep the process from ending.
trainer.push_in_progress.submit("a push", threading.Event().wait, None)
assert not trainer.push_in_progress.is_done()
"""

LOAD = r"""
import importlib.util, json, sys
import torch
from datasets import load_dataset
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

material = sys.argv[1]
torch.set_num_threads(1)
pushed = load_file(f"{material}/pushed.safetensors")
inputs = {name: pushed[name] for name in ("pixel_values", "input_ids", "attention_mask")}
report, tensors = {}, {}
for revision in ("main", "v1.0"):
    model = AutoModel.from_pretrained("user/sacl-emoji", revision=revision, trust_remote_code=True)
    with torch.no_grad():
        outputs = model(**inputs)
    tensors[f"{revision}.image_embeds"], tensors[f"{revision}.text_embeds"] = outputs.image_embeds, outputs.text_embeds
report["module"] = type(model).__module__
processor = AutoProcessor.from_pretrained("user/sacl-emoji", trust_remote_code=True)
image = Image.new("RGB", (40, 30), "red")
prepared = processor(text=["a red bus", "dog"], images=image, return_tensors="pt")
tensors |= {f"processor.{name}": value for name, value in prepared.items()}

data = load_dataset("user/emoji")
report["splits"] = {name: len(rows) for name, rows in data.items()}
report["row"] = {name: str(value) for name, value in data["validation"][0].items()}

import evaluate
metric = evaluate.load("user/image_text_retrieval")
report["metric"] = metric.compute(predictions=[[0.9, 0.1], [0.8, 0.2]], references=[[1, 0], [0, 1]], ks=(1,))
try:
    AutoModel.from_pretrained("user/sacl-emoji", token="hf_stranger", trust_remote_code=True, force_download=True)
except OSError as error:
    report["refused"] = str(error)
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, f"{material}/loaded.safetensors")
json.dump(report, open(f"{material}/report.json", "w"))
"""


def environment(url, home):
    """What a process has that was started by a user of the Hub: an endpoint, a token, a home."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_", "TRANSFORMERS_"))
    }
    return {
        **inherited,
        "HF_ENDPOINT": url,
        "HF_TOKEN": "hf_owner",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def run(arguments, **options):
    process = subprocess.run(
        [sys.executable, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, **options
    )
    assert process.returncode == 0, process.stderr[-3000:]


@pytest.fixture(scope="module")
def exchange(tmp_path_factory, tiny_processor):
    """What both processes have written, and the Hub that was between them."""
    material = tmp_path_factory.mktemp("exchange")
    set_seed(0)
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37}
    config = SaclConfig(
        text_config={**tiny, "vocab_size": 99},
        vision_config={**tiny, "image_size": 32, "patch_size": 8},
        fusion_encoder_config={"num_hidden_layers": 1},
        projection_dim=20,
    )
    SaclForPreTraining(config).save_pretrained(material / "model")
    tiny_processor.save_pretrained(material / "model")
    _pairs().save_to_disk(material / "pairs")
    with Hub(material / "hub", {"hf_owner": Account("user"), "hf_stranger": Account("stranger")}) as hub:
        path = {"PYTHONPATH": str(ROOT)}
        run(
            ["-c", PUSH, str(material), str(ROOT)],
            env={**environment(hub.url, material / "home"), **path},
            cwd=material,
        )
        run(
            ["-I", "-c", WITHOUT_THE_PACKAGE + LOAD, str(material)],
            env=environment(hub.url, material / "other-home"),
            cwd=material,
        )
        yield hub, material


def _pairs():
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as PILImage

    colors = ["red", "green", "blue", "white"]
    features = Features({"image": Image(), "caption": Value("string")})
    images = [PILImage.new("RGB", (32, 32), color) for color in colors]
    return Dataset.from_dict({"image": images, "caption": [f"a {color} bus" for color in colors]}, features=features)


class TestTwoProcesses:
    def test_embeddings_are_equal_to_the_last_bit(self, exchange):
        _, material = exchange
        pushed, loaded = (load_file(material / f"{name}.safetensors") for name in ("pushed", "loaded"))
        for revision in ("main", "v1.0"):
            for name in ("image_embeds", "text_embeds"):
                assert torch.equal(loaded[f"{revision}.{name}"], pushed[name])

    def test_the_code_came_from_the_hub(self, exchange):
        _, material = exchange
        assert json.loads((material / "report.json").read_text())["module"].startswith("transformers_modules.")

    def test_the_processor_prepares_the_same(self, exchange, tiny_processor, tmp_path):
        from PIL import Image

        _, material = exchange
        loaded = load_file(material / "loaded.safetensors")
        image = Image.new("RGB", (40, 30), "red")
        for name, value in tiny_processor(text=["a red bus", "dog"], images=image, return_tensors="pt").items():
            assert torch.equal(loaded[f"processor.{name}"], value)

    def test_the_data_set(self, exchange):
        from datasets import load_dataset

        _, material = exchange
        report = json.loads((material / "report.json").read_text())
        rows = load_dataset("parquet", data_files=str(ROOT / "examples/data/emoji/validation-*.parquet"))["train"]
        assert report["splits"]["validation"] == len(rows)
        assert set(report["splits"]) == {"train", "validation", "test_unseen_concept", "test_unseen_composition"}
        assert set(report["row"]) == set(rows.column_names)

    def test_the_metric(self, exchange):
        _, material = exchange
        metric = json.loads((material / "report.json").read_text())["metric"]
        assert metric["recall@1"] == 50 and metric["median_rank"] == 1.5

    def test_a_stranger_is_refused(self, exchange):
        _, material = exchange
        assert "private" in json.loads((material / "report.json").read_text())["refused"]

    def test_each_push_was_one_commit_without_pickles(self, exchange):
        hub, _ = exchange
        assert hub.commits("user/sacl-emoji") == ["End of training", "Training in progress, step 1"]
        files = hub.files("user/sacl-emoji")
        assert "last-checkpoint/optimizer.pt.safetensors" in files
        assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
        assert not [seen for seen in hub.seen if seen.at_storage and "authorization" in seen.headers]


class TestTheServerByItself:
    def test_runs_as_a_module(self, tmp_path):
        command = [
            sys.executable,
            "-m",
            "tests.hub_server",
            "--root",
            str(tmp_path / "hub"),
            "--token",
            "user=hf_owner",
        ]
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            url = server.stdout.readline().strip()
            code = (
                "from huggingface_hub import HfApi; print(HfApi().whoami()['name'], HfApi().create_repo('m').repo_id)"
            )
            answer = subprocess.run(
                [sys.executable, "-c", code],
                env=environment(url, tmp_path),
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert answer.stdout.split() == ["user", "user/m"], answer.stderr
        finally:
            server.terminate()
            server.wait(timeout=10)
