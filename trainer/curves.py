# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The curves of a run: what each step measures, until the next line of the log has its mean."""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from .distributed import gather


class Curves:
    """
    Named scalars of training and of evaluation, kept on their device and read from it once, when they are logged.

    Args:
        device (`torch.device`): Where the processes of a training exchange tensors.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._values: dict[str, dict[str, list[torch.Tensor]]] = {
            "train": defaultdict(list),
            "eval": defaultdict(list),
        }

    def record(self, values: Mapping[str, torch.Tensor], training: bool = True) -> None:
        """Takes in the scalars of a batch."""
        for name, value in values.items():
            self._values["train" if training else "eval"][name].append(value.detach().float())

    def drain(self, mode: str) -> dict[str, float]:
        """Means of what was recorded since the last time, over steps and processes."""
        names = sorted(self._values[mode])
        if not names:
            return {}
        # NaN: without meaning for that batch, such as the weights of no negatives. A loss is never NaN here.
        recorded = [torch.stack([value.to(self._device) for value in self._values[mode][name]]) for name in names]
        means = torch.stack([values.nanmean() for values in recorded])
        means = gather(means[None]).nanmean(dim=0)
        self._values[mode].clear()
        return {name: mean for name, mean in zip(names, means.tolist(), strict=True) if not math.isnan(mean)}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What the training has recorded since the last line of the log."""
        return {name: torch.stack(values) for name, values in self._values["train"].items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on from what `state_dict` has returned; empty, from nothing."""
        self._values["train"].clear()
        for name, values in state.items():
            self._values["train"][name].extend(values.unbind())


class PendingLogs:
    """
    What was measured since the last line of the log: a checkpoint between two lines carries it over, so that the next
    line of a resumed run is that of the uninterrupted one. (With several processes, that holds for the loss; of its
    parts, what the process that saves has measured until then stands for all.)

    Args:
        trainer ([`SaclTrainer`]):
            The trainer whose measurements these are.
        curves ([`Curves`]):
            The scalars among them.
    """

    def __init__(self, trainer: Any, curves: Curves):
        self.trainer = trainer
        self.curves = curves
        self._restored: dict[str, torch.Tensor] = {}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """
        Sum of losses, number of steps, and the measurements one by one; empty right after a line. All processes have
        to ask for it.
        """
        trainer = self.trainer
        steps = trainer.state.global_step - trainer._globalstep_last_logged
        if steps == 0:
            return {}
        metrics = {f"metrics.{name}": values for name, values in self.curves.state_dict().items()}
        return {"steps": torch.tensor(steps), "loss": gather(trainer._tr_loss.detach()[None]).mean(), **metrics}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Keeps the measurements until training begins, when the parent has set its own to zero."""
        self._restored = dict(state)

    def carry_over(self) -> None:
        """
        Puts the restored measurements where the trainer goes on counting, in the place of those of an earlier
        training. To be called when training begins.
        """
        trainer, state, self._restored = self.trainer, self._restored, {}
        start = "metrics."
        measured = {name.removeprefix(start): values for name, values in state.items() if name.startswith(start)}
        self.curves.load_state_dict(measured)
        if not state:
            return
        trainer._globalstep_last_logged -= int(state["steps"])
        trainer._tr_loss += state["loss"]
        # The loss that `train` returns is the mean over its own steps.
        trainer._total_loss_scalar -= state["loss"].item()
