# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Two processes against one: candidates gathered over ranks give the loss and the gradient of the global batch."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from datasets import load_from_disk
from torch import nn
from transformers import AutoProcessor, set_seed

from modeling_sacl import SaclConfig, SaclForPreTraining
from trainer import PairCollator, SaclTrainer, SaclTrainingArguments
from trainer.distributed import gather, world_size
from trainer.objectives import ContrastiveBatch, InfoNCEObjective, SaclObjective


WORLD = 2
OBJECTIVES = {"infonce": InfoNCEObjective(), "sacl": SaclObjective()}
# Ids repeat within a rank (0) and between the ranks (3).
PAIR_IDS = torch.tensor([0, 0, 2, 3, 3, 5, 6, 7])


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.image = nn.Parameter(torch.randn(5, 4, generator=generator, dtype=torch.float64))
        self.text = nn.Parameter(torch.randn(6, 4, generator=generator, dtype=torch.float64))
        self.logit_scale = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def forward(self, images, texts):
        image_embeds, text_embeds = images @ self.image, texts @ self.text
        return (
            nn.functional.normalize(image_embeds, dim=-1),
            nn.functional.normalize(text_embeds, dim=-1),
            self.logit_scale.exp(),
        )


def inputs():
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(len(PAIR_IDS), 5, generator=generator, dtype=torch.float64),
        torch.randn(len(PAIR_IDS), 6, generator=generator, dtype=torch.float64),
    )


def loss_of(objective, towers, images, texts, pair_ids):
    """The loss of these anchors among the candidates of all processes."""
    image_embeds, text_embeds, logit_scale = towers(images, texts)
    return objective(
        ContrastiveBatch(
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            candidate_image_embeds=gather(image_embeds),
            candidate_text_embeds=gather(text_embeds),
            positive_mask=pair_ids[:, None] == gather(pair_ids)[None, :],
            logit_scale=logit_scale,
            regulation_strength=2.0,
        )
    ).losses["itc_loss"]


def train_and_evaluate(folder, batch_size):
    """Three steps with queue and teacher, without chance; the losses that draw or count within a process are out."""
    pairs, model = load_from_disk(os.path.join(folder, "pairs")), os.path.join(folder, "model")
    trainer = SaclTrainer(
        model=model,
        args=SaclTrainingArguments(
            os.path.join(folder, "run"),
            use_cpu=True,
            ddp_backend="gloo" if dist.is_initialized() else None,
            max_steps=3,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=batch_size,
            train_sampling_strategy="sequential",
            optim="sgd",
            learning_rate=0.01,
            warmup_steps=0,
            regulation_warmup=0,
            queue_size=7,
            itm_weight=0.0,
            mlm_weight=0.0,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
        ),
        data_collator=PairCollator(AutoProcessor.from_pretrained(model), mlm_probability=0.0).for_evaluation(),
        train_dataset=pairs,
        eval_dataset=pairs,
    )
    trainer.train()
    return {
        "model": {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()},
        "teacher": trainer.teacher.state_dict(),
        "queue": trainer.queue.state_dict(),
        "metrics": trainer.evaluate(),
        "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
    }


def work(rank, port, folder):
    """What each of the processes does: everything that the tests below look at, in one go."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    try:
        results = {"world_size": world_size()}
        results["integers"] = gather(torch.arange(3) + 10 * rank)
        results["matrix"] = gather(torch.arange(6.0).view(3, 2).T + 100 * rank)  # not contiguous
        results["half"] = gather(torch.full((2, 2), 0.5 + rank, dtype=torch.bfloat16))

        # Rank r weighs row j of the gathered tensor by (r + 1) * (j + 1).
        own = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
        weights = (rank + 1) * torch.arange(1, 2 * WORLD + 1, dtype=torch.float64)[:, None]
        (weights * gather(own)).sum().backward()
        results["gradient"] = own.grad

        mine = slice(rank * len(PAIR_IDS) // WORLD, (rank + 1) * len(PAIR_IDS) // WORLD)
        for name, objective in OBJECTIVES.items():
            towers = Towers()
            loss = loss_of(objective, towers, *(tensor[mine] for tensor in inputs()), PAIR_IDS[mine])
            loss.backward()
            gradients = [parameter.grad for parameter in towers.parameters()]
            for tensor in [loss.detach(), *gradients]:
                dist.all_reduce(tensor)
                tensor /= WORLD
            results[name] = (loss.detach(), gradients)

            wrapped = nn.parallel.DistributedDataParallel(Towers())
            loss_of(objective, wrapped, *(tensor[mine] for tensor in inputs()), PAIR_IDS[mine]).backward()
            results[f"{name}, wrapped"] = [parameter.grad for parameter in wrapped.parameters()]

        results["training"] = train_and_evaluate(folder, batch_size=3)
        torch.save(results, os.path.join(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_processor, pairs):
    """What the processes read, and where they write."""
    folder = tmp_path_factory.mktemp("ranks")
    set_seed(0)
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37}
    config = SaclConfig(
        text_config={**tiny, "vocab_size": 99, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        vision_config={**tiny, "image_size": 32, "patch_size": 8},
        fusion_encoder_config={"num_hidden_layers": 1},
        projection_dim=20,
    )
    SaclForPreTraining(config).save_pretrained(folder / "model")
    tiny_processor.save_pretrained(folder / "model")
    pairs.save_to_disk(folder / "pairs")
    return folder


@pytest.fixture(scope="module")
def results(folder):
    mp.spawn(work, args=(free_port(), str(folder)), nprocs=WORLD, join=True)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.fixture(scope="module")
def alone(folder):
    """The same run on one process, with batches of twice the size."""
    return train_and_evaluate(folder, batch_size=6)


class TestGather:
    def test_one_process_gets_the_tensor_itself(self):
        tensor = torch.randn(3, 2, requires_grad=True)
        assert gather(tensor) is tensor
        assert world_size() == 1

    def test_rows_come_in_the_order_of_the_ranks(self, results):
        for result in results:
            assert result["world_size"] == WORLD
            assert result["integers"].tolist() == [0, 1, 2, 10, 11, 12]
            assert result["matrix"].tolist() == [[0, 2, 4], [1, 3, 5], [100, 102, 104], [101, 103, 105]]
            assert result["half"].dtype == torch.bfloat16
            assert result["half"].tolist() == [[0.5, 0.5], [0.5, 0.5], [1.5, 1.5], [1.5, 1.5]]

    def test_gradients_of_all_processes_reach_the_rows(self, results):
        # Row j of the global tensor is weighed by 1 * (j + 1) on one rank and by 2 * (j + 1) on the other.
        assert results[0]["gradient"].flatten().tolist() == [3.0, 6.0]
        assert results[1]["gradient"].flatten().tolist() == [9.0, 12.0]

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_mean_over_ranks_is_the_loss_and_gradient_of_the_global_batch(self, results, name):
        towers = Towers()
        loss = loss_of(OBJECTIVES[name], towers, *inputs(), PAIR_IDS)
        loss.backward()
        for result in results:
            their_loss, gradients = result[name]
            torch.testing.assert_close(their_loss, loss.detach(), atol=1e-12, rtol=0)
            for parameter, gradient in zip(towers.parameters(), gradients, strict=True):
                assert parameter.grad.abs().max() > 1e-3
                torch.testing.assert_close(gradient, parameter.grad, atol=1e-12, rtol=0)

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_data_parallel_training_takes_this_mean(self, results, name):
        towers = Towers()
        loss_of(OBJECTIVES[name], towers, *inputs(), PAIR_IDS).backward()
        for result in results:
            for parameter, gradient in zip(towers.parameters(), result[f"{name}, wrapped"], strict=True):
                torch.testing.assert_close(gradient, parameter.grad, atol=1e-12, rtol=0)


class TestTrainer:
    def test_weights_and_teacher_are_the_same(self, results, alone):
        for result in results:
            for part in ("model", "teacher"):
                assert result["training"][part].keys() == alone[part].keys()
                for name, tensor in alone[part].items():
                    torch.testing.assert_close(result["training"][part][name], tensor, atol=2e-5, rtol=0, msg=name)

    def test_the_queue_holds_the_pairs_of_all_processes(self, results, alone):
        for result in results:
            ours, theirs = result["training"]["queue"], alone["queue"]
            assert len(alone["queue"]["pair_ids"]) == 7
            for name in ("pair_ids", "next"):
                assert torch.equal(ours[name], theirs[name])
            for name in ("image_embeds", "text_embeds"):
                torch.testing.assert_close(ours[name], theirs[name], atol=2e-5, rtol=0)

    def test_logs_and_metrics_are_the_same(self, results, alone):
        for result in results:
            for name, value in alone["metrics"].items():
                if name not in ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second"):
                    assert result["training"]["metrics"][name] == pytest.approx(value, abs=1e-3), name
            for ours, theirs in zip(result["training"]["logs"], alone["logs"], strict=True):
                for name in ("loss", "itc_loss", "regulation_weight_mean", "regulation_strength", "temperature"):
                    assert ours[name] == pytest.approx(theirs[name], abs=1e-3), name
