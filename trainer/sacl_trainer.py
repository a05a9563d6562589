# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The trainer: one contrastive step as five named steps, and the state that lives beside the model."""

import inspect
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin, TrainerCallback
from transformers.utils import ModelOutput

from modeling_sacl.loss_sacl import contrastive_logits

from .contrast import (
    GlobalBatch,
    Outputs,
    guide_features_of,
    logit_bias_of,
    logit_scale_of,
    normalized,
    parameter_named,
)
from .curves import Curves, PendingLogs
from .data import SkippedPair
from .embedding import dual_encoder
from .evaluation import Relevance, evaluate_retrieval
from .extra_texts import EXTRA_TEXTS_HINTS, part_texts, with_extra_texts
from .faults import SteadyClock, data_faults_explained
from .grad_cache import GradientCache, join_embeddings, share_of_chunk, split_batch
from .guide import Guide, as_guide, check_guided
from .locked import cache_locked_towers, cached_towers, check_cacheable, lock_towers
from .momentum import FrozenCopy, MomentumTeacher
from .objectives import (
    OBJECTIVES,
    ContrastiveBatch,
    ContrastiveObjective,
    InfoNCEObjective,
    ObjectiveOutput,
    distillation_loss,
)
from .preparation import (
    check_collator,
    check_deepspeed,
    default_collator,
    load_model,
    warn_of_accumulation,
    with_adapters,
)
from .queue import FeatureQueue, PairFeatures
from .reading import ReadingTrainer, evaluation_pairs, training_pairs
from .sacl_config import SaclTrainingArguments
from .saving import SavingTrainer
from .schedules import Moment
from .sharding import gathered, make_sliceable, shard_beside, slice_again
from .skipped_pairs import SkippedPairs, counts_by_reason, take_skipped
from .stability import NonFiniteGuard
from .terms import TERMS
from .terms.rows import append_rows, extra_rows, take_rows_off


class SaclTrainer(ReadingTrainer, SavingTrainer):
    r"""
    Trainer for contrastive image-text models: SACL pre-training and fine-tuning, and the baselines beside it.

    It trains [`SaclForPreTraining`] with contrast, matching and masked language modeling, and any dual encoder whose
    output has `image_embeds` and `text_embeds` ([`CLIPModel`], [`SaclModel`] ...) with contrast alone. (The
    `logit_bias` of [`SiglipModel`] learns with `objective="siglip"`; a softmax does not use it.) The momentum teacher
    and the feature queue live beside the model, are saved with every checkpoint and restored by
    `resume_from_checkpoint`, and are never part of the saved model.

    Checkpoints are whole or not there, and a run has its `output_dir` for itself while it trains. A full disk, a data
    worker that dies or stalls, a second run into the folder end in an error that says what to do, and cost no more
    than the steps since the last checkpoint.

    Args:
        model ([`PreTrainedModel`] or `str`):
            The model, or the folder or Hub id to load it from.
        args ([`SaclTrainingArguments`], *optional*):
            Defaults to `SaclTrainingArguments(output_dir="tmp_trainer")`.
        data_collator ([`PairCollator`], *optional*):
            Makes batches of pairs. Defaults to a [`PairCollator`] with the processor and train-time augmentation,
            which leaves it to an accelerator to normalise pixels (`normalize=False`). If it has a method
            `for_evaluation`, evaluation uses what that returns; if it has a method `read`, a pair that cannot be read
            gives its place in the batch to another ([`UsablePairs`]).
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`], *optional*):
            Pairs with the columns `image`, `caption` or `captions`, and optionally `pair_id` (see [`load_pairs`]).
        eval_dataset ([`~datasets.Dataset`] or `dict[str, Dataset]`, *optional*):
            Pairs for evaluation.
        processing_class ([`ProcessorMixin`], *optional*):
            The processor, saved with the model. Defaults to that of the model's folder or Hub id.
        guide_model ([`Guide`], [`PreTrainedModel`] or `str`, *optional*):
            A frozen model whose similarities regulate the contrast until the model's own are reliable
            (`guide_schedule`), or that leads throughout (`"gist"`, `"xclr"`). Its features of the training pairs are
            computed once, before training, unless the data set has them already ([`add_guide_features`]). A bare model
            is taken to share `processing_class`.
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
            if processing_class is None:
                processing_class = AutoProcessor.from_pretrained(model, trust_remote_code=False)
            model = load_model(model)
        if peft_config is not None:
            model = with_adapters(model, peft_config)
        base_model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._forward_arguments = set(inspect.signature(base_model.forward).parameters)
        self._has_fusion = "with_itm" in self._forward_arguments
        check_cacheable(args, self._forward_arguments)
        lock_towers(model, vision=args.lock_vision, text=args.lock_text)
        if processing_class is None:
            processing_class = getattr(data_collator, "processor", None)
        if data_collator is None:
            data_collator = default_collator(model, processing_class, args, masks_text=self._masks_text(args))
        check_collator(data_collator, model, args)
        guide = as_guide(guide_model, processing_class)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=training_pairs(train_dataset, guide),
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.eval_relevance = eval_relevance
        self.eval_collator = getattr(data_collator, "for_evaluation", lambda: data_collator)()
        self.train_dataset = cache_locked_towers(
            self.train_dataset,
            self.model,
            args,
            processor=processing_class,
            collator=self.eval_collator,
            embed=self._embed,
            show_progress=not args.disable_tqdm and self.is_local_process_zero(),
        )
        self.objective = OBJECTIVES[args.objective].from_arguments(args)
        if self.objective.needs_guide:
            check_guided(args.objective, self.train_dataset)
        self._scalars = self._prepare_for_slicing() if self.is_fsdp_enabled else set()
        self.teacher = None if args.momentum is None else MomentumTeacher(self.model, args.momentum)
        self.terms = [term.from_arguments(args) for name, term in TERMS.items() if getattr(args, f"{name}_weight") > 0]
        # What is embedded behind the pairs.
        self._further_rows = tuple(dict.fromkeys(term.rows for term in self.terms if term.rows))
        # As the training starts, whatever it is resumed from: the checkpoint has it.
        self.reference = FrozenCopy(self.model) if any(term.needs_reference for term in self.terms) else None
        self.queue = FeatureQueue(args.queue_size) if args.queue_size > 0 else None
        # Guide features of the queued pairs, row by row beside the queue.
        self.guide_queue = FeatureQueue(args.queue_size) if args.queue_size > 0 else None
        self._fresh_features: list[tuple[PairFeatures, PairFeatures | None]] = []
        self._curves = Curves(args.device)
        self._pending_logs = PendingLogs(self, self._curves)
        keeps_list = self.is_world_process_zero()
        self.skipped_pairs = SkippedPairs(args.max_skipped_ratio, args.output_dir if keeps_list else None)
        self._skipped_in_evaluation: list[SkippedPair] = []
        self._training_clock = self._evaluation_clock = SteadyClock()
        self._num_evaluated = 0
        # On the CPU reading a number costs nothing.
        self._guard = NonFiniteGuard(args.nan_policy, deferred=args.device.type != "cpu")
        warn_of_accumulation(args)
        if self.is_deepspeed_enabled:
            check_deepspeed(args)
        self.add_callback(_TrainingEvents(self))

    def _prepare_for_slicing(self) -> set[str]:
        """Scalars get a dimension; what no loss trains is frozen, since a sharded optimiser resumes all or nothing."""
        matches = self._has_fusion and self.args.itm_weight > 0
        fusion = () if matches or self._masks_text(self.args) else ("fusion_model",)
        heads = [head for head in ("itm", "mlm") if getattr(self.args, f"{head}_weight") == 0]
        bias = () if self.objective.needs_logit_bias else ("logit_bias",)
        untrained = {*bias, *fusion, *(f"{head}_head" for head in heads)}
        for name, parameter in self.model.named_parameters():
            if untrained & set(name.split(".")):
                parameter.requires_grad_(False)
        return make_sliceable(self.model)

    def _masks_text(self, args: SaclTrainingArguments) -> bool:
        return "mlm_input_ids" in self._forward_arguments and args.mlm_weight > 0

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
            FloatingPointError: if a loss is not finite and `nan_policy` is `"raise"`; the message names the loss and
                the pairs.
        """
        self._set_patch_selection()
        inputs = self._prepare_for_terms(inputs, training=model.training)
        teacher_outputs = self._ask_teacher(inputs)
        outputs = self._ask_model(model, inputs, teacher_outputs)
        everyones = GlobalBatch(inputs, local=self.args.local_loss)
        contrast = self._contrast(outputs, teacher_outputs, self._ask_reference(inputs), everyones)
        losses = {**contrast.losses, **self._fusion_losses(outputs, teacher_outputs, inputs)}

        loss = self._weighted_sum(losses) * everyones.share()
        if self._watch(losses, inputs, training=model.training):
            recorded = {**losses, **contrast.metrics, **self._diagnostics(outputs)}
            self._curves.record(recorded, training=model.training)
        else:
            loss = loss.nan_to_num(0.0, 0.0, 0.0)
        return (loss, outputs) if return_outputs else loss

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """One forward and backward: of the whole batch, or chunk by chunk if it exceeds `contrastive_chunk_size`."""
        self.skipped_pairs.count(len(inputs["pair_ids"]), take_skipped(inputs), self.state.global_step)
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
        self._set_patch_selection()
        inputs = self._prepare_for_terms(inputs)
        chunks = split_batch(inputs, chunk_size)
        teachers = [self._ask_teacher(chunk) for chunk in chunks]
        references = [self._ask_reference(chunk) for chunk in chunks]
        embed = partial(self._call_once, model, with_mlm=False, with_itm=False)
        cache = GradientCache(chunks, embed, self._scalars_of_contrast)
        everyones = GlobalBatch(inputs, local=self.args.local_loss)
        teacher_embeddings = None if self.teacher is None else join_embeddings(teachers)
        reference_embeddings = None if self.reference is None else join_embeddings(references)
        contrast = self._contrast(cache.leaves, teacher_embeddings, reference_embeddings, everyones)
        loss = self._weighted_sum(contrast.losses)
        cache.take_gradient(loss)
        usable = self._watch(contrast.losses, inputs)

        share = everyones.share() / self.current_gradient_accumulation_steps
        total = loss.detach() * share
        recorded = {**contrast.losses, **contrast.metrics}
        for index, (chunk, teacher_outputs) in enumerate(zip(chunks, teachers, strict=True)):
            is_last = index == len(chunks) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                with cache.replayed(index):
                    outputs = self._ask_model(model, chunk, teacher_outputs)
                losses = self._fusion_losses(outputs, teacher_outputs, chunk)
                usable = self._watch(losses, chunk) and usable
                parts = {name: value * share_of_chunk(name, chunk, inputs) for name, value in losses.items()}
                fusion = self._weighted_sum(parts) * share
                self.accelerator.backward(cache.carried(index, outputs) * share + fusion)
            total = total + fusion.detach()
            recorded.update({name: recorded.get(name, 0) + part.detach() for name, part in parts.items()})
            if usable:
                self._curves.record(self._diagnostics(outputs))
        if usable:
            self._curves.record(recorded)
        return total if usable else total.nan_to_num(0.0, 0.0, 0.0)

    def _weighted_sum(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        weighted = [getattr(self.args, name.replace("_loss", "_weight")) * value for name, value in losses.items()]
        return torch.stack(weighted).sum() if weighted else torch.zeros((), device=self.args.device)

    def _watch(self, losses: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor], training: bool = True) -> bool:
        """Whether the batch can be used (see `nan_policy`)."""
        return self._guard.watch(losses, inputs["pair_ids"], self.state.global_step, training)

    def _now(self) -> Moment:
        """What the schedules say, to a model that learns or is evaluated."""
        return Moment(self.args, self.state.global_step, self.state.max_steps, self.is_in_train, self.model.training)

    # ----------------------------------------------------------------------------- asking teacher and model

    def _ask_teacher(self, inputs: dict[str, torch.Tensor]) -> ModelOutput | None:
        if self.teacher is None:
            return None
        # Until it distils, only its embeddings are of use.
        with_mlm = self._now().distillation_weight > 0
        with self._teacher_precision():
            return self._call(self.teacher, self.teacher.model, inputs, with_mlm=with_mlm, with_itm=False)

    def _teacher_precision(self) -> AbstractContextManager:
        """The precision of the model, whose forward `accelerate` wraps and the teacher's not; or bfloat16."""
        if self.args.teacher_bf16:
            return torch.autocast(self.args.device.type, dtype=torch.bfloat16)
        return self.accelerator.autocast()

    def _ask_reference(self, inputs: dict[str, torch.Tensor]) -> ModelOutput | None:
        """What the model of the beginning says of the pairs, if a term compares with it."""
        if self.reference is None:
            return None
        with self.accelerator.autocast():
            return self._call(self.reference, self.reference.model, inputs, with_mlm=False, with_itm=False)

    def _ask_model(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], teacher_outputs: ModelOutput | None
    ) -> ModelOutput:
        """Calls the model once, so that the hooks of data-parallel wrappers see one forward per step."""
        similarity, now = None, self._now()
        if teacher_outputs is not None:
            similarity = contrastive_logits(*normalized(teacher_outputs))
        return self._call_once(
            model,
            inputs,
            with_itm=self.args.itm_weight > 0,
            hard_negative_strength=now.regulation_strength() if self.args.regulate_hard_negatives else 0.0,
            hard_negative_similarity=similarity,
            hard_negative_share=now.hard_negative_share,
        )

    def _call_once(
        self, model: Callable[..., ModelOutput], inputs: dict[str, torch.Tensor], **options: Any
    ) -> ModelOutput:
        """
        Calls the model in training; what the objective compares with beyond the pairs, and what terms want embedded
        too, is in the same forward.
        """
        kind, given = self._extra_texts(), inputs
        if kind is not None:
            inputs, _ = with_extra_texts(inputs, kind, self._forward_arguments, EXTRA_TEXTS_HINTS.get(kind, ""))
        inputs = append_rows(inputs, self._further_rows)
        extra = extra_rows(inputs) if kind is not None or self._further_rows else {}
        outputs = take_rows_off(self._call(model, self.model, inputs, **extra, **options), given, self._further_rows)
        return outputs if kind is None else part_texts(outputs, len(given["pair_ids"]))

    def _call(
        self, model: Callable[..., ModelOutput], unwrapped: nn.Module, inputs: dict[str, torch.Tensor], **options: Any
    ) -> ModelOutput:
        """Calls a model, whose locked towers answer with their features where the batch has them."""
        with cached_towers(unwrapped, inputs) as inputs:
            return model(**self._model_inputs(inputs, **options))

    def _model_inputs(self, inputs: dict[str, torch.Tensor], with_mlm: bool = True, **options: Any) -> dict[str, Any]:
        """What the forward of this model takes; a dual encoder without heads knows nothing of pairs and masks."""
        if not with_mlm or self.args.mlm_weight == 0:
            inputs = {name: value for name, value in inputs.items() if not name.startswith("mlm_")}
        return {name: value for name, value in {**inputs, **options}.items() if name in self._forward_arguments}

    def _embed(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of a batch by the model, of unit length."""
        inputs = self._prepare_inputs(inputs)
        return normalized(self._call(self.model, self.model, inputs, with_mlm=False, with_itm=False))

    def _extra_texts(self) -> str | None:
        # What takes the objective's place, to watch it, may be a function.
        return getattr(self.objective, "extra_texts", None)

    def _prepare_for_terms(self, inputs: dict[str, torch.Tensor], training: bool = True) -> dict[str, torch.Tensor]:
        """A batch of the training with what terms add to it; one of an evaluation as it is."""
        for term in self.terms if training else ():
            inputs = term.prepare(inputs)
        return inputs

    def _set_patch_selection(self) -> None:
        """Has the image towers drop more and more patches."""
        for model in (self.model, *self._copies()):
            tower = getattr(dual_encoder(model), "vision_model", None)
            if hasattr(tower, "patch_selection_share"):
                tower.patch_selection_share = self._now().patch_selection_share

    def _copies(self) -> list[nn.Module]:
        """The models beside the one in training."""
        return [kept.model for kept in (self.teacher, self.reference) if kept is not None]

    # ------------------------------------------------------------------------------- contrast, fusion losses

    def _contrast(
        self,
        outputs: Outputs,
        teacher_outputs: Outputs | None,
        reference_outputs: Outputs | None,
        everyones: GlobalBatch,
    ) -> ObjectiveOutput:
        """
        The losses and metrics of the objective, and of the terms beside it: what the model, the teacher, the guide and
        the model of the beginning say of the batch.
        """
        batch = self._compare(outputs, teacher_outputs, everyones)
        self._keep_for_queue(batch)
        result = self._objective_of(batch)(batch, block_size=self.args.loss_block_size)
        if not self.terms:
            return result
        seen = everyones.for_terms(batch, outputs, reference_outputs)
        for term in self.terms:
            if self.model.training or term.is_given(everyones.inputs):
                part = term(seen)
                result.losses |= part.losses
                result.metrics |= part.metrics
        return result

    def _compare(self, outputs: Outputs, teacher_outputs: Outputs | None, everyones: GlobalBatch) -> ContrastiveBatch:
        """The pairs of the batch among those of all processes and of the queue, by everyone who is asked."""
        now = self._now()
        queue, guide_queue = (self.queue, self.guide_queue) if self.model.training else (None, None)
        guide, kind = guide_features_of(everyones.inputs), self._extra_texts()
        guide_share = 0.0 if guide is None else now.guide_share
        asks_guide = guide_share > 0 or self._needs_guide()
        teacher = None if teacher_outputs is None else everyones.compare(everyones.pairs(teacher_outputs), queue)
        return ContrastiveBatch(
            student=everyones.compare(everyones.pairs(outputs), queue),
            teacher=teacher,
            guide=everyones.compare(guide, guide_queue) if guide is not None and asks_guide else None,
            guide_share=guide_share,
            # A guide knows from the start what an early model does not.
            regulation_strength=now.regulation_strength(warmed_up=guide is not None),
            distillation_weight=now.distillation_weight,
            extra_texts=None if kind is None else everyones.compare_extra_texts(outputs, kind),
            **self._scalars_of_contrast(outputs),
        )

    def _scalars_of_contrast(self, outputs: Outputs) -> dict[str, torch.Tensor]:
        """What the logits are made of beside embeddings, by its name in a [`ContrastiveBatch`]."""
        model = self.accelerator.unwrap_model(self.model)
        scalars = {"logit_scale": logit_scale_of(model, outputs)}
        if getattr(self.objective, "needs_logit_bias", False):
            scalars["logit_bias"] = logit_bias_of(model, outputs, self.args.objective)
        return scalars

    def _needs_guide(self) -> bool:
        return getattr(self.objective, "needs_guide", False)

    def _objective_of(self, batch: ContrastiveBatch) -> ContrastiveObjective:
        """In evaluation, whose pairs a guide has not seen, one that needs it is InfoNCE."""
        guided = batch.guide is not None or not self._needs_guide()
        return self.objective if guided or self.model.training else InfoNCEObjective()

    def _keep_for_queue(self, batch: ContrastiveBatch) -> None:
        """The features of the global batch enter the queue when the optimiser has moved the model."""
        if self.model.training and self.queue is not None:
            features = (batch.student if batch.teacher is None else batch.teacher).candidates[0]
            guide_features = None if batch.guide is None else batch.guide.candidates[0]
            self._fresh_features.append((PairFeatures(*(tensor.detach() for tensor in features)), guide_features))

    def _fusion_losses(
        self, outputs: ModelOutput, teacher_outputs: ModelOutput | None, inputs: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Matching and masked language modeling, for models that have them."""
        losses = {}
        if outputs.get("itm_loss") is not None:
            losses["itm_loss"] = outputs["itm_loss"]
        if outputs.get("mlm_loss") is not None and self.args.mlm_weight > 0:
            losses["mlm_loss"] = outputs["mlm_loss"]
            share = self._now().distillation_weight
            if teacher_outputs is not None and share > 0:
                distilled = distillation_loss(
                    outputs["mlm_logits"], teacher_outputs["mlm_logits"], inputs["mlm_labels"]
                )
                losses["mlm_loss"] = (1 - share) * outputs["mlm_loss"] + share * distilled
        return losses

    @torch.no_grad()
    def _diagnostics(self, outputs: ModelOutput) -> dict[str, torch.Tensor]:
        """Temperature, and for matching the accuracy and the share of anchors without a hard negative."""
        metrics = {"temperature": 1 / logit_scale_of(self.accelerator.unwrap_model(self.model), outputs)}
        if outputs.get("itm_logits") is not None:
            labels = outputs["itm_labels"]
            counted = labels != -100
            correct = (outputs["itm_logits"].argmax(dim=-1) == labels) & counted
            metrics["itm_accuracy"] = correct.sum() / counted.sum()
            metrics["itm_skipped_negatives"] = (~counted).sum()
        return metrics

    # ---------------------------------------------------------------------- start, and around the optimiser

    def start_training(self) -> None:
        """Forgets what an earlier call of `train` has left over; the teacher is sharded if the model is."""
        self._training_clock = SteadyClock()
        if self.is_fsdp_enabled:
            for model in self._copies():
                shard_beside(self.accelerator, model)
        self.resume_reading()
        self._fresh_features.clear()
        self._pending_logs.carry_over()
        self.skipped_pairs.start(resumed=self.state.global_step > 0)
        self.catch_up_with_pushing()

    def check_losses(self) -> None:
        """Stops the training if a loss since the last time was not finite, before anything of it is kept."""
        self._guard.flush()

    def before_optimizer_step(self) -> None:
        """Leaves out the step, and its features, if one of its batches is broken in any process."""
        if self._guard.step_is_broken(self.args.device):
            # Without gradients the optimiser does nothing: no decay, no momentum.
            self.model_wrapped.zero_grad(set_to_none=True)
            self._fresh_features.clear()
            self._curves.record({"skipped_steps": torch.ones(())})

    def after_optimizer_step(self) -> None:
        """Keeps the temperature in its range, moves the teacher, and queues the features of the step."""
        model = self.accelerator.unwrap_model(self.model)
        logit_scale = parameter_named(model, "logit_scale")
        if logit_scale is not None:
            low, high = -math.log(self.args.max_temperature), -math.log(self.args.min_temperature)
            logit_scale.data.clamp_(low, high)
        if self.teacher is not None:
            self.teacher.update(model)
        if self.queue is not None:
            for features, guide_features in self._fresh_features:
                self.queue.enqueue(*features)
                if guide_features is not None:
                    self.guide_queue.enqueue(*guide_features)
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

    # ------------------------------------------------------------------------------------------------ logging

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs every component of the loss as a curve of its own, beside what [`Trainer`] logs."""
        if "loss" in logs:
            logs = {**logs, **self._curves.drain("train"), **self.skipped_pairs.since_last_log()}
        elif "train_runtime" in logs:
            # Into what `train` returns as well.
            logs.update(self.skipped_pairs.of_training())
        self._correct_speed(logs)
        super().log(logs, None if start_time is None else start_time + self._training_clock.jump())

    def _correct_speed(self, logs: dict[str, float]) -> None:
        """The parent takes the time by a clock that may be set meanwhile."""
        steps = self.state.global_step - getattr(self, "_initial_global_step", 0)
        self._training_clock.correct(logs, "train", steps * self.get_total_train_batch_size(self.args), steps)
        batch_size = self.args.eval_batch_size * self.args.world_size
        for prefix in [name.removesuffix("_runtime") for name in logs if name.endswith("_runtime")]:
            if prefix != "train":
                steps = math.ceil(self._num_evaluated / batch_size)
                self._evaluation_clock.correct(logs, prefix, self._num_evaluated, steps)

    # --------------------------------------------------------------------------------------------- evaluation

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
        self._skipped_in_evaluation.extend(take_skipped(inputs))
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        image_embeds, text_embeds = normalized(outputs)
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
        self._evaluation_clock = SteadyClock()
        with self._evaluation_chance(), data_faults_explained(lambda: ""):
            output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        self._num_evaluated = output.num_samples
        for model in self._copies():
            slice_again(model)
        metrics = self._curves.drain("eval") | counts_by_reason(self._skipped_in_evaluation)
        self._skipped_in_evaluation.clear()
        if description == "Evaluation" and self.processing_class is not None:
            dataset = evaluation_pairs(self._retrieval_dataset)
            model = self.accelerator.unwrap_model(self.model)
            with gathered(model):
                metrics |= evaluate_retrieval(
                    model,
                    dataset,
                    self.processing_class,
                    batch_size=self.args.eval_batch_size,
                    relevance=None if self.eval_relevance is None else self.eval_relevance(dataset),
                    chunk_size=self.args.retrieval_chunk_size,
                    on_error="skip",
                    show_progress=not self.args.disable_tqdm and self.is_local_process_zero(),
                )
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    # ------------------------------------------------------------------------------------------------- saving

    def _stateful_parts(self) -> dict[str, Any]:
        parts = {
            "teacher": self.teacher,
            "reference": self.reference,
            "queue": self.queue,
            "guide_queue": self.guide_queue,
            "logs": self._pending_logs,
            "skipped": self.skipped_pairs,
            "stream": self._stream,
        }
        return {prefix: part for prefix, part in parts.items() if part is not None}


class _TrainingEvents(TrainerCallback):
    """Calls the trainer back when training and an epoch begin, before and after the optimiser moves the model."""

    def __init__(self, trainer: SaclTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.start_training()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.start_epoch(int(state.epoch or 0))

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.before_optimizer_step()

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.trainer.after_optimizer_step()

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_log or control.should_save or control.should_evaluate:
            self.trainer.check_losses()

    def on_train_end(self, args, state, control, **kwargs):
        self.trainer.check_losses()
