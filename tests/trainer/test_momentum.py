# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The momentum teacher against the formula of the moving average, one number at a time."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from trainer import MomentumTeacher


class Student(nn.Module):
    """With tied weights, buffers of two kinds, a frozen part and dropout."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.dropout = nn.Dropout(0.5)
        self.decoder = nn.Linear(3, 5, bias=False)
        self.decoder.weight = self.embedding.weight
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, tokens):
        return self.decoder(self.dropout(self.frozen(self.norm(self.embedding(tokens)))))


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Student()


def disturb(model, seed):
    """Something like an optimiser step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in [parameter for parameter in model.parameters() if parameter.requires_grad]:
            parameter.add_(torch.randn(parameter.shape, generator=generator))
        model.norm.running_mean.add_(torch.randn(3, generator=generator))
        model.norm.num_batches_tracked.add_(1)
        model.scratch.add_(1.0)


def numbers(model):
    """The weights that are trained."""
    weights = model.named_parameters()
    return {name: weight.detach().clone() for name, weight in weights if not name.startswith("frozen")}


class TestMomentumTeacher:
    @pytest.mark.parametrize("momentum", [0.0, 0.3, 0.5, 0.9, 0.995])
    def test_is_the_moving_average(self, student, momentum):
        student.double()
        teacher = MomentumTeacher(student, momentum)
        expected = {name: parameter.flatten().tolist() for name, parameter in numbers(student).items()}
        for step in range(5):
            disturb(student, step)
            teacher.update(student)
            for name, parameter in numbers(student).items():
                expected[name] = [
                    momentum * slow + (1 - momentum) * fast
                    for slow, fast in zip(expected[name], parameter.flatten().tolist(), strict=True)
                ]
        for name, parameter in numbers(teacher.model).items():
            assert parameter.flatten().tolist() == pytest.approx(expected[name], abs=1e-12, rel=0), name

    def test_momentum_zero_copies_the_model(self, student):
        teacher = MomentumTeacher(student, 0.0)
        disturb(student, 1)
        teacher.update(student)
        assert all(torch.equal(ours, numbers(student)[name]) for name, ours in numbers(teacher.model).items())

    def test_tied_weights_move_once_and_stay_tied(self, student):
        teacher = MomentumTeacher(student, 0.5)
        before = teacher.model.embedding.weight.clone()
        disturb(student, 1)
        teacher.update(student)
        assert teacher.model.decoder.weight is teacher.model.embedding.weight
        torch.testing.assert_close(teacher.model.embedding.weight, (before + student.embedding.weight) / 2)

    def test_buffers_are_taken_over(self, student):
        teacher = MomentumTeacher(student, 0.9)
        disturb(student, 1)
        teacher.update(student)
        ours, theirs = dict(teacher.model.named_buffers()), dict(student.named_buffers())
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert ours["scratch"].data_ptr() != theirs["scratch"].data_ptr()

    def test_is_a_copy_of_its_own(self, student):
        teacher = MomentumTeacher(student, 0.9)
        before = numbers(teacher.model)
        disturb(student, 1)
        assert all(torch.equal(before[name], now) for name, now in numbers(teacher.model).items())
        theirs = dict(student.named_parameters())
        for name, parameter in teacher.model.named_parameters():
            assert (parameter is theirs[name]) == name.startswith("frozen")

    def test_an_entirely_frozen_model_is_its_own_teacher(self, student):
        teacher = MomentumTeacher(student.requires_grad_(False), 0.9)
        teacher.update(student)
        assert set(teacher.state_dict()) == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}

    def test_answers_in_evaluation_mode_and_without_gradient(self, student):
        student.train()
        teacher = MomentumTeacher(student, 0.9)
        tokens = torch.arange(5)
        answers = [teacher(tokens=tokens) for _ in range(2)]
        teacher.update(student)
        assert torch.equal(*answers)  # no dropout, no batch statistics
        assert not answers[0].requires_grad
        assert not any(module.training for module in teacher.model.modules())
        assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
        assert all(module.training for module in student.modules())
        assert [name for name, p in student.named_parameters() if not p.requires_grad] == [
            "frozen.weight",
            "frozen.bias",
        ]

    @pytest.mark.parametrize("momentum", [1.0, -0.1, 1.5, float("nan")])
    def test_impossible_momentum_raises(self, student, momentum):
        with pytest.raises(ValueError, match=f"momentum.*{momentum}"):
            MomentumTeacher(student, momentum)


class TestMomentumTeacherState:
    def test_survives_a_file(self, student, tmp_path):
        teacher = MomentumTeacher(student, 0.9)
        disturb(student, 1)
        teacher.update(student)
        save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
        restored = MomentumTeacher(student, 0.9)
        restored.load_state_dict(load_file(tmp_path / "teacher.safetensors"))
        assert all(torch.equal(ours, numbers(teacher.model)[name]) for name, ours in numbers(restored.model).items())

    def test_continues_as_if_never_interrupted(self, student):
        teacher = MomentumTeacher(student, 0.9)
        disturb(student, 1)
        teacher.update(student)
        # Made from another model, as when the run starts anew: nothing of what is trained may be left of it.
        other = Student()
        other.frozen = student.frozen
        restored = MomentumTeacher(other, 0.9)
        restored.load_state_dict({name: tensor.clone() for name, tensor in teacher.state_dict().items()})
        tokens = torch.arange(5)
        assert torch.equal(teacher(tokens=tokens), restored(tokens=tokens))
        disturb(student, 2)
        teacher.update(student)
        restored.update(student)
        assert all(torch.equal(ours, numbers(teacher.model)[name]) for name, ours in numbers(restored.model).items())
        assert torch.equal(teacher(tokens=tokens), restored(tokens=tokens))

    def test_holds_every_weight_once(self, student):
        state = MomentumTeacher(student, 0.9).state_dict()
        assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
        assert set(numbers(student)) <= set(state)
        assert "norm.running_mean" in state
        assert "decoder.weight" not in state and "scratch" not in state and "frozen.weight" not in state
        assert not any(tensor.requires_grad for tensor in state.values())

    def test_a_model_with_other_names_raises(self, student):
        teacher = MomentumTeacher(student, 0.9)
        before = numbers(teacher.model)
        state = dict(teacher.state_dict())
        state["surplus.weight"] = state.pop("norm.weight")
        with pytest.raises(ValueError, match=r"missing \['norm.weight'\], unexpected \['surplus.weight'\]"):
            teacher.load_state_dict(state)
        assert all(torch.equal(before[name], now) for name, now in numbers(teacher.model).items())

    def test_a_model_with_other_shapes_raises_before_anything_is_copied(self, student):
        teacher = MomentumTeacher(student, 0.9)
        before = numbers(teacher.model)
        state = {name: torch.full_like(tensor, 7.0) for name, tensor in teacher.state_dict().items()}
        state["norm.weight"] = torch.zeros(4)
        with pytest.raises(ValueError, match=r"norm.weight.*\(4,\).*\(3,\)"):
            teacher.load_state_dict(state)
        assert all(torch.equal(before[name], now) for name, now in numbers(teacher.model).items())


def test_follows_a_model_that_has_been_cast():
    model = nn.Linear(3, 2)
    teacher = MomentumTeacher(model, momentum=0.5)
    before = [parameter.clone() for parameter in teacher.model.parameters()]
    model = model.to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    teacher.update(model)
    for ours, old, theirs in zip(teacher.model.parameters(), before, model.parameters(), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, 0.5 * old + 0.5 * theirs.float())
