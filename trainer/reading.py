# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What a trainer reads: batches of pairs to learn from, and to evaluate with, from data sets and from streams."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from transformers import Trainer

from .data import PairCollator, SeededPairs, SeededStream, undecoded, with_pair_ids
from .data.usable import usable_rows
from .faults import limit_waiting
from .guide import Guide, add_guide_features
from .locked import without_tower_features
from .preparation import warn_of_epochs
from .sacl_config import SaclTrainingArguments


class ReadingTrainer(Trainer):
    """
    A [`Trainer`] whose batches depend on neither workers nor interruptions, stay full where pairs are unusable, and
    for evaluation are made without chance.
    """

    args: SaclTrainingArguments
    data_collator: Callable[[list[dict]], dict[str, torch.Tensor]]
    # Makes the batches of an evaluation.
    eval_collator: Callable[[list[dict]], dict[str, torch.Tensor]]
    train_dataset: Any
    eval_dataset: Any
    # What is read at present: one of both while a training is under way.
    _seeded_pairs: SeededPairs | None = None
    _stream: SeededStream | None = None

    # ----------------------------------------------------------------------------------------------- training

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
            warn_of_epochs(self.args)
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

    def resume_reading(self) -> None:
        """The parent throws away as many batches as were used; of a stream that was restored, these are empty."""
        if self._stream is None:
            return
        if self.args.ignore_data_skip:
            self._stream.begin_anew()
        used = self.state.global_step * self.args.gradient_accumulation_steps
        self._stream.go_on(self.args.dataloader_num_workers, used, self._train_batch_size)

    def start_epoch(self, epoch: int) -> None:
        """Draws captions, augmentation and masks anew."""
        if self._seeded_pairs is not None:
            self._seeded_pairs.start_epoch(epoch)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """[`Trainer.get_batch_samples`], keeping in mind for the next checkpoint how far a stream has been read."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches if self._stream is not None else ():
            self._stream.note(batch)
        return batches, num_items

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
        return usable_rows(evaluation_pairs(dataset), self.eval_collator, fill=False, report=not is_dispatched)

    @contextmanager
    def _evaluation_collator(self):
        training_collator, self.data_collator = self.data_collator, self.eval_collator
        try:
            yield
        finally:
            self.data_collator = training_collator

    # ------------------------------------------------------------------------------------------- any batches

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> torch.utils.data.DataLoader:
        return limit_waiting(super()._get_dataloader(*args, **kwargs), self.args.dataloader_timeout)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """On the device, where pixels are normalised that the collator has left as they are."""
        inputs = super()._prepare_inputs(inputs)
        if not isinstance(self.data_collator, PairCollator) or self.data_collator.normalize:
            return inputs
        # Once more, since what is normalised may have to be of another type (DeepSpeed).
        return super()._prepare_inputs(self.data_collator.normalized(inputs))


def training_pairs(dataset: Any, guide: Guide | None) -> Any:
    """Pairs as training reads them: with ids, undecoded, and with the features of the guide if there is one."""
    if dataset is None:
        return None
    dataset = with_pair_ids(dataset)
    return undecoded(dataset if guide is None else add_guide_features(dataset, guide))


def evaluation_pairs(dataset: Any) -> Any:
    """Pairs as evaluation reads them: with ids, undecoded, and the towers themselves asked."""
    return undecoded(with_pair_ids(without_tower_features(dataset)))
