# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""An access token stays where it was given: it is in nothing that is written, said, logged or raised."""

import json
import logging
import os
import pickle
import re
import sys
import zipfile

import pytest
from huggingface_hub.errors import HfHubHTTPError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hub import conftest as hub_conftest
from tests.hub.conftest import clock, hub, make_trainer  # noqa: F401
from trainer.cli import main
from trainer.cli.output import Output
from trainer.text import without_secrets


# As long as a real one.
TOKEN = "hf_" + "SentinelOfTheTests0123456789abcdef"[:34]


@pytest.fixture(autouse=True)
def known_token(monkeypatch):
    """The Hub on loopback knows it, and `HF_TOKEN` is another, so that only what is passed is used."""
    monkeypatch.setitem(hub_conftest.TOKENS, TOKEN, hub_conftest.TOKENS["hf_owner"])


def files_with_the_token(folder):
    """Every file below, also within archives, that has the token in any usual encoding."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    content += b"".join(archive.read(name) for name in archive.namelist())
            if TOKEN.encode() in content or TOKEN.encode("utf-16-le") in content:
                found.append(path.relative_to(folder).as_posix())
    return found


class TestTraining:
    def test_nothing_that_a_run_writes_says_or_pushes_has_it(
        self,
        hub,  # noqa: F811
        make_trainer,  # noqa: F811
        tmp_path,
        monkeypatch,
        caplog,
        capfd,  # noqa: F811
    ):
        monkeypatch.delenv("HF_TOKEN")
        caplog.set_level(logging.DEBUG)
        trainer = make_trainer(
            max_steps=1,
            save_strategy="steps",
            save_steps=1,
            hub_strategy="checkpoint",
            hub_token=TOKEN,
        )
        trainer.train()
        trainer.push_to_hub()
        trainer.save_model(str(tmp_path / "saved"))
        assert (tmp_path / "run" / "training_args.bin").is_file() and trainer.args.hub_token == TOKEN
        assert "last-checkpoint/trainer_state.json" in hub.repository("user/sacl-tiny").files("main")
        assert files_with_the_token(tmp_path) == []
        captured = capfd.readouterr()
        assert TOKEN not in captured.out + captured.err + caplog.text
        assert TOKEN not in repr(trainer.args) + str(trainer.args) + json.dumps(trainer.args.to_dict(), default=str)

    def test_nor_has_a_push_that_fails(self, hub, make_trainer, monkeypatch, caplog, capfd, clock):  # noqa: F811
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(HfHubHTTPError) as caught:
            make_trainer(hub_model_id="stranger/sacl-tiny", hub_token=TOKEN).push_to_hub()
        told, error = [], caught.value
        while error is not None:
            told += [str(error), repr(error), str(vars(error))]
            error = error.__cause__ or error.__context__
        captured = capfd.readouterr()
        assert TOKEN not in "".join(told) + captured.out + captured.err + caplog.text

    def test_arguments_are_pickled_without_it(self, make_trainer, tmp_path):  # noqa: F811
        trainer = make_trainer(push_to_hub=False, hub_token=TOKEN)
        trainer.save_model(str(tmp_path / "saved"))
        content = (tmp_path / "saved" / "training_args.bin").read_bytes()
        assert b"hub_token" in content or zipfile.is_zipfile(tmp_path / "saved" / "training_args.bin")
        assert files_with_the_token(tmp_path) == [] and trainer.args.hub_token == TOKEN
        assert TOKEN.encode() in pickle.dumps(trainer.args.hub_token)


class TestCommandLine:
    @pytest.mark.parametrize(
        "words",
        [
            ["train", "--hub_token", TOKEN],
            ["train", f"--hub_tokn={TOKEN}", "--model", "./nothing", "--dataset", "x/y"],
            ["train", "--hub_token", TOKEN, "--model", "./nothing", "--dataset", "x/y"],
            ["train", "--hub_token", TOKEN, "--bf16", TOKEN],
            ["train", "--model", "./nothing", "--dataset", f"https://user:{TOKEN}@host/x.parquet"],
            ["push", TOKEN, "user/x"],
            ["push", "--token", TOKEN, "folder", "user/x"],
            ["evaluate", "--batch_size", TOKEN],
            ["evaluate", "--dtype", TOKEN],
            [TOKEN],
        ],
    )
    @pytest.mark.parametrize("more", [[], ["--json"], ["--debug"]])
    def test_wrong_words_are_not_repeated(self, sacl, words, more):
        code, out, err = sacl(*words, *more)
        assert code in (1, 2) and "error: " in err and TOKEN not in out + err

    @pytest.mark.parametrize(
        "line", ["hub_token: [{}]", "hub_tokn: {}", "bf16: {}", "hub_token: {}\nhub_token: x", "{}"]
    )
    @pytest.mark.parametrize("more", [[], ["--debug"]])
    def test_nor_are_those_of_a_file(self, sacl, tmp_path, line, more):
        (tmp_path / "run.yaml").write_text(line.format(TOKEN))
        code, out, err = sacl("train", "--config", tmp_path / "run.yaml", *more)
        assert code == 2 and "error: " in err and TOKEN not in out + err

    def test_nor_is_what_the_environment_has(self, monkeypatch, capsys):
        """Whatever it looks like."""
        monkeypatch.setenv("HF_TOKEN", "some-secret-of-ours")
        output = Output(as_json=True)
        output.say("with some-secret-of-ours in hand")
        output.failure("sacl", "refused: some-secret-of-ours")
        captured = capsys.readouterr()
        assert "some-secret" not in captured.out + captured.err

    def test_help_does_not_show_it(self, sacl, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        _, out, err = sacl("train", "--help_all")
        assert TOKEN not in out + err


class TestHiding:
    @settings(max_examples=80, deadline=None)
    @given(st.text(max_size=30), st.text("abcXYZ019", min_size=20, max_size=40), st.text(max_size=30))
    def test_tokens_anywhere(self, before, secret, after):
        before = re.sub(r"\w$", " ", before)  # Within a longer word it is none.
        shown = without_secrets(f"{before}hf_{secret}{after}")
        assert f"hf_{secret}" not in shown

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("https://me:pass@host/x", "https://***@host/x"),
            ("s3://b/k?X-Amz-Signature=abc&x=1", "s3://b/k?X-Amz-Signature=***&x=1"),
            ("Authorization: Bearer abc.def.ghi", "Authorization: Bearer ***"),
            (
                "nothing to hide: hf_token, key=3, https://host/x?a=1",
                "nothing to hide: hf_token, key=3, https://host/x?a=1",
            ),
        ],
    )
    def test_other_secrets(self, text, shown):
        assert without_secrets(text) == shown

    def test_main_is_where_all_errors_end(self, monkeypatch, capsys):
        """Of whatever library, and whatever they say."""

        def fail(*words):
            raise RuntimeError(f"no {TOKEN}")

        # The module: of the package, `main` is the function.
        monkeypatch.setattr(sys.modules["trainer.cli.main"], "_run", fail)
        assert main(["evaluate"]) == 1 and main(["evaluate", "--debug", "--json"]) == 1
        captured = capsys.readouterr()
        assert "RuntimeError: no hf_***" in captured.err and TOKEN not in captured.out + captured.err
        assert os.environ.get("HF_TOKEN") != TOKEN
