# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The command line: what it prints where, how it ends, what it refuses, and that it is quick to answer."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_from_disk

import trainer
from modeling_sacl import SaclForPreTraining
from trainer import SaclTrainingArguments
from trainer.cli import main
from trainer.cli.main import COMMANDS


ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    """Twelve pairs as a Parquet file."""
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as PILImage

    words = [f"a {color} {thing}" for thing in ("bus", "cat", "dog", "house") for color in ("red", "green", "blue")]
    images = [PILImage.new("RGB", (32, 32), (20 * number, 90, 255 - 20 * number)) for number in range(12)]
    features = Features({"image": Image(), "caption": Value("string"), "pair_id": Value("int64")})
    file = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    Dataset.from_dict({"image": images, "caption": words, "pair_id": range(12)}, features=features).to_parquet(file)
    return str(file)


@pytest.fixture
def model_folder(tmp_path, make_model, tiny_processor):
    folder = tmp_path / "model"
    make_model(SaclForPreTraining).save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def sacl(capsys):
    """Runs a command in this process: exit code, stdout, stderr."""

    def run(*words):
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}


def python(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], env=environment(), capture_output=True, text=True, timeout=200, **options
    )


class TestLazyImports:
    def test_help_and_usage_errors_import_no_torch(self):
        code = (
            "import sys; from trainer.cli import main\n"
            "codes = [main(['--help']), main(['--version']), main(['trian']), main([])]\n"
            "assert codes == [0, 0, 2, 2], codes\n"
            "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        done = python("-c", code)
        assert done.returncode == 0, done.stderr
        assert all(f"    {command} " in done.stdout for command in COMMANDS)
        assert "Did you mean 'train'?" in done.stderr

    def test_the_names_of_the_package_are_where_it_says(self):
        """Three lists say what is public: for type checkers, for imports at first use, and `__all__`."""
        tree = ast.parse(Path(trainer.__file__).read_text())
        block = next(node for node in tree.body if isinstance(node, ast.If))
        checked = {alias.name: node.module for node in block.body for alias in node.names}
        assert checked == trainer._MODULE_OF and sorted(checked) == sorted(trainer.__all__)

    def test_a_name_that_does_not_exist_is_an_attribute_error(self):
        with pytest.raises(AttributeError, match="no attribute 'SacleTrainer'"):
            trainer.SacleTrainer  # noqa: B018

    def test_names_and_modules_are_listed(self):
        assert {"SaclTrainer", "audit_pairs"} <= set(dir(trainer))


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_teaches_by_examples(self, sacl, command):
        code, out, err = sacl(command, "--help")
        assert (code, err) == (0, "")
        assert f"usage: sacl {command}" in out and "examples:\n" in out
        examples = out.split("examples:\n")[1]
        assert f"  sacl {command} " in examples
        # What the examples use exists, and what may be left out of a command line is said.
        own = re.sub(rf"sacl (?!{command} )\w+ .*|`.*?`|accelerate launch --num_processes", "", examples)
        described = set(re.findall(r"(?<![\w-])--\w+", out.split("examples:\n")[0]))
        assert set(re.findall(r"(?<![\w-])--\w+", own)) <= described
        assert {"--config", "--json", "--quiet", "--debug"} <= described

    def test_all_training_arguments_are_shown_on_request(self, sacl):
        _, short, _ = sacl("train", "--help")
        _, long, _ = sacl("train", "--help_all")
        assert "--regulation_strength" in short and "--adam_beta1" not in short
        assert "--regulation_strength" in long and "--adam_beta1" in long

    def test_a_command_alone_is_wrong_usage(self, sacl):
        code, out, _ = sacl()
        assert code == 2 and "usage: sacl" in out


class TestWrongUsage:
    @pytest.mark.parametrize(
        "words, message",
        [
            (["evalute"], "Did you mean 'evaluate'?"),
            (["evaluate", "--modle", "x", "--dataset", "y"], "--model"),
            (["evaluate", "--model", "x"], "required: --dataset"),
            (["evaluate", "--model", "x", "--dataset", "y", "--batch_siz", "3"], "Did you mean '--batch_size'?"),
            (["evaluate", "--model", "x", "--dataset", "y", "--batch_size", "many"], "invalid int value: 'many'"),
            (["evaluate", "--config"], "--config: expected one argument"),
            (["search"], "required: FOLDER"),
            (["convert", "blip", "a.pth", "out"], "invalid choice: 'blip'"),
            (["train", "--dataset", "y", "--output_dir", "{tmp}"], "Give --model"),
            (["train", "--model", "x", "--text_model", "z", "--dataset", "y", "--output_dir", "{tmp}"], "whole model"),
            (["train", "--model", "x", "--dataset", "y", "--objective", "clip"], "clip"),
            (["--nonsense"], "--nonsense"),
        ],
    )
    def test_it_is_said_in_one_line_and_ends_with_2(self, sacl, tmp_path, words, message):
        code, out, err = sacl(*(word.replace("{tmp}", str(tmp_path)) for word in words))
        assert (code, out) == (2, "")
        assert err.startswith("sacl") and err.count("\n") == 1 and message in err
        assert "Traceback" not in err


class TestFailure:
    def test_a_folder_that_is_missing_is_named_with_the_nearest(self, sacl, tmp_path, pairs_file):
        (tmp_path / "model").mkdir()
        code, out, err = sacl("evaluate", "--model", tmp_path / "modle", "--dataset", pairs_file)
        assert (code, out) == (1, "") and err.count("\n") == 1 and f"Did you mean '{tmp_path / 'model'}'?" in err

    def test_a_folder_without_a_model_is_refused(self, sacl, tmp_path, pairs_file):
        code, _, err = sacl("evaluate", "--model", tmp_path, "--dataset", pairs_file)
        assert code == 1 and "no config.json" in err

    def test_json_has_the_error_too(self, sacl, tmp_path, pairs_file):
        code, out, err = sacl("evaluate", "--model", tmp_path, "--dataset", pairs_file, "--json")
        assert code == 1 and json.loads(out)["error"] in err

    def test_debug_shows_the_traceback(self, sacl, tmp_path, pairs_file):
        _, _, err = sacl("evaluate", "--model", tmp_path, "--dataset", pairs_file, "--debug")
        assert "Traceback" in err and err.strip().splitlines()[-1].startswith("sacl evaluate: error: ")

    def test_an_interruption_ends_with_130(self, sacl, monkeypatch, model_folder, pairs_file):
        import trainer.evaluation

        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(trainer.evaluation, "evaluate_retrieval", interrupted)
        code, _, err = sacl("evaluate", "--model", model_folder, "--dataset", pairs_file)
        assert code == 130 and err.endswith("Interrupted.\n")

    def test_a_device_that_is_not_there(self, sacl, model_folder, pairs_file):
        code, _, err = sacl("evaluate", "--model", model_folder, "--dataset", pairs_file, "--device", "quantum")
        assert code == 1 and "'quantum'" in err


class TestConfig:
    def train(self, sacl, monkeypatch, tmp_path, content, *words):
        """What a training would have been given."""
        import trainer.cli.train

        given = []
        monkeypatch.setattr(trainer.cli.train, "run", lambda output, *arguments: given.append(arguments))
        (tmp_path / "run.yaml").write_text(content)
        code, out, err = sacl("train", "--config", tmp_path / "run.yaml", *words)
        return code, err, given[0] if given else None

    CONFIG = "model: some/clip\ndataset: some/pairs\noutput_dir: {tmp}\nuse_cpu: true\n"

    def arguments(self, sacl, monkeypatch, tmp_path, content, *words):
        code, err, given = self.train(
            sacl, monkeypatch, tmp_path, self.CONFIG.replace("{tmp}", str(tmp_path)) + content, *words
        )
        assert code == 0, err
        return given

    def test_the_command_line_wins_over_the_file(self, sacl, monkeypatch, tmp_path):
        content = "learning_rate: 3e-4\nweight_decay: 0.5\nregulate_hard_negatives: false\n"
        start, _, _, args = self.arguments(sacl, monkeypatch, tmp_path, content, "--learning_rate", "1e-5")
        assert start.model == "some/clip"
        assert (args.learning_rate, args.weight_decay, args.regulate_hard_negatives) == (1e-5, 0.5, False)

    def test_every_training_argument_of_a_file_is_as_if_made_in_python(self, sacl, monkeypatch, tmp_path):
        content = (
            "momentum: null\neval_strategy: no\nlr_scheduler_kwargs: {num_cycles: 2}\nnum_train_epochs: 2\n"
            "caption_columns: [title, description]\nreport_to: none\nfilter_threshold: 0.3\nqueue_size: 65_536\n"
        )
        _, source, _, args = self.arguments(sacl, monkeypatch, tmp_path, content)
        expected = SaclTrainingArguments(
            str(tmp_path),
            use_cpu=True,
            momentum=None,
            eval_strategy="no",
            lr_scheduler_kwargs={"num_cycles": 2},
            num_train_epochs=2,
            filter_threshold=0.3,
            queue_size=65536,
        )
        assert args.to_dict() == expected.to_dict()
        assert source.caption_columns == ["title", "description"]

    @pytest.mark.parametrize("word", ["none", "None", "null"])
    def test_a_number_can_be_none_on_the_command_line(self, sacl, monkeypatch, tmp_path, word):
        *_, args = self.arguments(sacl, monkeypatch, tmp_path, "", "--momentum", word)
        assert args.momentum is None

    def test_the_arguments_that_a_run_leaves_can_be_given_again(self, sacl, monkeypatch, tmp_path):
        from trainer.sharing import save_training_arguments

        args = SaclTrainingArguments(str(tmp_path), use_cpu=True, learning_rate=3e-5, momentum=None, queue_size=7)
        content = Path(save_training_arguments(args, tmp_path)).read_text()
        _, _, _, again = self.arguments(sacl, monkeypatch, tmp_path, content)
        assert (again.learning_rate, again.momentum, again.queue_size) == (3e-5, None, 7)

    @pytest.mark.parametrize(
        "content, message",
        [
            ("learning_rat: 1", "`learning_rat` is no argument of `sacl train`. Did you mean 'learning_rate'?"),
            ("learning_rate: fast", "`learning_rate` must be float, got 'fast'"),
            ("learning_rate: [1, 2]", "`learning_rate` is one value, got the list [1, 2]"),
            ("max_steps: null", "`max_steps` must be int, got None"),
            ("architecture: clip", "`architecture` must be one of sacl, dual_encoder, got 'clip'"),
            ("lock_vision: perhaps", "`lock_vision` must be"),
            ("learning_rate: 1\nlearning_rate: 2", "comes twice"),
            ("- learning_rate", "got a list"),
            ("learning_rate: {", "cannot be read as YAML"),
        ],
    )
    def test_what_is_wrong_in_a_file_is_named(self, sacl, monkeypatch, tmp_path, content, message):
        code, err, given = self.train(sacl, monkeypatch, tmp_path, content)
        assert code == 2 and given is None
        assert message in err and "run.yaml" in err and err.count("\n") == 1

    @pytest.mark.parametrize(
        "words, expected",
        [
            (("--private", "model", "user/model"), True),
            (("model", "--private", "user/model"), True),
            (("model", "user/model", "--private"), True),
            (("model", "user/model", "--private", "false"), False),
            (("model", "user/model", "--private=no"), False),
            (("model", "user/model", "--private", "none"), None),
            (("model", "user/model"), None),
        ],
    )
    def test_a_flag_takes_a_value_only_if_it_is_one(self, sacl, monkeypatch, words, expected):
        import trainer.cli.push

        given = []
        monkeypatch.setattr(trainer.cli.push, "run", lambda output, options: given.append(options))
        assert sacl("push", *words)[0] == 0
        assert (given[0].folder, given[0].repo_id, given[0].private) == ("model", "user/model", expected)

    def test_a_file_that_is_missing_is_named(self, sacl):
        code, _, err = sacl("train", "--config", "nowhere.yaml")
        assert code == 2 and "'nowhere.yaml'" in err

    def test_other_commands_read_files_too_and_places_can_be_filled(self, sacl, monkeypatch, tmp_path):
        import trainer.cli.push

        given = []
        monkeypatch.setattr(trainer.cli.push, "run", lambda output, options: given.append(options))
        (tmp_path / "push.yaml").write_text("folder: model\nrepo_id: user/model\nprivate: true\ndry_run: yes\n")
        assert sacl("push", "--config", tmp_path / "push.yaml")[0] == 0
        assert (given[0].folder, given[0].repo_id, given[0].private, given[0].dry_run) == (
            *("model", "user/model"),
            *(True, True),
        )
        assert sacl("push", "other", "--config", tmp_path / "push.yaml")[0] == 0
        assert given[1].folder == "other"


class TestCommands:
    def test_evaluate_prints_a_table_or_json_and_nothing_else(self, sacl, model_folder, pairs_file, tmp_path):
        from transformers import AutoModel, AutoProcessor

        words = ("evaluate", "--model", model_folder, "--dataset", pairs_file, "--device", "cpu")
        code, out, err = sacl(*words)
        assert code == 0 and "text to image" in out and "R@10" in out and "12 rows" in err
        code, out, err = sacl(*words, "--json", "--quiet", "--output", tmp_path / "metrics.json")
        assert code == 0 and err == ""
        document = json.loads(out)
        assert document == json.loads((tmp_path / "metrics.json").read_text())
        expected = trainer.evaluate_retrieval(
            AutoModel.from_pretrained(model_folder),
            trainer.load_pairs(pairs_file),
            AutoProcessor.from_pretrained(model_folder),
            show_progress=False,
        )
        assert document["metrics"] == pytest.approx(expected)

    def test_options_before_the_command_count(self, sacl, model_folder, pairs_file):
        _, out, _ = sacl("--json", "evaluate", "--model", model_folder, "--dataset", pairs_file, "--max_rows", 10)
        assert json.loads(out)["rows"] == 10

    def test_reranking_needs_a_matching_head(self, sacl, tmp_path, pairs_file):
        from transformers import CLIPConfig, CLIPModel

        small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        CLIPModel(CLIPConfig(text_config=small, vision_config=small)).save_pretrained(tmp_path)
        code, _, err = sacl("evaluate", "--model", tmp_path, "--dataset", pairs_file, "--rerank_top_k", 10)
        assert code == 1 and "clip model without a matching head" in err

    def test_embed_then_search(self, sacl, model_folder, pairs_file, tmp_path, monkeypatch):
        pytest.importorskip("faiss")
        index = tmp_path / "index"
        code, out, _ = sacl(
            *("embed", "--model", model_folder, "--dataset", pairs_file, "--output_dir", index),
            *("--cache_dir", tmp_path / "cache"),
        )
        assert code == 0 and "12 rows with image_embeds and text_embeds" in out
        code, out, _ = sacl("search", index, "a red bus", "a cat", "--top_k", 3, "--json")
        answers = json.loads(out)
        assert code == 0 and [answer["query"] for answer in answers] == ["a red bus", "a cat"]
        searcher = trainer.SaclSearcher.from_pretrained(index, *self.loaded(model_folder))
        expected = searcher.search_images("a cat", 3)
        assert [(each["row"], each["score"]) for each in answers[1]["results"]] == [
            (row, pytest.approx(score)) for row, score in expected
        ]
        # Lines of a file are queries; the image finds itself.
        import io

        monkeypatch.setattr(sys, "stdin", io.StringIO("a dog\n\na bus\n"))
        assert [answer["query"] for answer in json.loads(sacl("search", index, "--json")[1])] == ["a dog", "a bus"]
        picture = tmp_path / "seventh.png"
        load_from_disk(str(index / "dataset"))[7]["image"].save(picture)
        _, out, _ = sacl("search", index, "--image", picture, "--top_k", 1)
        assert re.search(r"row 7 ", out)
        assert sacl("search", index, "a dog", "--find", "texts")[0] == 2
        assert sacl("search", tmp_path, "a dog")[0] == 1

    @staticmethod
    def loaded(folder):
        from transformers import AutoModel, AutoProcessor

        return AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)

    def test_embedding_goes_on_where_it_stopped(self, sacl, model_folder, pairs_file, tmp_path, monkeypatch):
        """The second call asks the model for nothing but the few rows that a searcher checks."""
        pytest.importorskip("faiss")
        from trainer.search import embed

        words = ("embed", "--model", model_folder, "--dataset", pairs_file, "--output_dir", tmp_path / "index")
        assert sacl(*words, "--cache_dir", tmp_path / "cache")[0] == 0
        encoded = []
        original = embed.RowEncoder.encode
        monkeypatch.setattr(
            embed.RowEncoder, "encode", lambda self, rows: encoded.append(len(rows)) or original(self, rows)
        )
        assert sacl(*words, "--cache_dir", tmp_path / "cache")[0] == 0
        assert sum(encoded) <= 4

    def test_train_saves_what_evaluate_loads(self, sacl, model_folder, pairs_file, tmp_path):
        out_dir = tmp_path / "trained"
        code, out, err = sacl(
            *("train", "--model", model_folder, "--dataset", pairs_file, "--output_dir", out_dir, "--use_cpu"),
            *("--max_steps", 2, "--per_device_train_batch_size", 6, "--momentum", "none", "--save_strategy", "no"),
            *("--eval_dataset", pairs_file, "--license", "mit", "--json", "--quiet"),
        )
        assert code == 0, err
        document = json.loads(out)
        assert document["steps"] == 2 and "eval_text_to_image_recall@1" in document["evaluation"]
        assert "license: mit" in (out_dir / "README.md").read_text()
        before, after = (SaclForPreTraining.from_pretrained(folder).state_dict() for folder in (model_folder, out_dir))
        assert any(not torch.equal(before[name], after[name]) for name in before)
        assert sacl("evaluate", "--model", out_dir, "--dataset", pairs_file, "--quiet")[0] == 0

    def test_train_adapters(self, sacl, model_folder, pairs_file, tmp_path):
        pytest.importorskip("peft")
        code, out, err = sacl(
            *("train", "--model", model_folder, "--dataset", pairs_file, "--output_dir", tmp_path / "lora"),
            *("--max_steps", 1, "--use_cpu", "--lora_rank", 2, "--lora_target_modules", "q_proj", "v_proj"),
            *("--momentum", "none", "--save_strategy", "no", "--quiet"),
        )
        assert code == 0, err
        assert json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["r"] == 2
        code, _, err = sacl("evaluate", "--model", tmp_path / "lora", "--dataset", pairs_file)
        assert code == 1 and "adapters only" in err

    def test_audit_writes_table_summary_and_gallery(self, sacl, model_folder, pairs_file, tmp_path):
        code, out, err = sacl(
            "audit", "--model", model_folder, "--dataset", pairs_file, "--output_dir", tmp_path / "audit", "--json"
        )
        assert code == 0, err
        document = json.loads(out)
        assert document["pairs"] == 12 and set(document["files"]) == {"parquet", "summary", "gallery"}
        assert all(Path(file).is_file() for file in document["files"].values())

    def test_push_says_what_would_go_and_leaves_pickles_at_home(self, sacl, model_folder):
        torch.save({}, Path(model_folder) / "training_args.bin")
        code, out, _ = sacl("push", model_folder, "user/model", "--dry_run", "--json")
        document = json.loads(out)
        assert code == 0 and document["type"] == "model" and document["url"] is None
        assert "model.safetensors" in document["files"] and document["left_out"] == ["training_args.bin"]

    def test_push_of_other_folders_leaves_pickles_at_home_too(self, sacl, tmp_path, pairs_file):
        (tmp_path / "train.parquet").write_bytes(Path(pairs_file).read_bytes())
        for name in ("data.pkl", "weights.BIN", ".secret", "a.pt"):
            (tmp_path / name).write_bytes(b"x")
        code, out, _ = sacl("push", tmp_path, "user/pairs", "--dry_run", "--json")
        assert code == 0 and list(json.loads(out)["files"]) == ["train.parquet"]

    def test_push_of_a_model_of_pickles_is_refused(self, sacl, tmp_path):
        (tmp_path / "config.json").write_text("{}")
        torch.save({}, tmp_path / "pytorch_model.bin")
        code, _, err = sacl("push", tmp_path, "user/model", "--dry_run")
        assert code == 1 and "safetensors" in err

    def test_card_is_checked_and_written(self, sacl, model_folder, tmp_path):
        code, out, err = sacl("card", model_folder, "--check")
        assert code == 1 and "README.md" in err
        metrics = {"dataset": "user/pairs", "split": "test", "rows": 12, "metrics": {"text_to_image_recall@1": 25.0}}
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        code, out, err = sacl("card", model_folder, "--metrics", tmp_path / "metrics.json", "--name", "My model")
        card = (Path(model_folder) / "README.md").read_text()
        assert code == 0 and "# My model" in card and "user/pairs" in card and "25.0" in card
        code, out, _ = sacl("card", model_folder, "--check", "--json")
        document = json.loads(out)
        assert code == 1 and any("license" in problem for problem in document["problems"])
        assert sacl("card", model_folder, "--license", "mit", "--model_id", "user/my-model")[0] == 0
        assert "license: mit" in (Path(model_folder) / "README.md").read_text()

    def test_convert_hands_over_what_was_asked_for(self, sacl, monkeypatch, tmp_path):
        from modeling_sacl import convert_albef_to_hf

        code, _, err = sacl("convert", "albef", tmp_path / "missing.pth", tmp_path / "out")
        assert code == 1 and "missing.pth" in err
        given = {}

        class Report:
            def summary(self):
                return "converted"

            def to_dict(self):
                return {"task": "retrieval"}

        def convert(checkpoint, output_dir, **options):
            given.update(options, checkpoint=checkpoint, output_dir=output_dir)
            return Report()

        monkeypatch.setattr(convert_albef_to_hf, "convert_albef_checkpoint", convert)
        code, out, _ = sacl("convert", "albef", "a.pth", "out", "--task", "retrieval", "--image_size", 384)
        assert (code, out) == (0, "converted\n")
        assert (given["checkpoint"], given["task"], given["image_size"]) == ("a.pth", "retrieval", 384)

    def test_demo_writes_a_space_or_launches_the_page(self, sacl, monkeypatch, model_folder, pairs_file, tmp_path):
        pytest.importorskip("gradio")
        import hub_cards.space

        launched = {}
        monkeypatch.setattr(hub_cards.space, "launch", lambda *names, **options: launched.update(options, names=names))
        assert sacl("demo", "--model", model_folder, "--dataset", pairs_file, "--server_port", 7999)[0] == 0
        assert launched["names"] == (model_folder, pairs_file) and launched["server_port"] == 7999
        code, out, err = sacl(
            "demo", "--model", model_folder, "--dataset", pairs_file, "--write_space", tmp_path / "page", "--json"
        )
        assert code == 0, err
        assert (Path(json.loads(out)["folder"]) / "app.py").is_file()


class TestProcess:
    def test_a_process_ends_with_the_code(self):
        done = python("-m", "trainer.cli", "--json", "serch")
        assert done.returncode == 2 and "Did you mean 'search'?" in json.loads(done.stdout)["error"]
        assert done.stderr.count("\n") == 1

    @pytest.mark.slow
    def test_a_process_ends_with_clean_streams(self, model_folder, pairs_file):
        words = ("-m", "trainer.cli", "evaluate", "--model", model_folder, "--dataset", pairs_file, "--json")
        done = python(*words)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["rows"] == 12
        failed = python("-m", "trainer.cli", "search", model_folder, "a dog")
        assert failed.returncode == 1 and failed.stdout == "" and failed.stderr.count("\n") == 1


class TestCompletion:
    def complete(self, line: str) -> list[str]:
        """What the shell is told to offer."""
        pytest.importorskip("argcomplete")
        reader, writer = os.pipe()
        code = (
            f"import os, sys; os.dup2({writer}, 8); os.set_inheritable(8, True)\n"
            "from trainer.cli import main; sys.exit(main())"
        )
        variables = {
            **environment(),
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "COMP_TYPE": "9",
        }
        subprocess.run(
            [sys.executable, "-c", code], env=variables, pass_fds=[writer], capture_output=True, timeout=200
        )
        os.close(writer)
        with os.fdopen(reader) as stream:
            return stream.read().split("\n")

    def test_commands_are_completed(self):
        assert self.complete("sacl e") == ["evaluate", "embed"]

    @pytest.mark.slow
    def test_options_and_their_choices_are_completed(self):
        assert "--rerank_top_k" in self.complete("sacl evaluate --re")
        assert self.complete("sacl evaluate --dtype b") == ["bfloat16"]
