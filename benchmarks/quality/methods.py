# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What is compared: every objective with the same number of settings to choose from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from training import Run


# One settings more or less than others would be a head start.
TRIALS = 4
TUNING_SEED = 100
SEEDS = (0, 1, 2, 3, 4)

_RATES = (1e-3, 2e-3)
_TEACHER = {"momentum": 0.99}
_TEXT_GUIDE = {"guide_schedule": "constant"}
# What is compared with the paper in every analysis.
OURS = "graded"


@dataclass(frozen=True)
class Method:
    """
    A row of the table.

    Args:
        name (`str`):
            What the table calls it.
        run (`Run`):
            What all of its settings have in common.
        grid (sequence of mappings):
            The settings that validation chooses from.
    """

    name: str
    run: Run
    grid: Sequence[Mapping[str, Any]] = field(default_factory=list)

    def trials(self) -> list[Run]:
        """The runs of which the best on validation says what the settings are."""
        return [self.with_settings(settings, TUNING_SEED) for settings in self.grid]

    def with_settings(self, settings: Mapping[str, Any], seed: int, **changes: Any) -> Run:
        return replace(self.run, settings={**self.run.settings, **settings}, seed=seed, **changes)


def _method(name: str, objective: str = "", guide: str | None = None, settings=None, **own: Sequence[float]) -> Method:
    """A method with one parameter of its own in two values, at two learning rates; or at four, if it has none."""
    if own:
        ((parameter, values),) = own.items()
        grid = [{"learning_rate": rate, parameter: value} for rate, value in product(_RATES, values)]
    else:
        grid = [{"learning_rate": rate} for rate in (5e-4, *_RATES, 4e-3)]
    if len(grid) != TRIALS:
        raise ValueError(f"{name} has {len(grid)} settings to choose from, and all others have {TRIALS}.")
    return Method(name, Run(objective or name, settings or {}, guide), grid)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _method("infonce"),
        _method("albef", settings=_TEACHER, distillation_weight=(0.2, 0.4)),
        _method("sacl", settings=_TEACHER, regulation_strength=(1.0, 3.0)),
        _method("sacl_distilled", settings=_TEACHER, regulation_strength=(1.0, 3.0)),
        _method("sacl + text guide", "sacl", "text", _TEXT_GUIDE, regulation_strength=(1.0, 3.0)),
        _method(
            "sacl + text guide, upper tenth",
            "sacl",
            "text",
            {**_TEXT_GUIDE, "regulation_quantile": 0.9},
            regulation_strength=(3.0, 6.0),
        ),
        _method("graded", settings=_TEACHER, graded_weight=(0.5, 1.0)),
        _method(
            "graded, strength 0", "graded", settings={**_TEACHER, "regulation_strength": 0.0}, graded_weight=(0.5, 1.0)
        ),
        _method(
            "graded + text guide",
            "graded",
            "text",
            {**_TEACHER, "guide_schedule": "linear"},
            graded_weight=(0.5, 1.0),
        ),
        _method("filter", settings={**_TEACHER, "regulation_strength": 3.0}, filter_threshold=(0.3, 0.6)),
        _method("multi_positive"),
        _method("siglip"),
        _method("dcl"),
        _method("debiased", debiased_prior=(0.01, 0.1)),
        _method("hcl", hard_negative_concentration=(0.25, 1.0)),
        _method("softclip", target_temperature=(0.05, 0.1)),
        _method("cwcl", guide="text", settings=_TEXT_GUIDE),
        _method("xclr", guide="text", settings=_TEXT_GUIDE, target_temperature=(0.05, 0.1)),
        _method("gist", guide="text", settings=_TEXT_GUIDE, guide_margin=(0.1, 0.3)),
        _method("negclip"),
        _method("one_to_k"),
        _method("infonce + alignment_uniformity", "infonce", alignment_uniformity_weight=(0.1, 0.5)),
        _method("infonce + unimodal_self_supervision", "infonce", unimodal_self_supervision_weight=(0.2, 1.0)),
        _method("infonce + off_diagonal", "infonce", off_diagonal_weight=(0.1, 1.0)),
        _method("infonce + mixup", "infonce", mixup_weight=(0.2, 1.0)),
    )
}
