# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Code that lies beside a model or data is run only if the user says so, and nobody is asked on the terminal."""

import builtins
import json

import pytest
import torch
from transformers import AutoModel

from hub_cards.space.loading import load_model
from modeling_sacl import SaclForPreTraining
from trainer import Guide, SaclTrainer, load_pairs


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch):
    """Where nothing is said, transformers asks; what stands on stdin may be queries, or `yes`."""

    def answer(question=""):
        pytest.fail(f"asks: {question}")

    monkeypatch.setattr(builtins, "input", answer)


CODE = """
open({trace!r}, "w").close()
from transformers import PreTrainedConfig, PreTrainedModel
class EvilConfig(PreTrainedConfig):
    model_type = "evil"
class EvilModel(PreTrainedModel):
    config_class = EvilConfig
    def __init__(self, config):
        super().__init__(config)
        import torch
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.post_init()
"""


@pytest.fixture
def evil(tmp_path, tiny_processor, hostile):
    """A model of a type that nobody knows, with code beside it that says how it is."""
    folder = tmp_path / "evil"
    tiny_processor.save_pretrained(folder)
    names = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel", "AutoModelForMaskedLM": "evil.EvilModel"}
    config = {"model_type": "evil", "auto_map": names, "architectures": ["EvilModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(CODE.format(trace=str(hostile.trace)))
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def evil_tokenizer(model_folder, hostile):
    """A model of ours, beside which a tokenizer is said to need code."""
    for name in ("tokenizer_config.json", "processor_config.json"):
        path = model_folder / name
        if path.is_file():
            content = json.loads(path.read_text())
            content |= {"auto_map": {"AutoProcessor": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
            content |= {"tokenizer_class": "Evil", "processor_class": "Evil"}
            path.write_text(json.dumps(content))
    (model_folder / "evil.py").write_text(CODE.format(trace=str(hostile.trace)))
    return model_folder


LOADERS = {
    "guide": lambda folder, pairs, make_arguments: Guide.from_pretrained(folder),
    "space": lambda folder, pairs, make_arguments: load_model(folder),
    "trainer": lambda folder, pairs, make_arguments: SaclTrainer(str(folder), make_arguments(), train_dataset=pairs),
    "guide of a trainer": lambda folder, pairs, make_arguments: SaclTrainer(
        str(folder.parent / "model"), make_arguments(), train_dataset=pairs, guide_model=str(folder)
    ),
    "image tower": lambda folder, pairs, make_arguments: SaclForPreTraining.from_vision_text_pretrained(
        str(folder), str(folder)
    ),
}


class TestCode:
    @pytest.mark.parametrize("name", LOADERS)
    def test_is_refused(self, evil, model_folder, hostile, pairs, make_arguments, name):
        with pytest.raises(ValueError, match="trust_remote_code"):
            LOADERS[name](evil, pairs, make_arguments)
        assert not hostile.ran

    def test_of_a_text_tower(self, evil, hostile):
        from transformers import CLIPVisionConfig, CLIPVisionModel

        config = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
        with pytest.raises(ValueError, match="trust_remote_code"):
            SaclForPreTraining.from_vision_text_pretrained(CLIPVisionModel(config), str(evil))
        assert not hostile.ran

    @pytest.mark.parametrize("command", ["evaluate", "embed", "audit", "train"])
    @pytest.mark.parametrize("where", ["evil", "evil_tokenizer"])
    def test_by_the_command_line(self, request, sacl, hostile, pairs, tmp_path, monkeypatch, command, where):
        import io

        folder = request.getfixturevalue(where)
        monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\ny\n"))
        pairs.to_parquet(tmp_path / "pairs.parquet")
        more = [] if command == "evaluate" else ["--output_dir", tmp_path / "out"]
        more += ["--use_cpu", "true", "--max_steps", "1"] if command == "train" else []
        code, _, err = sacl(command, "--model", folder, "--dataset", tmp_path / "pairs.parquet", *more)
        assert not hostile.ran
        assert code == 0 or "error: " in err

    @pytest.mark.parametrize("architecture", ["sacl", "dual_encoder"])
    def test_of_towers_by_the_command_line(self, sacl, evil, hostile, pairs, tmp_path, architecture):
        pairs.to_parquet(tmp_path / "pairs.parquet")
        towers = ["--vision_model", evil, "--text_model", evil, "--architecture", architecture]
        code, _, err = sacl(
            "train", *towers, "--dataset", tmp_path / "pairs.parquet", "--output_dir", tmp_path / "out"
        )
        assert code == 1 and "trust_remote_code" in err and not hostile.ran

    def test_of_a_tokenizer_to_convert_with(self, evil_tokenizer, hostile, sacl, tmp_path):
        (tmp_path / "x.pth").write_bytes(b"no checkpoint")
        sacl("convert", "albef", tmp_path / "x.pth", tmp_path / "out", "--tokenizer", evil_tokenizer)
        from modeling_sacl import SaclConfig
        from modeling_sacl.convert_albef_to_hf import _build_processor

        try:
            _build_processor(SaclConfig(), str(evil_tokenizer))
        except ValueError as error:
            assert str(error)
        assert not hostile.ran

    def test_runs_if_the_user_says_so(self, evil, tmp_path, monkeypatch):
        """Else nothing above would prove anything."""
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
        monkeypatch.syspath_prepend(str(tmp_path / "modules"))
        trace = tmp_path / "it ran"
        AutoModel.from_pretrained(evil, trust_remote_code=True)
        assert trace.exists()
        trace.unlink()  # The fixture of the payload looks again.


class TestScripts:
    @pytest.mark.parametrize("streaming", [False, True])
    def test_of_data_sets_are_left_alone(self, tmp_path, hostile, streaming):
        folder = tmp_path / "catalogue"
        folder.mkdir()
        (folder / "catalogue.py").write_text(CODE.format(trace=str(hostile.trace)))
        with pytest.raises(Exception):  # noqa: B017
            load_pairs(folder, streaming=streaming, cache_dir=tmp_path / "cache")
        with pytest.raises(ValueError, match="Cannot read pairs from the file"):
            load_pairs(folder / "catalogue.py")
        assert not hostile.ran
