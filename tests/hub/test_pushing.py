# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Pushing to a Hub over HTTP: what arrives there, as what, and for whom."""

import json
import logging
import os

import pytest
import torch
import yaml
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from peft import LoraConfig, PeftModel
from safetensors.torch import load as load_tensors
from transformers import AutoModel, AutoProcessor

from modeling_sacl import SaclModel
from modeling_sacl.configuration_sacl import MODULES
from trainer import SaclTrainingArguments
from trainer.sharing import load_training_arguments, save_training_arguments, shareable_arguments, stage


REPO = "user/sacl-tiny"
PICKLES = (".bin", ".pt", ".pth", ".pkl")


def embeds(model, batch):
    with torch.no_grad():
        names = ("pixel_values", "input_ids", "attention_mask")
        outputs = model.eval()(**{name: batch[name] for name in names})
    return outputs["image_embeds"], outputs["text_embeds"]


@pytest.fixture
def batch(plain_collator, pairs):
    return plain_collator([pairs[index] for index in range(4)])


class TestTheTrainer:
    def test_pushes_everything_that_explains_the_model_and_no_pickle(self, hub, make_trainer, batch):
        trainer = make_trainer(seed=7, hub_token="hf_owner", run_name="nobody's business")
        trainer.train()
        commit = trainer.push_to_hub(commit_message="First", tags=["emoji"], license="cc-by-4.0")
        files = hub.files(REPO)
        assert {"model.safetensors", "config.json", "processor_config.json", "tokenizer.json", "README.md"} <= set(
            files
        )
        assert {f"{module}.py" for module in MODULES} <= set(files)
        assert {"training_arguments.yaml", "LICENSE", "NOTICE"} <= set(files)
        assert not [name for name in files if name.endswith(PICKLES) or "state" in name]
        assert "SaclModel" in json.loads(files["config.json"])["auto_map"]["AutoModel"]
        assert b"Apache License" in files["LICENSE"]
        assert hub.commits(REPO) == ["First"]
        assert commit.oid == hub.repository(REPO).resolve("main")
        metadata = yaml.safe_load(files["README.md"].split(b"---")[1])
        assert metadata["license"] == "cc-by-4.0" and {"emoji", "sacl"} <= set(metadata["tags"])

        whole = b"".join(files.values())
        assert b"hf_owner" not in whole and b"nobody's business" not in whole
        assert str(trainer.args.output_dir).encode() not in whole

        loaded, theirs = AutoModel.from_pretrained(REPO), trainer.model.sacl
        assert all(map(torch.equal, embeds(loaded, batch), embeds(theirs, batch)))
        assert type(AutoProcessor.from_pretrained(REPO)).__name__ == "SaclProcessor"

    def test_nothing_that_lies_about_is_pushed(self, hub, make_trainer, tmp_path):
        trainer = make_trainer(save_strategy="steps", save_steps=1)
        trainer.train()
        trainer.save_state()
        run = tmp_path / "run"
        for name in (".env", "notes.pkl", "train.py", "secret.key", "runs/events.out.tfevents.1", "_private/a.json"):
            (run / name).parent.mkdir(exist_ok=True)
            (run / name).write_text("secret")
        trainer.push_to_hub()
        assert not [content for content in hub.files(REPO).values() if b"secret" in content]
        assert not [name for name in hub.files(REPO) if "checkpoint-" in name or "state" in name]

    def test_pushing_again_changes_what_has_changed(self, hub, make_trainer):
        trainer = make_trainer()
        trainer.push_to_hub(commit_message="one")
        trainer.push_to_hub(commit_message="the same")
        assert hub.commits(REPO) == ["one"]
        with torch.no_grad():
            trainer.model.sacl.logit_scale += 1
        trainer.push_to_hub(commit_message="two")
        assert hub.commits(REPO) == ["two", "one"]
        before, after = (
            load_tensors(hub.files(REPO, revision)["model.safetensors"]) for revision in _history(hub)[1::-1]
        )
        assert [name for name in after if not torch.equal(before[name], after[name])] == ["sacl.logit_scale"]

    def test_weights_of_an_older_push_are_not_mixed_with_the_new_ones(self, hub, make_trainer, batch):
        trainer = make_trainer()
        trainer.push_to_hub()
        # In shards, which loading passes over if there is a file of the whole.
        with torch.no_grad():
            trainer.model.sacl.logit_scale += 1
        os.remove(f"{trainer.args.output_dir}/model.safetensors")
        trainer.model.save_pretrained(trainer.args.output_dir, max_shard_size="50KB")
        trainer._repository.push(stage(trainer.args.output_dir), "In shards")
        names = set(hub.files(REPO))
        assert "model.safetensors.index.json" in names and "model.safetensors" not in names
        assert AutoModel.from_pretrained(REPO).logit_scale == trainer.model.sacl.logit_scale

    def test_private(self, hub, make_trainer, monkeypatch):
        make_trainer(hub_private_repo=True).push_to_hub()
        assert hub.repository(REPO).data["private"]
        for token, status in ((False, 401), ("hf_stranger", 404)):
            with pytest.raises(RepositoryNotFoundError, match="private or gated") as caught:
                hf_hub_download(REPO, "config.json", token=token)
            assert caught.value.response.status_code == status
        assert hf_hub_download(REPO, "config.json", token="hf_reader")
        with pytest.raises(OSError, match="hf auth login"):
            AutoModel.from_pretrained(REPO, token="hf_stranger")

    def test_revision_is_made_and_loads(self, hub, make_trainer):
        trainer = make_trainer(hub_revision="wide")
        trainer.push_to_hub(commit_message="Wider")
        trainer.push_to_hub(commit_message="Deeper", revision="deep")
        assert hub.commits(REPO, "wide") == ["Wider"]
        assert "model.safetensors" not in hub.files(REPO)
        assert AutoModel.from_pretrained(REPO, revision="wide").config.projection_dim == 20
        with pytest.raises(OSError, match="narrow"):
            AutoModel.from_pretrained(REPO, revision="narrow")

    def test_tag(self, hub, make_trainer):
        trainer = make_trainer()
        commit = trainer.push_to_hub(tag="v1.0")
        assert hub.repository(REPO).resolve("v1.0") == commit.oid
        with torch.no_grad():
            trainer.model.sacl.logit_scale += 1
        with pytest.raises(ValueError, match="has a tag 'v1.0' already"):
            trainer.push_to_hub(tag="v1.0")
        assert hub.repository(REPO).resolve("main") == commit.oid

    def test_pull_request_of_a_stranger(self, hub, make_trainer, monkeypatch):
        make_trainer().push_to_hub()
        published = hub.repository(REPO).resolve("main")
        monkeypatch.setenv("HF_TOKEN", "hf_stranger")
        trainer = make_trainer()
        with torch.no_grad():
            trainer.model.sacl.logit_scale += 1
        with pytest.raises(HfHubHTTPError, match="create_pr=True"):
            trainer.push_to_hub()
        commit = trainer.push_to_hub(commit_message="Warmer", create_pr=True)
        assert commit.pr_url.endswith("/user/sacl-tiny/discussions/1")
        assert hub.repository(REPO).resolve("main") == published
        assert AutoModel.from_pretrained(REPO, revision="refs/pr/1").logit_scale == trainer.model.sacl.logit_scale

        HfApi(token="hf_owner").merge_pull_request(REPO, 1)
        assert AutoModel.from_pretrained(REPO).logit_scale == trainer.model.sacl.logit_scale

    @pytest.mark.parametrize("options", [{"revision": "dev"}, {"tag": "v1"}])
    def test_what_excludes_a_pull_request_is_said_before_anything_is_sent(self, hub, make_trainer, options):
        trainer = make_trainer()
        with pytest.raises(ValueError, match="create_pr|pull request"):
            trainer.push_to_hub(create_pr=True, **options)
        assert not hub.requests("POST", "commit|preupload|branch")

    def test_a_misspelt_option_of_the_card_is_refused(self, hub, make_trainer):
        with pytest.raises(TypeError, match="licence"):
            make_trainer().push_to_hub(licence="apache-2.0")
        assert hub.commits(REPO) == []

    def test_saving_pushes(self, hub, make_trainer):
        make_trainer().save_model()
        assert hub.commits(REPO) == ["Model save"]

    def test_without_a_namespace_and_without_asking_for_it_before(self, hub, make_trainer):
        trainer = make_trainer(push_to_hub=False, hub_model_id=None)
        trainer.push_to_hub()
        assert "model.safetensors" in hub.files("user/run")

    def test_in_the_background(self, hub, make_trainer):
        future = make_trainer().push_to_hub(blocking=False)
        assert future.result(timeout=30).oid == hub.repository(REPO).resolve("main")

    def test_large_files_are_sent_in_parts_and_no_token_goes_to_the_storage(self, hub, make_trainer):
        hub.part_size = 50_000
        trainer = make_trainer()
        trainer.push_to_hub()
        AutoModel.from_pretrained(REPO)
        assert len(hub.requests("PUT", "part=")) > 2
        content = hub.files(REPO)["model.safetensors"]
        assert content == open(f"{trainer.args.output_dir}/model.safetensors", "rb").read()
        at_storage = [seen for seen in hub.seen if seen.at_storage]
        assert {seen.method for seen in at_storage} == {"PUT", "GET"}
        assert not [seen for seen in at_storage if "authorization" in seen.headers]


def _history(hub):
    return [commit["oid"] for commit in hub.repository(REPO).history("main")]


class TestTheCard:
    def test_what_someone_wrote_on_the_hub_is_the_start_of_the_next_card(self, hub, make_trainer, monkeypatch):
        trainer = make_trainer()
        trainer.push_to_hub()
        theirs = hub.files(REPO)["README.md"].decode() + "\nSeen on the Hub.\n"
        HfApi().upload_file(path_or_fileobj=theirs.encode(), path_in_repo="README.md", repo_id=REPO)
        started_from = []

        def note(**options):
            started_from.append(open(f"{trainer.args.output_dir}/README.md").read())

        monkeypatch.setattr(trainer, "create_model_card", note)
        trainer.push_to_hub()
        assert started_from == [theirs]

    def test_what_changed_in_both_places_is_said(self, hub, make_trainer, monkeypatch, caplog, tmp_path):
        trainer = make_trainer()
        trainer.push_to_hub()
        HfApi().upload_file(path_or_fileobj=b"theirs", path_in_repo="README.md", repo_id=REPO)
        (tmp_path / "run" / "README.md").write_text("ours")
        with caplog.at_level(logging.WARNING, logger="trainer.sharing"):
            trainer._repository.fetch_card(tmp_path / "run")
        assert "takes the place of a card on the Hub" in caplog.text
        assert (tmp_path / "run" / "README.md").read_text() == "ours"


class TestModelAndProcessor:
    def test_each_pushes_by_itself(self, hub, make_model, tiny_processor, batch):
        model = make_model(SaclModel)
        model.push_to_hub("sacl-tiny", commit_message="Weights", tags=["emoji"])
        tiny_processor.push_to_hub("user/sacl-tiny")
        files = hub.files(REPO)
        assert {"model.safetensors", "config.json", "processor_config.json", "processing_sacl.py"} <= set(files)
        assert hub.commits(REPO) == ["Upload processor", "Weights"]
        assert not [name for name in files if name.endswith(PICKLES)]
        assert all(map(torch.equal, embeds(AutoModel.from_pretrained(REPO), batch), embeds(model, batch)))
        assert AutoProcessor.from_pretrained(REPO).tokenizer.vocab == tiny_processor.tokenizer.vocab

    def test_private_revision_and_pull_request(self, hub, make_model):
        model = make_model(SaclModel)
        model.push_to_hub("user/sacl-tiny", private=True, revision="dev")
        model.push_to_hub("user/sacl-tiny", create_pr=True)
        assert hub.repository(REPO).data["private"]
        assert "model.safetensors" in hub.files(REPO, "dev") and "model.safetensors" in hub.files(REPO, "refs/pr/1")
        assert "model.safetensors" not in hub.files(REPO)


class TestAdapters:
    def test_are_pushed_and_loaded(self, hub, make_trainer, make_model, batch):
        lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        trainer = make_trainer(make_model(SaclModel), peft_config=lora, itm_weight=0.0, mlm_weight=0.0)
        trainer.push_to_hub()
        files = hub.files(REPO)
        assert {"adapter_model.safetensors", "adapter_config.json", "training_arguments.yaml"} <= set(files)
        assert "model.safetensors" not in files and not [name for name in files if name.endswith(PICKLES)]
        loaded = PeftModel.from_pretrained(make_model(SaclModel), REPO)
        assert all(map(torch.equal, embeds(loaded, batch), embeds(trainer.model, batch)))


class TestTrainingArguments:
    def test_come_back_as_they_were(self, make_arguments, tmp_path):
        args = make_arguments(
            learning_rate=3e-4,
            objective="infonce",
            momentum=None,
            bf16=False,
            lr_scheduler_type="linear",
            adam_beta2=0.98,
            warmup_steps=0.25,
            accelerator_config={"split_batches": True},
        )
        path = save_training_arguments(args, tmp_path)
        again = load_training_arguments(tmp_path, output_dir=tmp_path / "again", use_cpu=True, report_to="none")
        assert shareable_arguments(again) == shareable_arguments(args)
        assert again.adam_beta2 == 0.98 and again.momentum is None and again.output_dir == str(tmp_path / "again")
        assert str(tmp_path) not in path.read_text()

    def test_every_argument_of_the_method_is_named(self, make_arguments):
        # How long to wait for data is of the machine, and not of the method.
        own = set(SaclTrainingArguments.__annotations__) - {"dataloader_timeout"}
        assert own <= set(shareable_arguments(make_arguments()))

    def test_paths_and_tokens_stay_at_home(self, make_arguments, tmp_path):
        args = make_arguments(hub_token="hf_secret", push_to_hub=False)
        args.optim_args = "/home/me/optimizer.json"
        text = save_training_arguments(args, tmp_path).read_text()
        assert "hf_secret" not in text and "/home/me" not in text and "# optim_args: a path" in text
        assert "optim_args" not in yaml.safe_load(text)

    def test_unknown_names_are_refused(self, tmp_path):
        (tmp_path / "training_arguments.yaml").write_text("learning_rate: 0.1\nlearnin_rate: 0.2\n")
        with pytest.raises(ValueError, match="learnin_rate"):
            load_training_arguments(tmp_path, output_dir=tmp_path)
        (tmp_path / "training_arguments.yaml").write_text("- learning_rate\n")
        with pytest.raises(ValueError, match="must be a mapping"):
            load_training_arguments(tmp_path, output_dir=tmp_path)
