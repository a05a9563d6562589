# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Copies of the model in training, kept beside it and never exported: one that stays, and one that slowly follows."""

import copy

import torch
from torch import nn

from .sharding import copy_from_whole, slice_again, whole


class FrozenCopy:
    r"""
    A model as it is now, beside the model in training. It answers the model's calls in evaluation mode and without
    gradient. What is frozen in the model (a locked tower, everything beside an adapter) is shared with it, not copied.

    Args:
        model (`nn.Module`):
            The model to copy; the copy is on its device.
    """

    # What errors call it.
    title = "copy of the model"

    def __init__(self, model: nn.Module):
        frozen = {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
        self._shared = set(frozen)
        shared_by_id = {id(parameter): parameter for parameter in frozen.values()}
        self.model = copy.deepcopy(model, shared_by_id).requires_grad_(False).eval()

    @torch.inference_mode()
    def __call__(self, **inputs):
        return self.model(**inputs)

    def _own_tensors(self) -> dict[str, torch.Tensor]:
        """The copy's own weights and persistent buffers, each once: neither tied nor shared ones are repeated."""
        persistent = self.model.state_dict().keys()
        weights = {name: weight for name, weight in self.model.named_parameters() if name not in self._shared}
        buffers = {name: buffer for name, buffer in self.model.named_buffers() if name in persistent}
        return {name: tensor.detach() for name, tensor in {**weights, **buffers}.items()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What is the copy's own; if it is sharded, all processes have to ask."""
        return {name: whole(tensor) for name, tensor in self._own_tensors().items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """
        Restores the copy.

        Raises:
            ValueError: if names or shapes are not those of the model.
        """
        own = self._own_tensors()
        missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unexpected:
            raise ValueError(
                f"The saved {self.title} is not of this model: missing {missing[:5]}, unexpected {unexpected[:5]}."
            )
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise ValueError(
                    f"The saved {self.title}'s `{name}` has shape {tuple(state[name].shape)}, the model's "
                    f"{tuple(tensor.shape)}."
                )
        for name, tensor in own.items():
            copy_from_whole(tensor, state[name])


class MomentumTeacher(FrozenCopy):
    r"""
    An exponential moving average of a model (ALBEF, section 3.3): `teacher = momentum * teacher + (1 - momentum) *
    model`, after every optimiser step. It answers the model's calls in evaluation mode and without gradient. What is
    frozen in the model (a locked tower, everything beside an adapter) is shared with it, not copied.

    Args:
        model (`nn.Module`):
            The model to follow; the teacher starts as its copy, on its device.
        momentum (`float`):
            In [0, 1). ALBEF uses 0.995.
    """

    title = "momentum teacher"

    def __init__(self, model: nn.Module, momentum: float):
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1), got {momentum}.")
        super().__init__(model)
        self.momentum = momentum

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the teacher one step towards `model`; buffers are taken over as they are."""
        slice_again(self.model)
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        # The model may have been cast since, as DeepSpeed casts it; the teacher stays as precise as it was.
        moving = [(ours.detach(), theirs.detach().to(ours.dtype)) for ours, theirs in pairs if ours is not theirs]
        if moving:
            torch._foreach_lerp_([ours for ours, _ in moving], [theirs for _, theirs in moving], 1 - self.momentum)
        for our_buffer, their_buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            our_buffer.copy_(their_buffer)
