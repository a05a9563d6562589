# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""`sacl push` against a Hub on loopback: what arrives, where, and what a refusal looks like."""

import json

import pytest
import torch

from tests.hub.conftest import hub  # noqa: F401
from trainer.cli import main


@pytest.fixture
def sacl(capsys):
    def run(*words):
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def model_folder(tmp_path, make_model, tiny_processor):
    folder = tmp_path / "model"
    make_model().save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    torch.save({}, folder / "training_args.bin")
    return folder


class TestPush:
    def test_a_model_arrives_without_pickles_and_is_what_was_announced(self, sacl, hub, model_folder):  # noqa: F811
        announced = json.loads(sacl("push", "--dry_run", model_folder, "user/model", "--json")[1])["files"]
        assert not hub.requests("POST", "")
        code, out, err = sacl("push", model_folder, "user/model", "--private", "--tag", "v1", "--json")
        assert code == 0, err
        document, files = json.loads(out), hub.files("user/model")
        assert document["url"].startswith(hub.url) and "training_args.bin" not in files
        assert files["model.safetensors"] == (model_folder / "model.safetensors").read_bytes()
        assert set(announced) <= set(files)
        assert hub.files("user/model", revision="v1") == files

    def test_a_branch_and_a_pull_request(self, sacl, hub, model_folder):  # noqa: F811
        assert sacl("push", model_folder, "user/model", "--revision", "spring")[0] == 0
        assert "model.safetensors" in hub.files("user/model", revision="spring")
        assert "model.safetensors" not in hub.files("user/model")
        code, out, _ = sacl("push", model_folder, "user/model", "--create_pr", "--json")
        assert code == 0 and "/discussions/" in json.loads(out)["url"]
        code, _, err = sacl("push", model_folder, "user/model", "--create_pr", "--revision", "spring")
        assert code == 1 and "pull request" in err

    @pytest.mark.parametrize("kind, names", [("dataset", ["pairs.csv"]), ("space", ["README.md", "app.py"])])
    def test_other_folders_arrive_too(self, sacl, hub, tmp_path, kind, names):  # noqa: F811
        folder = tmp_path / "folder"
        folder.mkdir()
        for name in (*names, "left.pkl"):
            (folder / name).write_text(
                "---\ntitle: A page\nsdk: gradio\n---\n" if name == "README.md" else "a,b\n1,2\n"
            )
        code, out, err = sacl("push", folder, "user/thing", "--tag", "v1", "--json")
        assert code == 0, err
        assert json.loads(out)["type"] == kind and json.loads(out)["left_out"] == ["left.pkl"]
        assert set(names) <= set(hub.files("user/thing", repo_type=kind))
        assert "left.pkl" not in hub.files("user/thing", repo_type=kind)

    def test_a_refusal_is_one_line_that_says_what_to_do(self, sacl, hub, model_folder, monkeypatch):  # noqa: F811
        assert sacl("push", model_folder, "user/model")[0] == 0
        monkeypatch.setenv("HF_TOKEN", "hf_stranger")
        code, out, err = sacl("push", model_folder, "user/model", "--json")
        line = err.strip().splitlines()[-1]
        assert code == 1 and line.startswith("sacl push: error: ") and "Traceback" not in err
        assert "token" in line.lower() and json.loads(out)["error"] in line
