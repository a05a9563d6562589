# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The training arguments: what their documentation says is what they are, and impossible values raise."""

import ast
import dataclasses
import json
import re
import typing

import pytest
from transformers import HfArgumentParser, TrainingArguments

from trainer import OBJECTIVES, SaclTrainingArguments


DOCSTRING = vars(SaclTrainingArguments)["__doc__"]
OWN_FIELDS = [
    field
    for field in dataclasses.fields(SaclTrainingArguments)
    if field.name not in {inherited.name for inherited in dataclasses.fields(TrainingArguments)}
]
DOCUMENTED = {
    match["name"]: match
    for match in re.finditer(
        r"^        (?P<name>\w+) \(`(?P<type>\w+)`, \*optional\*(?:, defaults to `?(?P<default>[^`)]+)`?)?\):$",
        DOCSTRING,
        flags=re.MULTILINE,
    )
}
TYPES = {"bool": bool, "float": float, "int": int, "str": str}
CHANGED_DEFAULTS = {
    "learning_rate": 1e-4,
    "weight_decay": 0.02,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "logging_nan_inf_filter": False,
    "remove_unused_columns": False,
    "label_names": [],
}


def make(tmp_path, **options):
    return SaclTrainingArguments(str(tmp_path), use_cpu=True, **options)


def parse(*arguments):
    return HfArgumentParser(SaclTrainingArguments).parse_args_into_dataclasses(list(arguments))[0]


class TestDefaults:
    def test_every_argument_is_documented_in_the_order_of_the_fields(self):
        assert list(DOCUMENTED) == [field.name for field in OWN_FIELDS]

    @pytest.mark.parametrize("field", OWN_FIELDS, ids=lambda field: field.name)
    def test_documented_type_and_default_are_those_of_the_code(self, field):
        entry = DOCUMENTED[field.name]
        default, documented_type = entry["default"], TYPES[entry["type"]]
        assert (None if default is None else ast.literal_eval(default)) == field.default
        may_be_none = field.default is None or field.name == "momentum"
        assert typing.get_type_hints(SaclTrainingArguments)[field.name] == (
            documented_type | None if may_be_none else documented_type
        )

    @pytest.mark.parametrize("field", OWN_FIELDS, ids=lambda field: field.name)
    def test_every_argument_has_help(self, field):
        assert field.metadata["help"]

    def test_changed_defaults_are_all_in_the_note(self, tmp_path):
        note = DOCSTRING[: DOCSTRING.index("A *share or steps* argument")]
        inherited = {field.name: field for field in dataclasses.fields(TrainingArguments)}
        changed = [name for name in vars(SaclTrainingArguments)["__annotations__"] if name in inherited]
        assert changed == list(CHANGED_DEFAULTS)
        arguments = make(tmp_path)
        for name, value in CHANGED_DEFAULTS.items():
            assert getattr(arguments, name) == value
            assert f"`{name}` (" in note
            assert inherited[name].default != value

    def test_without_arguments_nothing_raises(self, tmp_path):
        arguments = make(tmp_path)
        for field in OWN_FIELDS:
            assert getattr(arguments, field.name) == field.default


class TestRanges:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("regulation_strength", -0.5),
            ("regulation_strength", float("nan")),
            ("regulation_strength", float("inf")),
            ("regulation_warmup", -1),
            ("hard_negative_warmup", -1),
            ("filter_threshold", 0.0),
            ("filter_threshold", 1.0),
            ("filter_threshold", 1.5),
            ("filter_threshold", float("nan")),
            ("debiased_prior", -0.1),
            ("debiased_prior", 1.0),
            ("hard_negative_concentration", -0.1),
            ("guide_margin", 2.1),
            ("target_temperature", 0.0),
            ("momentum", -0.1),
            ("momentum", 1.1),
            ("distillation_weight", -0.1),
            ("distillation_weight", 1.01),
            ("distillation_warmup", -0.1),
            ("queue_size", -1),
            ("itc_weight", -1.0),
            ("itm_weight", -1.0),
            ("mlm_weight", float("nan")),
            ("mlm_probability", 1.2),
            ("mlm_probability", -0.2),
            ("vision_learning_rate", -1e-5),
            ("min_temperature", 0.0),
            ("max_temperature", -1.0),
            ("retrieval_chunk_size", 0),
        ],
    )
    def test_a_value_out_of_range_is_named(self, tmp_path, name, value):
        with pytest.raises(ValueError, match=rf"`{name}`.*{re.escape(str(value))}"):
            make(tmp_path, **{name: value})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("regulation_strength", 0.0),
            ("regulation_warmup", 0),
            ("regulation_warmup", 500),
            ("hard_negative_warmup", 0.5),
            ("filter_threshold", 0.3),
            ("debiased_prior", 0.0),
            ("hard_negative_concentration", 0.0),
            ("guide_margin", -2.0),
            ("momentum", 0.0),
            ("momentum", None),
            ("distillation_weight", 1.0),
            ("queue_size", 1),
            ("itc_weight", 0.0),
            ("mlm_probability", 0.0),
            ("vision_learning_rate", 0.0),
            ("retrieval_chunk_size", 1),
        ],
    )
    def test_a_value_at_the_edge_is_accepted(self, tmp_path, name, value):
        assert getattr(make(tmp_path, **{name: value}), name) == value

    def test_momentum_one_would_never_learn(self, tmp_path):
        with pytest.raises(ValueError, match="`momentum` must be below 1"):
            make(tmp_path, momentum=1.0)

    def test_temperatures_the_wrong_way_round(self, tmp_path):
        with pytest.raises(ValueError, match=r"`min_temperature` \(0.4\) is above `max_temperature` \(0.2\)"):
            make(tmp_path, min_temperature=0.4, max_temperature=0.2)

    def test_unused_columns_must_stay(self, tmp_path):
        with pytest.raises(ValueError, match="`remove_unused_columns` must be False"):
            make(tmp_path, remove_unused_columns=True)

    def test_an_unknown_argument_raises(self, tmp_path):
        with pytest.raises(TypeError, match="regulation_strenght"):
            make(tmp_path, regulation_strenght=1.0)


class TestObjective:
    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_every_objective_is_accepted_and_documented(self, tmp_path, name):
        assert make(tmp_path, objective=name).objective == name
        assert f'`"{name}"`' in DOCSTRING

    def test_an_unknown_objective_is_named_with_those_that_exist(self, tmp_path):
        with pytest.raises(ValueError, match=f"{', '.join(OBJECTIVES)}; got 'clip'"):
            make(tmp_path, objective="clip")

    @pytest.mark.parametrize("name", ["albef", "sacl_distilled"])
    def test_distillation_needs_a_teacher(self, tmp_path, name):
        with pytest.raises(ValueError, match=f"'{name}'.*`momentum`"):
            make(tmp_path, objective=name, momentum=None)

    @pytest.mark.parametrize("name", ["sacl", "infonce"])
    def test_others_do_without(self, tmp_path, name):
        assert make(tmp_path, objective=name, momentum=None).momentum is None


class TestShareOrSteps:
    @pytest.mark.parametrize(("value", "steps"), [(0.0, 0), (0.1, 20), (0.999, 199.8), (1, 1), (1.0, 1), (50, 50)])
    def test_below_one_is_a_share_and_from_one_on_steps(self, tmp_path, value, steps):
        assert make(tmp_path).steps_of(value, max_steps=200) == pytest.approx(steps)


class TestSerialisation:
    def test_dictionary_can_be_written_as_json(self, tmp_path):
        arguments = make(tmp_path, filter_threshold=0.3, momentum=None)
        written = json.loads(json.dumps(arguments.to_dict()))
        assert written == json.loads(arguments.to_json_string())
        assert {field.name: written[field.name] for field in OWN_FIELDS} == {
            field.name: getattr(arguments, field.name) for field in OWN_FIELDS
        }

    def test_sanitised_dictionary_has_what_trackers_take(self, tmp_path):
        for name, value in make(tmp_path).to_sanitized_dict().items():
            assert isinstance(value, (bool, int, float, str)), name


class TestCommandLine:
    def test_defaults(self, tmp_path):
        arguments = parse("--output_dir", str(tmp_path), "--use_cpu")
        for field in OWN_FIELDS:
            assert getattr(arguments, field.name) == field.default, field.name
        for name, value in CHANGED_DEFAULTS.items():
            assert getattr(arguments, name) == value

    def test_every_type_of_value(self, tmp_path):
        arguments = parse(
            *("--output_dir", str(tmp_path), "--use_cpu"),
            *("--objective", "infonce", "--regulation-strength", "2", "--filter_threshold", "0.3"),
            *("--momentum", "0.9", "--queue_size", "4096", "--vision_learning_rate", "1e-5"),
            *("--mlm_weight", "0", "--retrieval_chunk_size", "256"),
        )
        assert arguments.objective == "infonce"
        assert (arguments.regulation_strength, arguments.filter_threshold) == (2.0, 0.3)
        assert (arguments.momentum, arguments.queue_size, arguments.vision_learning_rate) == (0.9, 4096, 1e-5)
        assert type(arguments.queue_size) is int and type(arguments.mlm_weight) is float
        assert arguments.retrieval_chunk_size == 256

    @pytest.mark.parametrize(
        ("switch", "value"),
        [
            (["--no_regulate_hard_negatives"], False),
            (["--regulate_hard_negatives", "false"], False),
            (["--regulate_hard_negatives"], True),
            ([], True),
        ],
    )
    def test_switches(self, tmp_path, switch, value):
        arguments = parse("--output_dir", str(tmp_path), "--use_cpu", *switch)
        assert arguments.regulate_hard_negatives is value

    def test_a_file_can_say_none(self, tmp_path):
        (tmp_path / "arguments.json").write_text(json.dumps({"output_dir": str(tmp_path), "momentum": None}))
        parser = HfArgumentParser(SaclTrainingArguments)
        assert parser.parse_json_file(tmp_path / "arguments.json")[0].momentum is None

    def test_a_value_out_of_range_raises_here_too(self, tmp_path):
        with pytest.raises(ValueError, match="`queue_size`.*-3"):
            parse("--output_dir", str(tmp_path), "--queue_size", "-3")
