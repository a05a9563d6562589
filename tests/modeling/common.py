# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What the tests of the models share: inputs, comparisons, and the behaviour that every model class must show."""

import copy
import dataclasses
import doctest
import json
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from modeling_sacl import SaclConfig


CPU_BACKENDS = ("eager", "sdpa")


def tensors(output: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """Every tensor inside an output, by the path that leads to it."""
    if isinstance(output, torch.Tensor):
        return {prefix: output}
    items = output.items() if hasattr(output, "items") else enumerate(output) if isinstance(output, tuple) else ()
    found = {}
    for key, value in items:
        found.update(tensors(value, f"{prefix}.{key}" if prefix else str(key)))
    return found


def assert_same(actual: Any, expected: Any, tolerance: float = 0.0) -> None:
    """Both outputs hold the same tensors; with no tolerance, to the last bit."""
    actual, expected = tensors(actual), tensors(expected)
    assert actual.keys() == expected.keys()
    assert actual, "there is nothing to compare"
    for name, value in actual.items():
        torch.testing.assert_close(
            value,
            expected[name],
            rtol=0,
            atol=tolerance,
            equal_nan=False,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def build(model_class: type[PreTrainedModel], config: PreTrainedConfig, seed: int = 0, **kwargs) -> PreTrainedModel:
    """A model at random weights, in evaluation mode, with a configuration of its own."""
    torch.manual_seed(seed)
    return model_class._from_config(copy.deepcopy(config), **kwargs).eval()


@torch.no_grad()
def stir(model: nn.Module, std: float = 0.05, seed: int = 1) -> nn.Module:
    """
    Adds noise to every weight. A fresh model has biases of 0 and layer norms of 1, so that weights that were swapped
    or left behind would go unseen.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(std * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def random_batch(config: SaclConfig, batch_size: int = 4, length: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    """Images, and texts of different lengths: the i-th is `i % 3` tokens shorter than the first."""
    generator = torch.Generator().manual_seed(seed)
    size, text = config.vision_config.image_size, config.text_config
    input_ids = torch.randint(5, text.vocab_size, (batch_size, length), generator=generator)
    attention_mask = torch.ones(batch_size, length, dtype=torch.long)
    for row in range(batch_size):
        padded = length - row % 3
        attention_mask[row, padded:] = 0
        input_ids[row, padded:] = text.pad_token_id or 0
    pixel_values = torch.randn(batch_size, config.vision_config.num_channels, size, size, generator=generator)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "pixel_values": pixel_values}


def random_masked_batch(config: SaclConfig, batch_size: int = 4, **kwargs) -> dict[str, torch.Tensor]:
    """The same with a masked copy of the texts: two positions each, the second of the last row only a filler."""
    batch = random_batch(config, batch_size, **kwargs)
    positions = torch.tensor([[1, 3], [2, 4]])[torch.arange(batch_size) % 2]
    labels = batch["input_ids"].gather(1, positions)
    labels[-1, 1] = -100
    masked = batch["input_ids"].scatter(1, positions, 4)
    return {**batch, "mlm_input_ids": masked, "mlm_positions": positions, "mlm_labels": labels}


def run_examples(documented: Any, **names: Any) -> int:
    """Runs the examples of a docstring and compares their output; how many lines there were."""
    source = "\n".join(line for line in documented.__doc__.splitlines() if not line.strip().startswith("```"))
    test = doctest.DocTestParser().get_doctest(source, names, documented.__name__, None, None)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    report: list[str] = []
    runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)
    return len(test.examples)


def configs_inside(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    """The configuration and those of its towers."""
    return [config] + [inner for key in config.sub_configs for inner in configs_inside(getattr(config, key))]


class ModelTests:
    """
    What every model class must do. A subclass says which one, from which configuration and with which inputs, by
    `model_class`, `config` and `inputs`, and adds what is special to it.
    """

    model_class: type[PreTrainedModel]
    # Names of parameters without a part in `loss`.
    without_gradient: tuple[str, ...] = ()

    @pytest.fixture
    def config(self, tiny_config: SaclConfig) -> PreTrainedConfig:
        return tiny_config

    @pytest.fixture
    def inputs(self, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def one_of(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inputs with a batch of one."""
        return {name: value[:1] if torch.is_tensor(value) else value for name, value in inputs.items()}

    def run(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor], **kwargs: Any) -> Any:
        """One forward. Models may draw at random, also in evaluation mode: the draw is always the same here."""
        torch.manual_seed(0)
        return model(**inputs, **kwargs)

    def loss(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """A scalar that every parameter has a part in."""
        generator = torch.Generator().manual_seed(0)
        values = [value for value in tensors(self.run(model, inputs)).values() if value.requires_grad]
        return sum((value * torch.randn(value.shape, generator=generator)).mean() for value in values)

    def loss_and_gradients(self, model, inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss = self.loss(model, inputs)
        loss.backward()
        return loss.detach(), {name: value.grad for name, value in model.named_parameters() if value.grad is not None}

    # -------------------------------------------------------------------------------------- configuration, checkpoint

    def test_config_survives_dict_and_folder(self, config, tmp_path):
        config.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())
        for again in (
            type(config).from_dict(config.to_dict()),
            type(config)(**saved),
            type(config).from_pretrained(tmp_path),
            AutoConfig.from_pretrained(tmp_path),
        ):
            assert type(again) is type(config)
            ignored = {"_name_or_path", "transformers_version", "auto_map"}
            left, right = ({k: v for k, v in c.to_dict().items() if k not in ignored} for c in (again, config))
            assert left == right

    def test_config_rejects_unknown_option_with_a_suggestion(self, config):
        own = [field.name for field in dataclasses.fields(config) if isinstance(getattr(config, field.name), int)]
        name = next(name for name in own if name.endswith(("_size", "_dim")))
        misspelt = name.replace("i", "", 1)
        with pytest.raises(
            TypeError, match=f"`{type(config).__name__}` has no option `{misspelt}`. Did you .*`{name}`"
        ):
            type(config)(**{misspelt: 8})

    def test_config_keeps_what_other_libraries_write_into_it(self, config):
        written = {"quantization_config": {"quant_method": "bitsandbytes"}, "custom_pipelines": {"x": {"impl": "y.Z"}}}
        again = type(config).from_dict({**config.to_dict(), **written})
        assert again.quantization_config == written["quantization_config"]
        assert again.custom_pipelines == written["custom_pipelines"]

    def test_save_and_load_give_equal_outputs(self, config, inputs, tmp_path):
        model = stir(build(self.model_class, config))
        model.save_pretrained(tmp_path)
        loaded, report = self.model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report.values()), report
        assert not loaded.training
        assert loaded.state_dict().keys() == model.state_dict().keys()
        with torch.no_grad():
            assert_same(self.run(loaded, inputs), self.run(model, inputs))

    def test_dtype_is_that_of_the_whole_model(self, config, tmp_path):
        # Towers that were read from checkpoints of other dtypes leave no trace of them.
        for inner in configs_inside(config)[1:]:
            inner.dtype = "float16"
        model = self.model_class(config)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        model.to(torch.bfloat16).save_pretrained(tmp_path)
        for asked, dtype in ((None, torch.bfloat16), (torch.float32, torch.float32), ("float16", torch.float16)):
            loaded = self.model_class.from_pretrained(tmp_path, **({} if asked is None else {"dtype": asked}))
            assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}

    def test_folder_holds_weights_as_safetensors_only(self, config, tmp_path):
        build(self.model_class, config).save_pretrained(tmp_path)
        suffixes = {path.suffix for path in tmp_path.iterdir()}
        assert suffixes <= {".json", ".safetensors", ".py"}
        assert (tmp_path / "model.safetensors").exists()

    def test_saves_in_shards(self, config, inputs, tmp_path):
        model = build(self.model_class, config)
        model.save_pretrained(tmp_path, max_shard_size="30KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        with torch.no_grad():
            assert_same(self.run(self.model_class.from_pretrained(tmp_path), inputs), self.run(model, inputs))

    # -------------------------------------------------------------------------------------------------------- forward

    def test_evaluation_is_deterministic(self, config, inputs):
        model = build(self.model_class, config)
        with torch.no_grad():
            assert_same(self.run(model, inputs), self.run(model, inputs))

    def test_dropout_acts_in_training_only(self, config, inputs):
        for inner in configs_inside(config):
            for name in ("hidden_dropout", "hidden_dropout_prob"):
                if hasattr(inner, name):
                    setattr(inner, name, 0.5)
        model = build(self.model_class, config)
        with torch.no_grad():
            expected = tensors(self.run(model, inputs))
            trained = tensors(self.run(model.train(), inputs))
        assert any(not torch.equal(trained[name], expected[name]) for name in expected)

    def test_attention_backends_agree(self, config, inputs):
        models = [build(self.model_class, config, attn_implementation=backend) for backend in CPU_BACKENDS]
        for backend, model in zip(CPU_BACKENDS, models, strict=True):
            assert {inner._attn_implementation for inner in configs_inside(model.config)} == {backend}
            stir(model)
        (loss, gradients), (expected_loss, expected_gradients) = (
            self.loss_and_gradients(model, inputs) for model in models
        )
        with torch.no_grad():
            assert_same(self.run(models[0], inputs), self.run(models[1], inputs), tolerance=1e-5)
        assert_same(loss, expected_loss, tolerance=1e-5)
        assert_same(gradients, expected_gradients, tolerance=1e-5)

    def test_every_parameter_gets_a_gradient(self, config, inputs):
        model = stir(build(self.model_class, config))
        _, gradients = self.loss_and_gradients(model, inputs)
        for name, parameter in model.named_parameters():
            if name.startswith(self.without_gradient):
                continue
            assert name in gradients, f"{name} has no gradient"
            assert gradients[name].isfinite().all(), f"{name} has a gradient that is not finite"
            # A bias of all keys moves all scores of a query alike, which the softmax does not see.
            if not name.endswith(("k_proj.bias", "key.bias")):
                assert gradients[name].count_nonzero() > 0, f"{name} has a gradient of 0"
            assert parameter.grad.shape == parameter.shape

    def test_gradient_checkpointing_changes_nothing(self, config, inputs):
        for inner in configs_inside(config):
            for name in ("hidden_dropout", "hidden_dropout_prob", "attention_dropout", "attention_probs_dropout_prob"):
                if hasattr(inner, name):
                    setattr(inner, name, 0.0)
        model = stir(build(self.model_class, config)).train()
        expected_loss, expected_gradients = self.loss_and_gradients(model, inputs)
        expected_gradients = {name: value.clone() for name, value in expected_gradients.items()}
        model.activation_checkpointing_enable()
        assert model.is_activation_checkpointing
        calls = count_checkpoints(model)
        loss, gradients = self.loss_and_gradients(model, inputs)
        assert calls[0] > 0
        assert_same(loss, expected_loss)
        assert_same(gradients, expected_gradients, tolerance=1e-6)

    def test_batch_of_one(self, config, inputs):
        model = build(self.model_class, config)
        with torch.no_grad():
            output = tensors(self.run(model, self.one_of(inputs)))
        assert all(value.isfinite().all() for value in output.values())

    def test_bfloat16_is_finite(self, config, inputs):
        model = build(self.model_class, config).to(torch.bfloat16)
        inputs = {
            name: value.bfloat16() if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in inputs.items()
        }
        with torch.no_grad():
            output = tensors(self.run(model, inputs))
        assert all(value.isfinite().all() for value in output.values())

    def test_unknown_argument_raises(self, config, inputs):
        model = build(self.model_class, config)
        with pytest.raises(TypeError, match=f"`{self.model_class.__name__}` has no argument `output_atentions`"):
            model(**inputs, output_atentions=True)

    def test_return_dict_false_gives_the_same_as_a_tuple(self, config, inputs):
        model = build(self.model_class, config)
        with torch.no_grad():
            output = self.run(model, inputs)
            as_tuple = self.run(model, inputs, return_dict=False)
        assert isinstance(as_tuple, tuple)
        assert_same(tuple(tensors(as_tuple).values()), tuple(tensors(output).values()))


class TextTowerTests:
    """What every model that has a text tower must do besides; a subclass names it before `ModelTests`."""

    def test_resized_vocabulary_is_saved(self, config, inputs, tmp_path):
        model = build(self.model_class, config)
        before = model.get_input_embeddings().weight.detach().clone()
        model.resize_token_embeddings(105)
        assert model.config.text_config.vocab_size == 105
        assert torch.equal(model.get_input_embeddings().weight[:99], before)
        model.save_pretrained(tmp_path)
        loaded = self.model_class.from_pretrained(tmp_path)
        assert loaded.config.text_config.vocab_size == 105
        assert loaded.get_input_embeddings().weight.shape == (105, config.text_config.hidden_size)
        inputs["input_ids"][0, 1] = 104
        with torch.no_grad():
            assert_same(self.run(loaded, inputs), self.run(model, inputs))

    def test_padding_changes_nothing(self, config, inputs):
        model = stir(build(self.model_class, config))
        longer = dict(inputs)
        for name in ("input_ids", "attention_mask", "mlm_input_ids", "token_type_ids"):
            if name in inputs:
                longer[name] = nn.functional.pad(inputs[name], (0, 5))
        with torch.no_grad():
            expected, output = tensors(self.run(model, inputs)), tensors(self.run(model, longer))
        for name, value in expected.items():
            if not name.startswith(("text_model_output.last_hidden_state",)):
                assert (output[name].float() - value.float()).abs().max() <= 1e-5, name


def count_checkpoints(model: nn.Module) -> list[int]:
    """A counter of the calls that gradient checkpointing makes from now on: it must not be silently without effect."""
    calls = [0]
    for module in model.modules():
        if hasattr(module, "_gradient_checkpointing_func"):
            original = module._gradient_checkpointing_func

            def counted(*args, original=original, **kwargs):
                calls[0] += 1
                return original(*args, **kwargs)

            module._gradient_checkpointing_func = counted
    return calls
