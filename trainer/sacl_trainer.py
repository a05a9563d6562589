# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The trainer: one contrastive step as five named steps, and the state that lives beside the model."""

import inspect
import math
import os
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Trainer,
    TrainerCallback,
)
from transformers.utils import ModelOutput, is_peft_available

from modeling_sacl.loss_sacl import contrastive_logits, find_positives

from .data import PairCollator, SeededPairs, undecoded, with_pair_ids
from .distributed import gather, row_counts
from .evaluation import Relevance, evaluate_retrieval
from .grad_cache import RandomState, split_batch
from .guide import GUIDE_COLUMNS, Guide, add_guide_features
from .momentum import MomentumTeacher
from .objectives import OBJECTIVES, BothDirections, ContrastiveBatch, distillation_loss
from .queue import FeatureQueue, PairFeatures
from .sacl_config import GUIDE_SCHEDULES, SaclTrainingArguments


TRAINING_STATE_NAME = "sacl_training_state.safetensors"


class SaclTrainer(Trainer):
    r"""
    Trainer for contrastive image-text models: SACL pre-training and fine-tuning, and the baselines beside it.

    It trains [`SaclForPreTraining`] with contrast, matching and masked language modeling, and any dual encoder whose
    output has `image_embeds` and `text_embeds` ([`CLIPModel`], [`SaclModel`] ...) with contrast alone. The momentum
    teacher and the feature queue live beside the model, are saved with every checkpoint and restored by
    `resume_from_checkpoint`, and are never part of the saved model.

    Args:
        model ([`PreTrainedModel`] or `str`):
            The model, or the folder or Hub id to load it from.
        args ([`SaclTrainingArguments`], *optional*):
            Defaults to `SaclTrainingArguments(output_dir="tmp_trainer")`.
        data_collator ([`PairCollator`], *optional*):
            Makes batches of pairs. Defaults to a [`PairCollator`] with the processor and train-time augmentation. If
            it has a method `for_evaluation`, evaluation uses what that returns.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`], *optional*):
            Pairs with the columns `image`, `caption` or `captions`, and optionally `pair_id` (see [`load_pairs`]).
        eval_dataset ([`~datasets.Dataset`] or `dict[str, Dataset]`, *optional*):
            Pairs for evaluation.
        processing_class ([`ProcessorMixin`], *optional*):
            The processor, saved with the model. Defaults to that of the model's folder or Hub id.
        guide_model ([`Guide`], [`PreTrainedModel`] or `str`, *optional*):
            A frozen model whose similarities regulate the contrast until the model's own are reliable
            (`guide_schedule`). Its features of the training pairs are computed once, before training, unless the data
            set has them already ([`add_guide_features`]). A bare model is taken to share `processing_class`.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Trains adapters instead of the model: it is wrapped by `peft.get_peft_model`, and adapters are what is
            saved. Projections and heads train too if the config names them in `modules_to_save`.
        eval_relevance (`Callable[[Dataset], Relevance]`, *optional*):
            Makes, for an evaluation dataset, the graded relevance of its images and texts that nDCG counts. Without it
            a text is relevant to the images of its own pair.
        compute_metrics (`Callable`, *optional*):
            Further metrics from an [`EvalPrediction`] with `(image_embeds, text_embeds)` as predictions and the pair
            ids as labels. Retrieval metrics come without it.
        callbacks (`list[TrainerCallback]`, *optional*).
        optimizers (`tuple`, *optional*, defaults to `(None, None)`):
            An optimiser and a scheduler, instead of those that the arguments describe.

    Example:

    ```python
    >>> from modeling_sacl import SaclForPreTraining, SaclProcessor
    >>> from trainer import SaclTrainer, SaclTrainingArguments, load_pairs

    >>> trainer = SaclTrainer(
    ...     model=SaclForPreTraining.from_vision_text_pretrained(
    ...         "openai/clip-vit-base-patch16", "google-bert/bert-base-uncased"
    ...     ),
    ...     args=SaclTrainingArguments("sacl-catalogue", vision_learning_rate=1e-5),
    ...     train_dataset=load_pairs("user/catalogue", split="train"),
    ...     processing_class=processor,
    ... )
    >>> trainer.train()
    ```

    Source: Jiang et al., ACL 2023 ([arXiv 2305.04474](https://huggingface.co/papers/2305.04474)); teacher, queue and
    losses beside the contrast as in ALBEF ([arXiv 2107.07651](https://huggingface.co/papers/2107.07651)).
    """

    _tag_names = ["sacl", "contrastive-learning", "image-text-retrieval"]
    _name = "SACL"
    # Every loss here is a mean over its batch, so gradient accumulation has to divide it.
    loss_is_scaled_for_ga = False
    data_collator: Callable[[list[dict]], dict[str, torch.Tensor]]
    train_dataset: Any
    eval_dataset: Any

    def __init__(
        self,
        model: PreTrainedModel | str,
        args: SaclTrainingArguments | None = None,
        data_collator: Callable[[list[dict]], dict[str, torch.Tensor]] | None = None,
        train_dataset: Any | None = None,
        eval_dataset: Any | dict[str, Any] | None = None,
        processing_class: ProcessorMixin | None = None,
        guide_model: Guide | PreTrainedModel | str | None = None,
        peft_config: Any | None = None,
        eval_relevance: Callable[[Any], Relevance] | None = None,
        compute_metrics: Callable | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LRScheduler | None] = (None, None),
    ):
        args = SaclTrainingArguments(output_dir="tmp_trainer") if args is None else args
        if not isinstance(args, SaclTrainingArguments):
            raise TypeError(f"`args` must be `SaclTrainingArguments`, got `{type(args).__name__}`.")
        if isinstance(model, str):
            processing_class = AutoProcessor.from_pretrained(model) if processing_class is None else processing_class
            model = _load_model(model)
        if peft_config is not None:
            model = _with_adapters(model, peft_config)
        base_model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._forward_arguments = set(inspect.signature(base_model.forward).parameters)
        self._has_fusion = "mlm_input_ids" in self._forward_arguments
        if processing_class is None:
            processing_class = getattr(data_collator, "processor", None)
        if data_collator is None:
            if processing_class is None:
                raise ValueError(
                    "Pass the model's processor as `processing_class`, or a `data_collator`: without either, images "
                    "and captions cannot become a batch."
                )
            data_collator = self._default_collator(processing_class, args)
        if guide_model is not None and not isinstance(guide_model, Guide):
            if isinstance(guide_model, str):
                guide_model = Guide.from_pretrained(guide_model)
            else:
                guide_model = Guide(guide_model, processing_class)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=None if train_dataset is None else self._guided(with_pair_ids(train_dataset), guide_model),
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.eval_relevance = eval_relevance
        self.eval_collator = getattr(data_collator, "for_evaluation", lambda: data_collator)()
        self.objective = OBJECTIVES[args.objective].from_arguments(args)
        self.teacher = None if args.momentum is None else MomentumTeacher(self.model, args.momentum)
        self.queue = FeatureQueue(args.queue_size) if args.queue_size > 0 else None
        # Guide features of the queued pairs, row by row beside the queue.
        self.guide_queue = FeatureQueue(args.queue_size) if args.queue_size > 0 else None
        self._fresh_features: list[tuple[PairFeatures, PairFeatures | None]] = []
        self._metrics: dict[str, dict[str, list[torch.Tensor]]] = {
            "train": defaultdict(list),
            "eval": defaultdict(list),
        }
        self._seeded_pairs: SeededPairs | None = None
        self.add_callback(_TrainingEvents(self))

    def _default_collator(self, processor: ProcessorMixin, args: SaclTrainingArguments) -> PairCollator:
        plain = PairCollator(processor, mlm_probability=args.mlm_probability if self._masks_text(args) else 0.0)
        return plain.for_training()

    def _guided(self, dataset: Any, guide: Guide | None) -> Any:
        """The training pairs, undecoded, with the features of the guide if there is one."""
        return undecoded(dataset if guide is None else add_guide_features(dataset, guide))

    def _masks_text(self, args: SaclTrainingArguments) -> bool:
        return self._has_fusion and args.mlm_weight > 0

    # ------------------------------------------------------------------------------------------------ one step

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, ModelOutput]:
        """
        The losses of a batch that [`PairCollator`] made: teacher, model, contrast, fusion losses, weighted sum.

        Raises:
            FloatingPointError: if a loss is not finite; the message names the loss and the pairs.
        """
        teacher_outputs = self._ask_teacher(inputs)
        outputs = self._ask_model(model, inputs, teacher_outputs)
        counts = row_counts(inputs["pair_ids"])
        contrast = self.objective(self._contrastive_batch(outputs, teacher_outputs, inputs, counts))
        losses = {**contrast.losses, **self._fusion_losses(outputs, teacher_outputs, inputs)}
        self._check_finite(losses, inputs["pair_ids"])

        loss = self._weighted_sum(losses) * _share_of_process(counts, len(inputs["pair_ids"]))
        self._record({**losses, **contrast.metrics, **self._diagnostics(outputs)}, training=model.training)
        self._keep_for_queue(outputs if teacher_outputs is None else teacher_outputs, inputs)
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """One forward and backward: of the whole batch, or chunk by chunk if it exceeds `contrastive_chunk_size`."""
        chunk_size = self.args.contrastive_chunk_size
        if chunk_size is None or len(inputs["pair_ids"]) <= chunk_size:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        return self._cached_training_step(model, self._prepare_inputs(inputs), chunk_size)

    def _cached_training_step(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], chunk_size: int
    ) -> torch.Tensor:
        """
        The step of [`compute_loss`] with the activations of one chunk at a time. The contrast sees the whole batch;
        matching draws its hard negatives within a chunk.
        """
        chunks = split_batch(inputs, chunk_size)
        teachers = [self._ask_teacher(chunk) for chunk in chunks]
        random_states, embeddings = [], []
        for chunk in chunks:
            random_states.append(RandomState())
            with torch.no_grad():
                embeddings.append(model(**self._model_inputs(chunk, with_mlm=False, with_itm=False)))

        cached = _concatenated(embeddings)
        cached["logit_scale"] = self._logit_scale(embeddings[0]).detach().clone()
        leaves = [tensor.requires_grad_() for tensor in cached.values()]
        teacher_outputs = None if self.teacher is None else _concatenated(teachers)
        counts = row_counts(inputs["pair_ids"])
        contrast = self.objective(self._contrastive_batch(cached, teacher_outputs, inputs, counts))
        gradients = torch.autograd.grad(self._weighted_sum(contrast.losses), leaves)
        self._check_finite(contrast.losses, inputs["pair_ids"])

        share = _share_of_process(counts, len(inputs["pair_ids"])) / self.current_gradient_accumulation_steps
        recorded = {**contrast.losses, **contrast.metrics}
        total = self._weighted_sum(contrast.losses).detach() * share
        for index, (chunk, teacher, state) in enumerate(zip(chunks, teachers, random_states, strict=True)):
            last = index == len(chunks) - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                with state.replayed():
                    outputs = self._ask_model(model, chunk, teacher)
                losses = self._fusion_losses(outputs, teacher, chunk)
                self._check_finite(losses, chunk["pair_ids"])
                parts = {name: value * _share_of_chunk(name, chunk, inputs) for name, value in losses.items()}
                fusion = self._weighted_sum(parts) * share
                rows = slice(index * chunk_size, (index + 1) * chunk_size)
                carried = (outputs["image_embeds"] * gradients[0][rows]).sum()
                carried = carried + (outputs["text_embeds"] * gradients[1][rows]).sum()
                if index == 0:
                    carried = carried + self._logit_scale(outputs) * gradients[2]
                self.accelerator.backward(carried * share + fusion)
            total = total + fusion.detach()
            recorded.update({name: recorded.get(name, 0) + part.detach() for name, part in parts.items()})
            self._record(self._diagnostics(outputs), training=True)
        self._record(recorded, training=True)
        self._keep_for_queue(cached if teacher_outputs is None else teacher_outputs, inputs)
        return total

    def _weighted_sum(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        weighted = [getattr(self.args, name.replace("_loss", "_weight")) * value for name, value in losses.items()]
        return torch.stack(weighted).sum() if weighted else torch.zeros((), device=self.args.device)

    def _keep_for_queue(self, outputs: ModelOutput, inputs: dict[str, torch.Tensor]) -> None:
        """The features of this batch enter the queue when the optimiser has moved the model."""
        if self.model.training and self.queue is not None:
            image_embeds, text_embeds = _normalized(outputs)
            features = PairFeatures(image_embeds.detach(), text_embeds.detach(), inputs["pair_ids"])
            self._fresh_features.append((features, _guide_features(inputs)))

    def _ask_teacher(self, inputs: dict[str, torch.Tensor]) -> ModelOutput | None:
        if self.teacher is None:
            return None
        # Until it distils, only its embeddings are of use.
        with_mlm = self._distillation_weight() > 0
        return self.teacher(**self._model_inputs(inputs, with_mlm=with_mlm, with_itm=False))

    def _ask_model(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], teacher_outputs: ModelOutput | None
    ) -> ModelOutput:
        """Calls the model once, so that the hooks of data-parallel wrappers see one forward per step."""
        similarity = None
        if teacher_outputs is not None:
            similarity = contrastive_logits(*_normalized(teacher_outputs))
        return model(
            **self._model_inputs(
                inputs,
                with_itm=self.args.itm_weight > 0,
                hard_negative_strength=self._regulation_strength() if self.args.regulate_hard_negatives else 0.0,
                hard_negative_similarity=similarity,
            )
        )

    def _model_inputs(self, inputs: dict[str, torch.Tensor], with_mlm: bool = True, **options: Any) -> dict[str, Any]:
        """What the forward of this model takes; a dual encoder without heads knows nothing of pairs and masks."""
        if not with_mlm or self.args.mlm_weight == 0:
            inputs = {name: value for name, value in inputs.items() if not name.startswith("mlm_")}
        return {name: value for name, value in {**inputs, **options}.items() if name in self._forward_arguments}

    def _contrastive_batch(
        self,
        outputs: ModelOutput,
        teacher_outputs: ModelOutput | None,
        inputs: dict[str, torch.Tensor],
        counts: list[int],
    ) -> ContrastiveBatch:
        """Anchors of this process; candidates of all processes, then of the queue; positives by pair id."""
        pair_ids = inputs["pair_ids"]
        use_queue = self.queue is not None and self.model.training
        queued = self.queue.features() if use_queue else None
        image_embeds, text_embeds = _normalized(outputs)
        candidate_images, candidate_texts, candidate_pair_ids = _candidates(
            PairFeatures(image_embeds, text_embeds, pair_ids), counts, queued
        )
        teacher_similarity = guide_similarity = None
        if teacher_outputs is not None:
            teacher = PairFeatures(*_normalized(teacher_outputs), pair_ids)
            teacher_similarity = _similarity(teacher, _candidates(teacher, counts, queued))
        guide, guide_share = _guide_features(inputs), self._guide_share()
        if guide is not None and guide_share > 0:
            guide_similarity = _similarity(
                guide, _candidates(guide, counts, self.guide_queue.features() if use_queue else None)
            )
        return ContrastiveBatch(
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            candidate_image_embeds=candidate_images,
            candidate_text_embeds=candidate_texts,
            positive_mask=find_positives(pair_ids, candidate_pair_ids),
            logit_scale=self._logit_scale(outputs),
            teacher_similarity=teacher_similarity,
            guide_similarity=guide_similarity,
            guide_share=guide_share,
            # A guide knows from the start what an early model does not.
            regulation_strength=self._regulation_strength(warmed_up=guide is not None),
            distillation_weight=self._distillation_weight(),
        )

    def _fusion_losses(
        self, outputs: ModelOutput, teacher_outputs: ModelOutput | None, inputs: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Matching and masked language modeling, for models that have them."""
        losses = {}
        if outputs.get("itm_loss") is not None:
            losses["itm_loss"] = outputs["itm_loss"]
        if outputs.get("mlm_loss") is not None and self.args.mlm_weight > 0:
            losses["mlm_loss"] = outputs["mlm_loss"]
            share = self._distillation_weight()
            if teacher_outputs is not None and share > 0:
                distilled = distillation_loss(
                    outputs["mlm_logits"], teacher_outputs["mlm_logits"], inputs["mlm_labels"]
                )
                losses["mlm_loss"] = (1 - share) * outputs["mlm_loss"] + share * distilled
        return losses

    def _logit_scale(self, outputs: ModelOutput) -> torch.Tensor:
        if outputs.get("logit_scale") is not None:
            return outputs["logit_scale"]
        parameter = self._logit_scale_parameter()
        if parameter is None:
            raise ValueError(
                f"`{type(self.model).__name__}` has no parameter `logit_scale`, so the temperature of the contrast is "
                "unknown: give the model one (the logarithm of the inverse temperature), or return `logit_scale`."
            )
        return parameter.exp()

    def _logit_scale_parameter(self) -> nn.Parameter | None:
        named = self.accelerator.unwrap_model(self.model).named_parameters()
        return next((parameter for name, parameter in named if name.split(".")[-1] == "logit_scale"), None)

    # --------------------------------------------------------------------------------------------- schedules

    def _ramp(self, share_or_steps: float) -> float:
        """
        Rises from 0 to 1 over the given share or steps of training; 1 in evaluation, even in its midst: a loss that
        moves with the ramp would say nothing about the model.
        """
        steps = self.args.steps_of(share_or_steps, self.state.max_steps)
        if not (self.is_in_train and self.model.training) or steps <= 0:
            return 1.0
        return min(1.0, self.state.global_step / steps)

    def _regulation_strength(self, warmed_up: bool = False) -> float:
        return self.args.regulation_strength * (1.0 if warmed_up else self._ramp(self.args.regulation_warmup))

    def _guide_share(self) -> float:
        """The paper's alpha: 1 at the start of training, 0 from the end of `guide_duration` on."""
        if not self.is_in_train:
            return 0.0
        progress = min(1.0, self.state.global_step / (self.args.guide_duration * self.state.max_steps))
        return GUIDE_SCHEDULES[self.args.guide_schedule](progress)

    def _distillation_weight(self) -> float:
        return self.args.distillation_weight * self._ramp(self.args.distillation_warmup)

    # --------------------------------------------------------------------------------------------------- data

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """The training data; each row with a seed of its own, so that resuming repeats augmentation and masks."""
        dataset = self.train_dataset
        if dataset is None or not hasattr(dataset, "__len__"):
            return super().get_train_dataloader()
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.train_dataset = self._seeded_pairs = SeededPairs(dataset, seed)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = dataset

    def start_training(self) -> None:
        """Forgets what an earlier call of `train` has left over."""
        self._metrics["train"].clear()
        self._fresh_features.clear()

    def start_epoch(self, epoch: int) -> None:
        """Draws captions, augmentation and masks anew."""
        if self._seeded_pairs is not None:
            self._seeded_pairs.start_epoch(epoch)

    # ------------------------------------------------------------------------------------- after the optimiser

    def after_optimizer_step(self) -> None:
        """Keeps the temperature in its range, moves the teacher, and queues the features of the step."""
        model = self.accelerator.unwrap_model(self.model)
        logit_scale = self._logit_scale_parameter()
        if logit_scale is not None:
            low, high = -math.log(self.args.max_temperature), -math.log(self.args.min_temperature)
            logit_scale.data.clamp_(low, high)
        if self.teacher is not None:
            self.teacher.update(model)
        if self.queue is not None:
            for features, guide_features in self._fresh_features:
                self.queue.enqueue(*(gather(tensor) for tensor in features))
                if guide_features is not None:
                    self.guide_queue.enqueue(*(gather(tensor) for tensor in guide_features))
            self._fresh_features.clear()

    # ---------------------------------------------------------------------------------------------- optimiser

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weight decay is for matrices: not for biases, norms, positions, class tokens, or the temperature."""
        shapes = {name: parameter.dim() for name, parameter in model.named_parameters()}
        return [
            name
            for name in super().get_decay_parameter_names(model)
            if shapes.get(name, 2) > 1 and "position_embedding" not in name
        ]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimiser, with the image tower in groups of its own when `vision_learning_rate` is set."""
        if self.optimizer is not None or self.args.vision_learning_rate is None:
            return super().create_optimizer(model)
        optimizer = super().create_optimizer(model)
        named = (self.model if model is None else model).named_parameters()
        vision = {id(parameter) for name, parameter in named if "vision_model." in name}
        if not vision:
            raise ValueError(
                f"`vision_learning_rate` is set, but `{type(self.model).__name__}` has no `vision_model`."
            )
        for group in list(optimizer.param_groups):
            ours = [parameter for parameter in group["params"] if id(parameter) in vision]
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in vision]
            optimizer.add_param_group({**group, "params": ours, "lr": self.args.vision_learning_rate})
        return optimizer

    # ------------------------------------------------------------------------------------------------ metrics

    @torch.no_grad()
    def _diagnostics(self, outputs: ModelOutput) -> dict[str, torch.Tensor]:
        """Temperature, and for matching the accuracy and the share of anchors without a hard negative."""
        metrics = {"temperature": 1 / self._logit_scale(outputs)}
        if outputs.get("itm_logits") is not None:
            labels = outputs["itm_labels"]
            counted = labels != -100
            correct = (outputs["itm_logits"].argmax(dim=-1) == labels) & counted
            metrics["itm_accuracy"] = correct.sum() / counted.sum()
            metrics["itm_skipped_negatives"] = (~counted).sum()
        return metrics

    def _record(self, values: dict[str, torch.Tensor], training: bool) -> None:
        # Kept on the device; read, once, when they are logged.
        for name, value in values.items():
            self._metrics["train" if training else "eval"][name].append(value.detach().float())

    def _drain(self, mode: str) -> dict[str, float]:
        """Means of what was recorded since the last time, over steps and processes."""
        names = sorted(self._metrics[mode])
        if not names:
            return {}
        # NaN: without meaning for that batch, such as the weights of no negatives. A loss is never NaN here.
        means = torch.stack([torch.stack(self._metrics[mode][name]).nanmean().to(self.args.device) for name in names])
        means = gather(means[None]).nanmean(dim=0)
        self._metrics[mode].clear()
        return {name: mean for name, mean in zip(names, means.tolist(), strict=True) if not math.isnan(mean)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs every component of the loss as a curve of its own, beside what [`Trainer`] logs."""
        if "loss" in logs:
            logs = {**logs, **self._drain("train")}
        super().log(logs, start_time)

    def _check_finite(self, losses: dict[str, torch.Tensor], pair_ids: torch.Tensor) -> None:
        if losses and not torch.stack(list(losses.values())).isfinite().all():
            broken = [name for name, value in losses.items() if not value.isfinite()]
            raise FloatingPointError(
                f"At step {self.state.global_step} {' and '.join(broken)} is not finite "
                f"({', '.join(f'{name} = {value.item()}' for name, value in losses.items())}). Nothing was updated "
                f"with this batch; its pairs are {pair_ids.tolist()[:32]}. Look at their images and captions for NaN "
                "or inf; if they are sound, lower the learning rate or raise `min_temperature`."
            )

    # --------------------------------------------------------------------------------------------- evaluation

    def get_eval_dataloader(self, eval_dataset: Any | str | None = None) -> torch.utils.data.DataLoader:
        """The evaluation data without chance: no augmentation, the first caption, masks that depend on the text."""
        datasets = self.eval_dataset
        if isinstance(eval_dataset, str):
            # The parent is told the name, under which it keeps persistent workers.
            self.eval_dataset = {eval_dataset: undecoded(with_pair_ids(datasets[eval_dataset]))}
        elif eval_dataset is not None or datasets is not None:
            eval_dataset = undecoded(with_pair_ids(datasets if eval_dataset is None else eval_dataset))
        try:
            with self._evaluation_collator():
                return super().get_eval_dataloader(eval_dataset)
        finally:
            self.eval_dataset = datasets

    def get_test_dataloader(self, test_dataset: Any) -> torch.utils.data.DataLoader:
        """The data of [`~Trainer.predict`], without chance like those of an evaluation."""
        with self._evaluation_collator():
            return super().get_test_dataloader(undecoded(with_pair_ids(test_dataset)))

    @contextmanager
    def _evaluation_collator(self):
        training_collator, self.data_collator = self.data_collator, self.eval_collator
        try:
            yield
        finally:
            self.data_collator = training_collator

    @contextmanager
    def _evaluation_chance(self):
        """What evaluation draws, hard negatives, is the same each time, and leaves the draws of training alone."""
        device = self.args.device
        with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
            torch.manual_seed(self.args.seed)
            yield

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None, torch.Tensor | None]:
        """The loss of an evaluation batch; as predictions `(image_embeds, text_embeds)`, as labels the pair ids."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        image_embeds, text_embeds = _normalized(outputs)
        return loss.detach(), (image_embeds.float(), text_embeds.float()), inputs["pair_ids"]

    def evaluate(
        self,
        eval_dataset: Any | dict[str, Any] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        Losses and retrieval metrics ([`evaluate_retrieval`]) of a dataset, the loss as `eval_loss`, recall as
        `eval_text_to_image_recall@1` and so on; each is a valid `metric_for_best_model`.
        """
        self._retrieval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(self._retrieval_dataset, str):
            self._retrieval_dataset = self.eval_dataset[self._retrieval_dataset]
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix: str = "eval", **kwargs):
        """[`Trainer.evaluation_loop`], with every component of the loss and the retrieval metrics beside the loss."""
        kwargs["metric_key_prefix"] = metric_key_prefix
        with self._evaluation_chance():
            output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        metrics = self._drain("eval")
        if description == "Evaluation" and self.processing_class is not None:
            dataset = undecoded(with_pair_ids(self._retrieval_dataset))
            metrics |= evaluate_retrieval(
                self.accelerator.unwrap_model(self.model),
                dataset,
                self.processing_class,
                batch_size=self.args.eval_batch_size,
                relevance=None if self.eval_relevance is None else self.eval_relevance(dataset),
                chunk_size=self.args.retrieval_chunk_size,
                show_progress=not self.args.disable_tqdm and self.is_local_process_zero(),
            )
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    # --------------------------------------------------------------------------------------- saving, resuming

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            save_file(self._training_state(), os.path.join(output_dir, TRAINING_STATE_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._restore_training_state(os.path.join(checkpoint, TRAINING_STATE_NAME))

    def _training_state(self) -> dict[str, torch.Tensor]:
        """Teacher and queue, under their own prefixes, as safetensors takes them."""
        return {
            f"{prefix}.{name}": tensor.contiguous().cpu()
            for prefix, part in self._stateful_parts().items()
            for name, tensor in part.state_dict().items()
        }

    def _restore_training_state(self, path: str) -> None:
        if self.teacher is None and self.queue is None:
            return
        try:
            state = load_file(path, device=str(self.args.device))
        except (FileNotFoundError, SafetensorError) as error:
            raise ValueError(
                f"The momentum teacher and the queue cannot be restored from {path}: {error}. Resume from another "
                "checkpoint, or start a new run from this one's model with `model=<its folder>`."
            ) from error
        for prefix, part in self._stateful_parts().items():
            start = f"{prefix}."
            part.load_state_dict({name.removeprefix(start): t for name, t in state.items() if name.startswith(start)})

    def _stateful_parts(self) -> dict[str, MomentumTeacher | FeatureQueue]:
        parts = {"teacher": self.teacher, "queue": self.queue, "guide_queue": self.guide_queue}
        return {prefix: part for prefix, part in parts.items() if part is not None}


class _TrainingEvents(TrainerCallback):
    """Calls the trainer back when training and an epoch begin, and when the optimiser has moved the model."""

    def __init__(self, trainer: SaclTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.start_training()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.start_epoch(int(state.epoch or 0))

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.after_optimizer_step()


def _candidates(batch: PairFeatures, counts: list[int], queued: PairFeatures | None) -> PairFeatures:
    """The features of the global batch, followed by the queue's."""
    gathered = PairFeatures(*(gather(tensor, counts) for tensor in batch))
    if queued is None:
        return gathered
    return PairFeatures(*(torch.cat([ours, old.to(ours.dtype)]) for ours, old in zip(gathered, queued, strict=True)))


def _similarity(anchors: PairFeatures, candidates: PairFeatures) -> BothDirections:
    """Cosines of images with candidate texts, and of texts with candidate images."""
    return (
        contrastive_logits(anchors.image_embeds, candidates.text_embeds),
        contrastive_logits(anchors.text_embeds, candidates.image_embeds),
    )


def _guide_features(inputs: dict[str, torch.Tensor]) -> PairFeatures | None:
    """The guide's features of the batch. A guide of one modality compares captions, or images, with each other."""
    given = [inputs[column] for column in GUIDE_COLUMNS if column in inputs]
    return PairFeatures(given[0], given[-1], inputs["pair_ids"]) if given else None


def _concatenated(chunks: list[ModelOutput]) -> dict[str, torch.Tensor]:
    """The embeddings of a batch from those of its chunks."""
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in ("image_embeds", "text_embeds")}


def _share_of_process(counts: list[int], rows: int) -> float:
    """Data-parallel training takes the mean over processes; a smaller batch must not count as much as a larger one."""
    return rows * len(counts) / sum(counts)


def _share_of_chunk(name: str, chunk: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> torch.Tensor | float:
    """What a chunk's mean counts in the mean of the batch: by masked tokens for language modeling, else by rows."""
    if name == "mlm_loss":
        masked, all_masked = (part["mlm_labels"] != -100 for part in (chunk, batch))
        return masked.sum() / all_masked.sum().clamp(min=1)
    return len(chunk["pair_ids"]) / len(batch["pair_ids"])


def _normalized(outputs: ModelOutput) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of unit length, whether or not the model returns them so."""
    return (
        nn.functional.normalize(outputs["image_embeds"], dim=-1),
        nn.functional.normalize(outputs["text_embeds"], dim=-1),
    )


def _with_adapters(model: PreTrainedModel, peft_config: Any) -> PreTrainedModel:
    if not is_peft_available():
        raise ImportError("`peft_config` needs the library peft: `pip install peft`.")
    from peft import get_peft_model

    return get_peft_model(model, peft_config)


def _load_model(name: str) -> PreTrainedModel:
    """The model of a folder or Hub id: with its pre-training heads if its family has them, else the dual encoder."""
    config = AutoConfig.from_pretrained(name)
    auto_class = AutoModelForPreTraining if config.model_type == "sacl" else AutoModel
    return auto_class.from_pretrained(name)
