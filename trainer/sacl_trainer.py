# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The trainer: one contrastive step as five named steps, and the state that lives beside the model."""

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    TrainerCallback,
)
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.utils import ModelOutput, is_peft_available, logging

from modeling_sacl.loss_sacl import contrastive_logits

from .checkpoints import (
    PendingLogs,
)
from .data import PairCollator, SeededPairs, SeededStream, SkippedPair, swap_words, undecoded, with_pair_ids
from .data.usable import usable_rows
from .distributed import gather, row_counts
from .embedding import dual_encoder
from .evaluation import Relevance, evaluate_retrieval
from .extra_texts import compare_extra_texts, part_texts, with_extra_texts
from .faults import SteadyClock, data_faults_explained, limit_waiting
from .grad_cache import RandomState, split_batch
from .guide import GUIDE_COLUMNS, Guide, add_guide_features, check_guided
from .locked import cache_locked_towers, cached_towers, check_cacheable, lock_towers, without_tower_features
from .momentum import FrozenCopy, MomentumTeacher
from .objectives import (
    OBJECTIVES,
    Comparison,
    ContrastiveBatch,
    ContrastiveObjective,
    ExtraTexts,
    InfoNCEObjective,
    ObjectiveOutput,
    distillation_loss,
)
from .queue import FeatureQueue, PairFeatures
from .sacl_config import GUIDE_SCHEDULES, SaclTrainingArguments
from .saving import SavingTrainer
from .sharding import gathered, make_sliceable, shard_beside, slice_again, whole
from .skipped_pairs import SkippedPairs, counts_by_reason, take_skipped
from .stability import NonFiniteGuard
from .terms import TERMS, Mixture, TermBatch
from .terms.mixup import mixture_of
from .terms.rows import VIEW, append_rows, extra_rows, take_rows_off


logger = logging.get_logger(__name__)

# What the contrast sees of a pair; the last only where an objective needs it.
EMBEDDINGS = ("image_embeds", "text_embeds", "extra_text_embeds")
# Where texts beyond those of the pairs come from.
EXTRA_TEXTS_HINTS = {
    "negative": "`PairCollator(processor, negative_caption=swap_words)` makes them.",
    "further": "`PairCollator(processor, captions_per_image=2)` draws them.",
}


class SaclTrainer(SavingTrainer):
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
            if processing_class is None:
                processing_class = AutoProcessor.from_pretrained(model, trust_remote_code=False)
            model = _load_model(model)
        if peft_config is not None:
            model = _with_adapters(model, peft_config)
        base_model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._forward_arguments = set(inspect.signature(base_model.forward).parameters)
        self._has_fusion = "with_itm" in self._forward_arguments
        check_cacheable(args, self._forward_arguments)
        lock_towers(model, vision=args.lock_vision, text=args.lock_text)
        if processing_class is None:
            processing_class = getattr(data_collator, "processor", None)
        if data_collator is None:
            if processing_class is None:
                raise ValueError(
                    "Pass the model's processor as `processing_class`, or a `data_collator`: without either, images "
                    "and captions cannot become a batch."
                )
            data_collator = self._default_collator(model, processing_class, args)
        _warn_of_padding(data_collator, model)
        _check_views(data_collator, args)
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
        self._metrics: dict[str, dict[str, list[torch.Tensor]]] = {
            "train": defaultdict(list),
            "eval": defaultdict(list),
        }
        self._pending_logs = PendingLogs(self)
        keeps_list = self.is_world_process_zero()
        self.skipped_pairs = SkippedPairs(args.max_skipped_ratio, args.output_dir if keeps_list else None)
        self._skipped_in_evaluation: list[SkippedPair] = []
        self._training_clock = self._evaluation_clock = SteadyClock()
        self._num_evaluated = 0
        self._seeded_pairs: SeededPairs | None = None
        self._stream: SeededStream | None = None
        # On the CPU reading a number costs nothing.
        self._guard = NonFiniteGuard(args.nan_policy, deferred=args.device.type != "cpu")
        _warn_of_accumulation(args)
        if self.is_deepspeed_enabled:
            _check_deepspeed(args)
        self.add_callback(_TrainingEvents(self))

    def _default_collator(
        self, model: nn.Module, processor: ProcessorMixin, args: SaclTrainingArguments
    ) -> PairCollator:
        mlm_probability = args.mlm_probability if self._masks_text(args) else 0.0
        extra_texts: dict[str | None, dict[str, Any]] = {
            "further": {"captions_per_image": args.captions_per_image},
            "negative": {"negative_caption": swap_words},
        }
        options = extra_texts.get(OBJECTIVES[args.objective].extra_texts, {})
        plain = PairCollator(processor, mlm_probability=mlm_probability, **options).for_model(model)
        if plain.image_size() is None:
            logger.warning(
                f"{type(processor.image_processor).__name__} gives each image a shape of its own, so images are not "
                "augmented. Pass `data_collator=PairCollator(processor, image_transform=...)` to augment them."
            )
            return _with_views(plain, args)
        collator = plain.for_training()
        # A quarter of the bytes on their way to it; on the CPU that is what workers are for.
        on_device = args.device.type != "cpu" and collator.can_leave_normalizing
        return _with_views(replace(collator, normalize=not on_device), args)

    def _guided(self, dataset: Any, guide: Guide | None) -> Any:
        """The training pairs, undecoded, with the features of the guide if there is one."""
        return undecoded(dataset if guide is None else add_guide_features(dataset, guide))

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
        counts = row_counts(inputs["pair_ids"])
        contrast = self._contrast(outputs, teacher_outputs, inputs, counts, self._ask_reference(inputs))
        losses = {**contrast.losses, **self._fusion_losses(outputs, teacher_outputs, inputs)}

        loss = self._weighted_sum(losses) * _share_of_process(counts, len(inputs["pair_ids"]))
        if self._watch(losses, inputs, training=model.training):
            self._record({**losses, **contrast.metrics, **self._diagnostics(outputs)}, training=model.training)
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
        random_states, embeddings = [], []
        for chunk in chunks:
            random_states.append(RandomState())
            with torch.no_grad():
                embeddings.append(self._call_once(model, chunk, with_mlm=False, with_itm=False))

        cached = _concatenated(embeddings)
        per_row = list(cached)
        cached |= {name: value.detach().clone() for name, value in self._scalars_of_contrast(embeddings[0]).items()}
        leaves = [tensor.requires_grad_() for tensor in cached.values()]
        teacher_outputs = None if self.teacher is None else _concatenated(teachers)
        reference_outputs = None if self.reference is None else _concatenated(references)
        counts = row_counts(inputs["pair_ids"])
        contrast = self._contrast(cached, teacher_outputs, inputs, counts, reference_outputs)
        gradients = dict(zip(cached, torch.autograd.grad(self._weighted_sum(contrast.losses), leaves), strict=True))
        usable = self._watch(contrast.losses, inputs)

        share = _share_of_process(counts, len(inputs["pair_ids"])) / self.current_gradient_accumulation_steps
        recorded = {**contrast.losses, **contrast.metrics}
        total = self._weighted_sum(contrast.losses).detach() * share
        for index, (chunk, teacher, state) in enumerate(zip(chunks, teachers, random_states, strict=True)):
            last = index == len(chunks) - 1
            with nullcontext() if last else self.accelerator.no_sync(model):
                with state.replayed():
                    outputs = self._ask_model(model, chunk, teacher)
                losses = self._fusion_losses(outputs, teacher, chunk)
                usable = self._watch(losses, chunk) and usable
                parts = {name: value * _share_of_chunk(name, chunk, inputs) for name, value in losses.items()}
                fusion = self._weighted_sum(parts) * share
                rows = slice(index * chunk_size, (index + 1) * chunk_size)
                carried = sum((outputs[name] * gradients[name][rows]).sum() for name in per_row)
                if index == 0:
                    scalars = self._scalars_of_contrast(outputs)
                    carried = carried + sum(value * gradients[name] for name, value in scalars.items())
                self.accelerator.backward(carried * share + fusion)
            total = total + fusion.detach()
            recorded.update({name: recorded.get(name, 0) + part.detach() for name, part in parts.items()})
            if usable:
                self._record(self._diagnostics(outputs), training=True)
        if usable:
            self._record(recorded, training=True)
        return total if usable else total.nan_to_num(0.0, 0.0, 0.0)

    def _weighted_sum(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        weighted = [getattr(self.args, name.replace("_loss", "_weight")) * value for name, value in losses.items()]
        return torch.stack(weighted).sum() if weighted else torch.zeros((), device=self.args.device)

    def _keep_for_queue(self, batch: ContrastiveBatch) -> None:
        """The features of the global batch enter the queue when the optimiser has moved the model."""
        if self.model.training and self.queue is not None:
            features = (batch.student if batch.teacher is None else batch.teacher).candidates[0]
            guide_features = None if batch.guide is None else batch.guide.candidates[0]
            self._fresh_features.append((PairFeatures(*(tensor.detach() for tensor in features)), guide_features))

    def _ask_teacher(self, inputs: dict[str, torch.Tensor]) -> ModelOutput | None:
        if self.teacher is None:
            return None
        # Until it distils, only its embeddings are of use.
        with_mlm = self._distillation_weight() > 0
        with self._teacher_precision():
            return self._call(self.teacher, self.teacher.model, inputs, with_mlm=with_mlm, with_itm=False)

    def _ask_reference(self, inputs: dict[str, torch.Tensor]) -> ModelOutput | None:
        """What the model of the beginning says of the pairs, if a term compares with it."""
        if self.reference is None:
            return None
        with self.accelerator.autocast():
            return self._call(self.reference, self.reference.model, inputs, with_mlm=False, with_itm=False)

    def _teacher_precision(self) -> AbstractContextManager:
        """The precision of the model, whose forward `accelerate` wraps and the teacher's not; or bfloat16."""
        if self.args.teacher_bf16:
            return torch.autocast(self.args.device.type, dtype=torch.bfloat16)
        return self.accelerator.autocast()

    def _ask_model(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], teacher_outputs: ModelOutput | None
    ) -> ModelOutput:
        """Calls the model once, so that the hooks of data-parallel wrappers see one forward per step."""
        similarity = None
        if teacher_outputs is not None:
            similarity = contrastive_logits(*_normalized(teacher_outputs))
        return self._call_once(
            model,
            inputs,
            with_itm=self.args.itm_weight > 0,
            hard_negative_strength=self._regulation_strength() if self.args.regulate_hard_negatives else 0.0,
            hard_negative_similarity=similarity,
            hard_negative_share=self._ramp(self.args.hard_negative_warmup),
        )

    def _call(
        self, model: Callable[..., ModelOutput], unwrapped: nn.Module, inputs: dict[str, torch.Tensor], **options: Any
    ) -> ModelOutput:
        """Calls a model, whose locked towers answer with their features where the batch has them."""
        with cached_towers(unwrapped, inputs) as inputs:
            return model(**self._model_inputs(inputs, **options))

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

    def _extra_texts(self) -> str | None:
        return getattr(self.objective, "extra_texts", None)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """On the device, where pixels are normalised that the collator has left as they are."""
        inputs = super()._prepare_inputs(inputs)
        if not isinstance(self.data_collator, PairCollator) or self.data_collator.normalize:
            return inputs
        # Once more, since what is normalised may have to be of another type (DeepSpeed).
        return super()._prepare_inputs(self.data_collator.normalized(inputs))

    def _embed(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of a batch by the model, of unit length."""
        inputs = self._prepare_inputs(inputs)
        return _normalized(self._call(self.model, self.model, inputs, with_mlm=False, with_itm=False))

    def _model_inputs(self, inputs: dict[str, torch.Tensor], with_mlm: bool = True, **options: Any) -> dict[str, Any]:
        """What the forward of this model takes; a dual encoder without heads knows nothing of pairs and masks."""
        if not with_mlm or self.args.mlm_weight == 0:
            inputs = {name: value for name, value in inputs.items() if not name.startswith("mlm_")}
        return {name: value for name, value in {**inputs, **options}.items() if name in self._forward_arguments}

    def _contrast(
        self,
        outputs: ModelOutput | dict[str, torch.Tensor],
        teacher_outputs: ModelOutput | dict[str, torch.Tensor] | None,
        inputs: dict[str, torch.Tensor],
        counts: list[int],
        reference_outputs: ModelOutput | dict[str, torch.Tensor] | None = None,
    ) -> ObjectiveOutput:
        """
        The losses and metrics of the objective, and of the terms beside it: what the model, the teacher, the guide and
        the model of the beginning say of the batch.
        """
        pair_ids, guide = inputs["pair_ids"], _guide_features(inputs)
        guide_share = 0.0 if guide is None else self._guide_share()
        asks_guide = guide_share > 0 or self._needs_guide()
        teacher = None
        if teacher_outputs is not None:
            teacher = self._compare(PairFeatures(*_normalized(teacher_outputs), pair_ids), counts, self.queue)
        batch = ContrastiveBatch(
            student=self._compare(PairFeatures(*_normalized(outputs), pair_ids), counts, self.queue),
            teacher=teacher,
            guide=self._compare(guide, counts, self.guide_queue) if guide is not None and asks_guide else None,
            guide_share=guide_share,
            # A guide knows from the start what an early model does not.
            regulation_strength=self._regulation_strength(warmed_up=guide is not None),
            distillation_weight=self._distillation_weight(),
            extra_texts=self._compare_extra_texts(outputs, inputs, counts),
            **self._scalars_of_contrast(outputs),
        )
        self._keep_for_queue(batch)
        result = self._objective_of(batch)(batch, block_size=self.args.loss_block_size)
        for part in self._ask_terms(batch, outputs, reference_outputs, inputs, counts):
            result.losses |= part.losses
            result.metrics |= part.metrics
        return result

    def _prepare_for_terms(self, inputs: dict[str, torch.Tensor], training: bool = True) -> dict[str, torch.Tensor]:
        """A batch of the training with what terms add to it; one of an evaluation as it is."""
        for term in self.terms if training else ():
            inputs = term.prepare(inputs)
        return inputs

    def _ask_terms(
        self,
        batch: ContrastiveBatch,
        outputs: ModelOutput | dict[str, torch.Tensor],
        reference_outputs: ModelOutput | dict[str, torch.Tensor] | None,
        inputs: dict[str, torch.Tensor],
        counts: list[int],
    ) -> list[ObjectiveOutput]:
        """What the terms beside the objective say of the batch."""
        if not self.terms:
            return []
        reference = None
        if reference_outputs is not None:
            reference = self._compare(PairFeatures(*_normalized(reference_outputs), inputs["pair_ids"]), counts, None)
        views = mixture = None
        if "view_image_embeds" in outputs:
            own = PairFeatures(*_normalized(outputs, VIEW), inputs["pair_ids"])
            everyones = PairFeatures(*(gather(tensor, counts) for tensor in own))
            views = (own if self.args.local_loss else everyones, everyones)
        if "mixed_image_embeds" in outputs:
            mixed = mixture_of(outputs, inputs)
            all_mixed = Mixture(*(gather(tensor, counts) for tensor in mixed))
            mixture = (mixed if self.args.local_loss else all_mixed, all_mixed)
        seen = TermBatch(
            # The objective's own comparison, without the queue: nothing is gathered twice.
            student=Comparison(batch.student.anchors, batch.student.candidates[:1]),
            logit_scale=batch.logit_scale,
            reference=reference,
            views=views,
            mixture=mixture,
        )
        return [term(seen) for term in self.terms if self.model.training or term.is_given(inputs)]

    def _needs_guide(self) -> bool:
        # What takes the objective's place, to watch it, may be a function.
        return getattr(self.objective, "needs_guide", False)

    def _objective_of(self, batch: ContrastiveBatch) -> ContrastiveObjective:
        """In evaluation, whose pairs a guide has not seen, one that needs it is InfoNCE."""
        guided = batch.guide is not None or not self._needs_guide()
        return self.objective if guided or self.model.training else InfoNCEObjective()

    def _compare(self, features: PairFeatures, counts: list[int], queue: FeatureQueue | None) -> Comparison:
        """Anchors of this process among the candidates of all processes, then of the queue."""
        gathered = PairFeatures(*(gather(tensor, counts) for tensor in features))
        queued = queue.features() if queue is not None and self.model.training else None
        return Comparison(
            anchors=features if self.args.local_loss else gathered,
            candidates=(gathered,) if queued is None else (gathered, queued),
        )

    def _compare_extra_texts(
        self, outputs: ModelOutput | dict[str, torch.Tensor], inputs: dict[str, torch.Tensor], counts: list[int]
    ) -> ExtraTexts | None:
        kind = self._extra_texts()
        if kind is None:
            return None
        embeds = nn.functional.normalize(outputs["extra_text_embeds"], dim=-1)
        return compare_extra_texts(embeds, inputs, kind, counts, local=self.args.local_loss)

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
            return outputs["logit_scale"].view(())
        parameter = self._parameter_named("logit_scale")
        if parameter is None:
            raise ValueError(
                f"`{type(self.model).__name__}` has no parameter `logit_scale`, so the temperature of the contrast is "
                "unknown: give the model one (the logarithm of the inverse temperature), or return `logit_scale`."
            )
        return whole(parameter).exp().view(())

    def _logit_bias(self, outputs: ModelOutput) -> torch.Tensor:
        if outputs.get("logit_bias") is not None:
            return outputs["logit_bias"].view(())
        parameter = self._parameter_named("logit_bias")
        if parameter is None:
            raise ValueError(
                f"The objective {self.args.objective!r} learns a bias of its logits, and "
                f"`{type(self.model).__name__}` has no parameter `logit_bias`: take a SigLIP model or "
                "`SaclConfig(logit_bias_init_value=-10.0)`, or give the model one, "
                "`model.logit_bias = torch.nn.Parameter(torch.tensor(-10.0))`."
            )
        return whole(parameter).view(())

    def _scalars_of_contrast(self, outputs: ModelOutput) -> dict[str, torch.Tensor]:
        """What the logits are made of beside embeddings, by its name in a [`ContrastiveBatch`]."""
        scalars = {"logit_scale": self._logit_scale(outputs)}
        if getattr(self.objective, "needs_logit_bias", False):
            scalars["logit_bias"] = self._logit_bias(outputs)
        return scalars

    def _parameter_named(self, name: str) -> nn.Parameter | None:
        named = self.accelerator.unwrap_model(self.model).named_parameters()
        return next((parameter for path, parameter in named if path.split(".")[-1] == name), None)

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

    def _set_patch_selection(self) -> None:
        """Has the image towers drop more and more patches; in tenths, since each share is compiled anew."""
        share = math.floor(10 * self._ramp(self.args.patch_selection_warmup)) / 10
        for model in (self.model, *self._copies()):
            tower = getattr(dual_encoder(model), "vision_model", None)
            if hasattr(tower, "patch_selection_share"):
                tower.patch_selection_share = share

    def _copies(self) -> list[nn.Module]:
        """The models beside the one in training."""
        return [kept.model for kept in (self.teacher, self.reference) if kept is not None]

    # --------------------------------------------------------------------------------------------------- data

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """
        The training data; each row with a seed of its own, so that resuming repeats augmentation and masks. A stream
        goes on until `max_steps`, over its end if need be, and its shards come in an order of their own in each pass,
        unless `train_sampling_strategy="sequential"` ([`SeededStream`]).
        """
        dataset = self.train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._seeded_pairs, self._stream = None, None
        if isinstance(dataset, torch.utils.data.IterableDataset):
            _warn_of_epochs(self.args)
            return self._stream_dataloader(dataset, seed)
        if hasattr(dataset, "__len__"):
            self.train_dataset = self._seeded_pairs = SeededPairs(dataset, seed)
        self.train_dataset = self._usable(self.train_dataset)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset = dataset

    def _usable(self, dataset: Any) -> Any:
        """The training data with full batches. Batches that one process makes for all can hold tensors alone."""
        return usable_rows(dataset, self.data_collator, report=not self.accelerator.dispatch_batches)

    def _stream_dataloader(self, dataset: Any, seed: int) -> torch.utils.data.DataLoader:
        """
        Each process reads its own shards of a stream and makes its own batches: made by one process for all, they
        would all have to be of the same width. One process reads for all if `dispatch_batches` says so; then resuming
        means reading again what was read.
        """
        dispatch = bool(self.accelerator.dispatch_batches)
        shared = {} if dispatch else {"rank": self.args.process_index, "world_size": self.args.world_size}
        stream = SeededStream(
            dataset,
            seed,
            shuffle_shards=self.args.train_sampling_strategy != "sequential",
            shards_at_once=self.args.stream_shards_at_once,
            **shared,
        )
        loader = torch.utils.data.DataLoader(
            self._usable(stream),
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator if dispatch else stream.with_places(self.data_collator),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            in_order=self.args.dataloader_in_order,
        )
        if dispatch:
            return limit_waiting(self.accelerator.prepare(loader), self.args.dataloader_timeout)
        self._stream = stream
        # As `accelerator.prepare` does, but told that there is nothing left to split.
        prepared = prepare_data_loader(
            loader,
            self.accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=self.accelerator.device_placement,
            dispatch_batches=False,
            non_blocking=self.accelerator.non_blocking,
        )
        return limit_waiting(prepared, self.args.dataloader_timeout)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """[`Trainer.get_batch_samples`], keeping in mind for the next checkpoint how far a stream has been read."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches if self._stream is not None else ():
            self._stream.note(batch)
        return batches, num_items

    def start_training(self) -> None:
        """Forgets what an earlier call of `train` has left over; the teacher is sharded if the model is."""
        self._training_clock = SteadyClock()
        if self.is_fsdp_enabled:
            for model in self._copies():
                shard_beside(self.accelerator, model)
        if self._stream is not None:
            self._resume_stream(self._stream)
        self._metrics["train"].clear()
        self._fresh_features.clear()
        self._pending_logs.carry_over()
        self.skipped_pairs.start(resumed=self.state.global_step > 0)
        self.catch_up_with_pushing()

    def _resume_stream(self, stream: SeededStream) -> None:
        """The parent throws away as many batches as were used; of a stream that was restored, these are empty."""
        if self.args.ignore_data_skip:
            stream.begin_anew()
        used = self.state.global_step * self.args.gradient_accumulation_steps
        stream.go_on(self.args.dataloader_num_workers, used, self._train_batch_size)

    def start_epoch(self, epoch: int) -> None:
        """Draws captions, augmentation and masks anew."""
        if self._seeded_pairs is not None:
            self._seeded_pairs.start_epoch(epoch)

    # ------------------------------------------------------------------------------------ around the optimiser

    def check_losses(self) -> None:
        """Stops the training if a loss since the last time was not finite, before anything of it is kept."""
        self._guard.flush()

    def before_optimizer_step(self) -> None:
        """Leaves out the step, and its features, if one of its batches is broken in any process."""
        if self._guard.step_is_broken(self.args.device):
            # Without gradients the optimiser does nothing: no decay, no momentum.
            self.model_wrapped.zero_grad(set_to_none=True)
            self._fresh_features.clear()
            self._metrics["train"]["skipped_steps"].append(torch.ones(()))

    def after_optimizer_step(self) -> None:
        """Keeps the temperature in its range, moves the teacher, and queues the features of the step."""
        model = self.accelerator.unwrap_model(self.model)
        logit_scale = self._parameter_named("logit_scale")
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
        device = self.args.device
        recorded = [torch.stack([value.to(device) for value in self._metrics[mode][name]]) for name in names]
        means = torch.stack([values.nanmean() for values in recorded])
        means = gather(means[None]).nanmean(dim=0)
        self._metrics[mode].clear()
        return {name: mean for name, mean in zip(names, means.tolist(), strict=True) if not math.isnan(mean)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs every component of the loss as a curve of its own, beside what [`Trainer`] logs."""
        if "loss" in logs:
            logs = {**logs, **self._drain("train"), **self.skipped_pairs.since_last_log()}
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

    def _watch(self, losses: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor], training: bool = True) -> bool:
        """Whether the batch can be used (see `nan_policy`)."""
        return self._guard.watch(losses, inputs["pair_ids"], self.state.global_step, training)

    # --------------------------------------------------------------------------------------------- evaluation

    def get_eval_dataloader(self, eval_dataset: Any | str | None = None) -> torch.utils.data.DataLoader:
        """The evaluation data without chance: no augmentation, the first caption, masks that depend on the text."""
        datasets = self.eval_dataset
        if isinstance(eval_dataset, str):
            # The parent is told the name, under which it keeps persistent workers.
            self.eval_dataset = {eval_dataset: self._evaluation_rows(datasets[eval_dataset])}
        elif eval_dataset is not None or datasets is not None:
            eval_dataset = self._evaluation_rows(datasets if eval_dataset is None else eval_dataset)
        try:
            with self._evaluation_collator():
                return super().get_eval_dataloader(eval_dataset)
        finally:
            self.eval_dataset = datasets

    def get_test_dataloader(self, test_dataset: Any) -> torch.utils.data.DataLoader:
        """The data of [`~Trainer.predict`], without chance like those of an evaluation."""
        with self._evaluation_collator():
            return super().get_test_dataloader(self._evaluation_rows(test_dataset))

    def _evaluation_rows(self, dataset: Any) -> Any:
        """As evaluation reads them; what cannot be read is left out, and nothing put in its place."""
        is_dispatched = isinstance(dataset, torch.utils.data.IterableDataset) or self.accelerator.dispatch_batches
        return usable_rows(_evaluation_pairs(dataset), self.eval_collator, fill=False, report=not is_dispatched)

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
        self._skipped_in_evaluation.extend(take_skipped(inputs))
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
        self._evaluation_clock = SteadyClock()
        with self._evaluation_chance(), data_faults_explained(lambda: ""):
            output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        self._num_evaluated = output.num_samples
        for model in self._copies():
            slice_again(model)
        metrics = self._drain("eval") | counts_by_reason(self._skipped_in_evaluation)
        self._skipped_in_evaluation.clear()
        if description == "Evaluation" and self.processing_class is not None:
            dataset = _evaluation_pairs(self._retrieval_dataset)
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


def _warn_of_epochs(args: SaclTrainingArguments) -> None:
    strategies = ("eval_strategy", "logging_strategy", "save_strategy")
    once = [f"`{name}`" for name in strategies if getattr(args, name) == "epoch"]
    if once:
        logger.warning(
            f"A stream is one long epoch, of `max_steps`: with 'epoch' as {', '.join(once)} that happens once, at the "
            "end of training. Use 'steps'."
        )


def _warn_of_accumulation(args: SaclTrainingArguments) -> None:
    if args.gradient_accumulation_steps > 1 and args.contrastive_chunk_size is None:
        logger.warning(
            f"`gradient_accumulation_steps={args.gradient_accumulation_steps}` averages gradients of batches that do "
            "not see each other: it adds no negatives. For the contrast of a large batch in the memory of a small one "
            f"set `per_device_train_batch_size={args.gradient_accumulation_steps * args.per_device_train_batch_size}` "
            f"and `contrastive_chunk_size={args.per_device_train_batch_size}`."
        )


def _evaluation_pairs(dataset: Any) -> Any:
    """Pairs as evaluation reads them: with ids, undecoded, and the towers themselves asked."""
    return undecoded(with_pair_ids(without_tower_features(dataset)))


def _check_deepspeed(args: SaclTrainingArguments) -> None:
    """DeepSpeed owns backward and optimiser, and at stage 3 the weights: what needs them is refused, not broken."""
    if is_deepspeed_zero3_enabled() and args.off_diagonal_weight > 0:
        raise ValueError(
            "At ZeRO stage 3 no process has whole weights, so there is nothing to copy for `off_diagonal_weight`: "
            "take stage 2, FSDP, or `off_diagonal_weight=0`."
        )
    if is_deepspeed_zero3_enabled() and args.momentum is not None:
        raise ValueError(
            "At ZeRO stage 3 no process has whole weights, so the momentum teacher has nothing to follow: take stage "
            "2, FSDP (which shards the teacher too), or `momentum=None`."
        )
    if args.contrastive_chunk_size is not None:
        raise ValueError(
            "DeepSpeed counts every backward as a batch, and gradient caching has one for each chunk: take FSDP or "
            "DDP, or `contrastive_chunk_size=None`."
        )
    if args.nan_policy == "skip":
        raise ValueError(
            "DeepSpeed moves the optimiser within the backward, so that no step can be left out: take FSDP or DDP, or "
            "`nan_policy='raise'`."
        )


def _guide_features(inputs: dict[str, torch.Tensor]) -> PairFeatures | None:
    """The guide's features of the batch. A guide of one modality compares captions, or images, with each other."""
    given = [inputs[column] for column in GUIDE_COLUMNS if column in inputs]
    return PairFeatures(given[0], given[-1], inputs["pair_ids"]) if given else None


def _concatenated(chunks: list[ModelOutput]) -> dict[str, torch.Tensor]:
    """The embeddings of a batch from those of its chunks."""
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in _embeddings_of(chunks[0])}


def _embeddings_of(outputs: ModelOutput) -> list[str]:
    """The names of the embeddings of the pairs, and of what terms want embedded too."""
    return [name for name in outputs if name.endswith(EMBEDDINGS)]


def _share_of_process(counts: list[int], rows: int) -> float:
    """Data-parallel training takes the mean over processes; a smaller batch must not count as much as a larger one."""
    return rows * len(counts) / sum(counts)


def _share_of_chunk(name: str, chunk: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> torch.Tensor | float:
    """What a chunk's mean counts in the mean of the batch: by masked tokens for language modeling, else by rows."""
    if name == "mlm_loss":
        masked, all_masked = (part["mlm_labels"] != -100 for part in (chunk, batch))
        return masked.sum() / all_masked.sum().clamp(min=1)
    return len(chunk["pair_ids"]) / len(batch["pair_ids"])


def _normalized(outputs: ModelOutput, prefix: str = "") -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of unit length, whether or not the model returns them so."""
    return (
        nn.functional.normalize(outputs[f"{prefix}image_embeds"], dim=-1),
        nn.functional.normalize(outputs[f"{prefix}text_embeds"], dim=-1),
    )


def _warn_of_padding(collator: Any, model: nn.Module) -> None:
    """A model of texts of one length (SigLIP) would otherwise train on other texts than it is evaluated with."""
    if isinstance(collator, PairCollator) and (fitting := collator.for_model(model)) is not collator:
        logger.warning(
            f"`{type(model).__name__}` was trained with captions padded and cut to {fitting.max_length} tokens, which "
            "the data collator does not do: pass `data_collator.for_model(model)`."
        )


def _wants_views(args: SaclTrainingArguments) -> bool:
    return any(term.rows == VIEW and getattr(args, f"{name}_weight") > 0 for name, term in TERMS.items())


def _with_views(collator: PairCollator, args: SaclTrainingArguments) -> PairCollator:
    return replace(collator, second_views=True) if _wants_views(args) else collator


def _check_views(collator: Any, args: SaclTrainingArguments) -> None:
    """What another collator makes is seen in its first batch."""
    if isinstance(collator, PairCollator) and _wants_views(args) and not collator.second_views:
        raise ValueError(
            "`unimodal_self_supervision_weight` compares two views of each image and text, and the data collator "
            "makes one: pass `dataclasses.replace(data_collator, second_views=True)`, or no `data_collator`."
        )


def _with_adapters(model: PreTrainedModel, peft_config: Any) -> PreTrainedModel:
    if not is_peft_available():
        raise ImportError("`peft_config` needs the library peft: `pip install peft`.")
    from peft import get_peft_model

    return get_peft_model(model, peft_config)


def _load_model(name: str) -> PreTrainedModel:
    """The model of a folder or Hub id: with its pre-training heads if its family has them, else the dual encoder."""
    # Said, since left unsaid it is asked for on the terminal: code is run by who loads the model and passes it.
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    auto_class = AutoModelForPreTraining if config.model_type == "sacl" else AutoModel
    return auto_class.from_pretrained(name, trust_remote_code=False)
