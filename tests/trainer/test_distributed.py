# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Several processes against one: candidates gathered over ranks give the loss and gradient of the global batch."""

import json
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import PartialState
from accelerate.utils import DistributedType
from datasets import load_from_disk
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoProcessor, set_seed

from modeling_sacl import SaclConfig, SaclForPreTraining, SaclModel
from trainer import PairCollator, SaclTrainer, SaclTrainingArguments
from trainer.data import SkippedPair
from trainer.distributed import gather, world_size
from trainer.objectives import Comparison, ContrastiveBatch, InfoNCEObjective, SaclObjective
from trainer.queue import PairFeatures
from trainer.skipped_pairs import SkippedPairs

from .processes import FORKSERVER, free_port


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
    anchors = PairFeatures(image_embeds, text_embeds, pair_ids)
    student = Comparison(anchors, (PairFeatures(*(gather(tensor) for tensor in anchors)),))
    return objective(ContrastiveBatch(student, logit_scale, regulation_strength=2.0)).losses["itc_loss"]


def make_trainer(folder, batch_size, run, sharded=False, **options):
    """Training with queue and teacher, without chance; the losses that draw or count within a process are out."""
    pairs, model = load_from_disk(os.path.join(folder, "pairs")), os.path.join(folder, "model")
    arguments = SaclTrainingArguments(
        os.path.join(folder, run),
        use_cpu=True,
        ddp_backend="gloo" if dist.is_initialized() else None,
        fsdp=sharded or None,
        fsdp_config={"transformer_layer_cls_to_wrap": LAYERS},
        max_steps=3,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        train_sampling_strategy="sequential",
        # With so large an epsilon it does not turn rounding errors of small gradients into steps.
        optim="adamw_torch",
        adam_epsilon=1.0,
        learning_rate=0.1,
        warmup_steps=0,
        regulation_warmup=0,
        queue_size=7,
        itm_weight=0.0,
        mlm_weight=0.0,
        logging_steps=1,
        disable_tqdm=True,
        **{"save_strategy": "no", **options},
    )
    if sharded:
        # `accelerate` shards on accelerators alone: it is told that these processors are some.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return SaclTrainer(
        model=model,
        args=arguments,
        data_collator=PairCollator(AutoProcessor.from_pretrained(model), mlm_probability=0.0).for_evaluation(),
        train_dataset=pairs,
        eval_dataset=pairs,
    )


def train_and_evaluate(trainer, checkpoint=None):
    trainer.train(resume_from_checkpoint=checkpoint)
    models = {"model": trainer.model, "teacher": trainer.teacher.model}
    named = [(f"{role}.{name}", part) for role, model in models.items() for name, part in model.named_parameters()]
    return {
        "unsliced": [name for name, parameter in named if not isinstance(parameter, DTensor)],
        "model": {name: tensor.clone() for name, tensor in trainer.accelerator.get_state_dict(trainer.model).items()},
        "teacher": trainer.teacher.state_dict(),
        "queue": trainer.queue.state_dict(),
        "metrics": trainer.evaluate(),
        "logs": [entry for entry in trainer.state.log_history if "loss" in entry],
    }


def train_sharded(folder):
    """The same training with sliced parameters; then saved, loaded, and resumed after its second step."""
    trainer = make_trainer(folder, 3, "sharded", sharded=True, save_strategy="steps", save_steps=2)
    whole_run = train_and_evaluate(trainer)
    trainer.save_model(os.path.join(folder, "saved"))
    dist.barrier()
    loaded = SaclForPreTraining.from_pretrained(os.path.join(folder, "saved"))
    resumed = train_and_evaluate(
        make_trainer(folder, 3, "resumed", sharded=True), os.path.join(folder, "sharded", "checkpoint-2")
    )
    return {"run": whole_run, "resumed": resumed, "loaded": loaded.state_dict()}


def skip_in_turn(rank, folder):
    """Rank r leaves out r + 1 pairs for a reason of its own, and one for a common reason, of the same pair."""
    skipped = SkippedPairs(0.5, folder if rank == 0 else None)
    skipped.start(resumed=False)
    own = [SkippedPair(f"{rank} {number}", f"of rank {rank}") for number in range(rank + 1)]
    skipped.count(4, [*own, SkippedPair(7, "of both")], step=1)
    first = skipped.since_last_log()
    if rank == 1:
        skipped.count(4, [SkippedPair("late", "of rank 1")], step=2)
    return {"first": first, "second": skipped.since_last_log(), "all": skipped.of_training(), **skipped.state_dict()}


LAYERS = ["BertLayer", "SaclVisionLayer", "SaclFusionLayer"]
TERMS = {
    "alignment_uniformity_weight": 0.5,
    "unimodal_self_supervision_weight": 0.7,
    "off_diagonal_weight": 3.0,
    "off_diagonal_temperature": 0.1,
    "mixup_weight": 2.0,
}
STEPS = {
    f"{objective}{', queue' if queue_size else ''}{''.join(f', {name}' for name in options)}": dict(
        objective=objective, queue_size=queue_size, **options
    )
    for objective, queue_size, options in [
        *((objective, queue_size, {}) for objective in ("sacl", "infonce", "albef") for queue_size in (0, 40)),
        ("sacl", 40, {"local_loss": False}),
        ("albef", 40, {"local_loss": False}),
        ("sacl_distilled", 40, {"loss_block_size": 7}),
        ("sacl", 40, {"contrastive_chunk_size": 3}),
        ("siglip", 40, {}),
        ("siglip", 40, {"loss_block_size": 7, "contrastive_chunk_size": 3}),
        ("multi_positive", 40, {"loss_block_size": 7}),
        ("graded", 40, {"loss_block_size": 7, "contrastive_chunk_size": 3}),
        ("negclip", 40, {}),
        ("negclip", 40, {"local_loss": False}),
        ("one_to_k", 40, {"contrastive_chunk_size": 3}),
        ("one_to_k", 40, {"loss_block_size": 7}),
        ("infonce", 40, TERMS),
        ("infonce", 40, {**TERMS, "local_loss": False, "contrastive_chunk_size": 3}),
    ]
}


def step_of(folder, batch_size, **options):
    """Loss and gradients of one step of 32 pairs in float64: of this process's part, then averaged over processes."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    generator = torch.Generator().manual_seed(3)
    inputs = {
        "pixel_values": torch.randn(32, 3, 32, 32, generator=generator, dtype=torch.float64),
        "input_ids": torch.randint(5, 99, (32, 6), generator=generator),
        # Ids repeat within ranks and between them.
        "pair_ids": torch.randint(28, (32,), generator=generator),
        "negative_input_ids": torch.randint(5, 99, (32, 6), generator=generator),
        "further_input_ids": torch.randint(5, 99, (32, 2, 6), generator=generator),
        # Some of the negatives are captions of other pairs, of this process and of others.
        "caption_ids": torch.randint(40, (32,), generator=generator),
        "negative_caption_ids": torch.randint(80, (32,), generator=generator),
    }
    inputs["view_pixel_values"] = inputs["pixel_values"].flip(-1)
    inputs["view_input_ids"] = inputs["input_ids"].flip(-1)
    # Partners are of the same eight, so of the same process.
    partner = torch.arange(32).view(4, 8).flip(1).flatten()
    mixture = {
        "mixed_pixel_values": 0.3 * inputs["pixel_values"] + 0.7 * inputs["pixel_values"][partner],
        "mixup_partner": partner % batch_size,
        "mixup_share": torch.full((32,), 0.3, dtype=torch.float64),
    }
    bias = {"logit_bias_init_value": -2.0} if options["objective"] == "siglip" else {}
    model = SaclModel.from_pretrained(os.path.join(folder, "model"), dtype=torch.float64, **bias)
    trainer = SaclTrainer(
        model,
        SaclTrainingArguments(
            os.path.join(folder, "run"),
            use_cpu=True,
            ddp_backend="gloo" if dist.is_initialized() else None,
            regulation_strength=2.0,
            **options,
        ),
        data_collator=lambda rows: rows,
    )
    # A teacher that differs from the model, and a queue with some of the batch's own pairs.
    for kept in (trainer.teacher, trainer.reference):
        for parameter in kept.model.parameters() if kept is not None else ():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    if trainer.queue is not None:
        embeds = nn.functional.normalize(torch.randn(2, 37, 20, generator=generator, dtype=torch.float64), dim=-1)
        trainer.queue.enqueue(*embeds, torch.arange(20, 57))
    trainer.current_gradient_accumulation_steps = 1
    mine, mixed = (
        {name: tensor[rank * batch_size : (rank + 1) * batch_size] for name, tensor in given.items()}
        for given in (inputs, mixture)
    )
    for term in trainer.terms:
        if term.name == "mixup":
            term.prepare = lambda inputs: {**inputs, **mixed}  # what is drawn depends on the process
    loss = trainer.training_step(trainer.model, mine)
    results = {"loss": loss, **{name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}}
    for tensor in results.values() if world_size() > 1 else ():
        dist.all_reduce(tensor)
        tensor /= world_size()
    return results


def start(rank, world, port):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)


def work_in_fours(rank, port, folder):
    start(rank, 4, port)
    try:
        steps = {name: step_of(folder, 8, **options) for name, options in STEPS.items()}
        torch.save(steps, os.path.join(folder, f"{rank} of 4.pt"))
    finally:
        dist.destroy_process_group()


def work(rank, port, folder):
    """What each of the processes does: everything that the tests below look at, in one go."""
    start(rank, WORLD, port)
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

        results["training"] = train_and_evaluate(make_trainer(folder, 3, "run"))
        results["sharded"] = train_sharded(folder)
        results["steps"] = {name: step_of(folder, 16, **options) for name, options in STEPS.items()}
        results["skipped"] = skip_in_turn(rank, os.path.join(folder, "skipped"))
        torch.save(results, os.path.join(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()


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


def in_parallel(function, folder, world):
    """Calls `function(rank, port, folder)` in as many processes; what one of them raises is raised."""
    method = FORKSERVER.get_start_method()
    mp.start_processes(function, args=(free_port(), str(folder)), nprocs=world, start_method=method)


@pytest.fixture(scope="module")
def results(folder):
    in_parallel(work, folder, WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


@pytest.fixture(scope="module")
def steps(folder, results):
    """The steps of two processes and of four, from the view of each."""
    in_parallel(work_in_fours, folder, 4)
    fours = [torch.load(folder / f"{rank} of 4.pt", weights_only=False) for rank in range(4)]
    return [*(result["steps"] for result in results), *fours]


@pytest.fixture(scope="module")
def alone(folder):
    """The same run on one process, with batches of twice the size."""
    return train_and_evaluate(make_trainer(folder, 6, "run"))


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


class TestSkippedPairs:
    def test_all_processes_count_what_all_leave_out(self, results):
        counts = {"skipped/of_both": 2, "skipped/of_rank_0": 1, "skipped/of_rank_1": 2}
        for result in results:
            assert result["skipped"]["first"] == counts
            assert result["skipped"]["second"] == {**dict.fromkeys(counts, 0), "skipped/of_rank_1": 1}
            assert result["skipped"]["all"]["train_skipped/of_rank_1"] == 3
            assert result["skipped"]["total.of rank 1"] == result["skipped"]["logged.of rank 1"] == 3

    def test_one_lists_them_each_once(self, folder, results):
        lines = [json.loads(line) for line in (folder / "skipped" / "skipped_pairs.jsonl").read_text().splitlines()]
        assert [line["pair_id"] for line in lines] == ["0 0", 7, "1 0", "1 1", "late"]
        assert [line["step"] for line in lines] == [1, 1, 1, 1, 2]


class TestSteps:
    @pytest.mark.parametrize("name", STEPS)
    def test_loss_and_gradients_do_not_depend_on_the_number_of_processes(self, folder, steps, name):
        """1 process with 32 pairs, 2 with 16, 4 with 8."""
        expected = step_of(str(folder), 32, **STEPS[name])
        assert sum(gradient.abs().max() > 1e-4 for gradient in expected.values()) > 20
        for results in steps:
            assert results[name].keys() == expected.keys()
            for part, tensor in expected.items():
                torch.testing.assert_close(results[name][part], tensor, atol=1e-10, rtol=0, msg=part)

    @pytest.mark.parametrize("objective", ["sacl", "albef"])
    def test_all_rows_on_every_process_are_the_same_loss(self, steps, objective):
        for results in steps:
            ours, theirs = results[f"{objective}, queue"], results[f"{objective}, queue, local_loss"]
            for part in ours:
                torch.testing.assert_close(theirs[part], ours[part], atol=1e-10, rtol=0, msg=part)


def assert_same_training(ours, theirs, sliced=False):
    for part in ("model", "teacher", "queue"):
        # Of a sliced model the first process is given the whole, and its teacher has nothing where nothing trains.
        assert ours[part].keys() == theirs[part].keys() or (sliced and part != "queue")
        for name, tensor in ours[part].items():
            torch.testing.assert_close(
                tensor.view_as(theirs[part][name]), theirs[part][name], atol=2e-5, rtol=0, msg=name
            )
    for name, value in theirs["metrics"].items():
        # Of batches of another size, the smallest weights are others.
        if not name.endswith(("_runtime", "_per_second", "_weight_min", "_weight_p5")):
            assert ours["metrics"][name] == pytest.approx(value, abs=1e-3), name
    assert len(ours["logs"]) == len(theirs["logs"]) == 3
    for entry, other in zip(ours["logs"], theirs["logs"], strict=True):
        for name in ("loss", "itc_loss", "regulation_weight_mean", "regulation_strength", "temperature"):
            assert entry[name] == pytest.approx(other[name], abs=1e-3), name


class TestTraining:
    def test_two_processes_train_as_one(self, results, alone):
        assert len(alone["queue"]["pair_ids"]) == 7
        for result in results:
            assert_same_training(result["training"], alone)

    def test_sliced_parameters_train_as_whole_ones(self, results, alone):
        for result in results:
            assert result["sharded"]["run"]["unsliced"] == []
            assert len(result["sharded"]["run"]["teacher"]) > 30
            assert_same_training(result["sharded"]["run"], alone, sliced=True)
        assert results[0]["sharded"]["run"]["model"].keys() == alone["model"].keys()

    def test_sliced_training_resumes(self, results, alone):
        for result in results:
            assert_same_training(result["sharded"]["resumed"], alone, sliced=True)

    def test_a_model_of_sliced_training_loads_anywhere(self, results, alone):
        loaded = results[0]["sharded"]["loaded"]
        assert loaded["sacl.logit_scale"].shape == ()
        for name, tensor in alone["model"].items():
            torch.testing.assert_close(loaded[name], tensor, atol=2e-5, rtol=0, msg=name)
