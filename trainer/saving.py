# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""What a trainer leaves behind: models with their cards, checkpoints to resume from, pushes to the Hub."""

import os
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, TrainOutput
from transformers.utils import logging

from .checkpoints import (
    agreed,
    checkpoint_to_resume,
    delete_old_checkpoints,
    last_checkpoint,
    seal_checkpoint,
    set_aside,
    tensors_only,
    unseal_checkpoint,
)
from .faults import data_faults_explained, removed_if_disk_is_full, size_of
from .renamed_weights import load_renamed_weights
from .run_lock import RunLock
from .sacl_config import SaclTrainingArguments
from .sharding import with_scalars
from .shared_checkpoints import LAST_CHECKPOINT, HubCheckpoint, arrays_allowed, fetch_checkpoint
from .sharing import (
    PUSHED_STEP_NAME,
    BackgroundPushes,
    HubRepository,
    Staged,
    check_options,
    discard_leftovers,
    save_training_arguments,
    stage,
)
from .text import size_in_words


logger = logging.get_logger(__name__)

TRAINING_STATE_NAME = "sacl_training_state.safetensors"
# Seconds for a push to end, when the training has ended with an error.
PATIENCE_AFTER_FAILURE = 600


class SavingTrainer(Trainer):
    """
    A [`Trainer`] whose checkpoints are whole or are named as broken, whose models have cards, and whose pushes are one
    commit or none. Its child says what else belongs to a training, by `_stateful_parts`.
    """

    args: SaclTrainingArguments
    # What the card was told (`create_model_card`), for when it is written again.
    _told_to_card: dict[str, Any] = {}
    # Names of parameters without a dimension, which slicing gives one.
    _scalars: set[str] = set()

    def _stateful_parts(self) -> dict[str, Any]:
        """What checkpoints hold beside model and optimiser, by name: each has `state_dict` and `load_state_dict`."""
        return {}

    # --------------------------------------------------------------------------------------- saving, resuming

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any | None = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """
        [`Trainer.train`], resuming from whole checkpoints only, in a folder that no other run trains into.

        A resumed run repeats the uninterrupted one exactly, if it runs on as many processes: on another number the
        global batches and their augmentation are the same, but masks, dropout and hard negatives are drawn anew. (Of a
        stream, what is left is then dealt out anew, so that the batches are other ones: see [`SeededStream`].)

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                A checkpoint's folder; or `True` for the last one in `output_dir` that is whole. Checkpoints that are
                not, because the process was stopped while saving them, are passed over with a warning. Or a model on
                the Hub that was pushed with its training state (`hub_strategy="checkpoint"` or `"all_checkpoints"`):
                `"user/model"`, `"user/model@revision"`, `"user/model/checkpoint-500"`.
            trial (`optuna.Trial` or `dict`, *optional*):
                The trial of a hyperparameter search.
            ignore_keys_for_eval (`list[str]`, *optional*):
                Outputs of the model that evaluation leaves out.

        Raises:
            ValueError: if the checkpoint was not saved completely, if one of its files is missing, cut short or
                changed, or if no checkpoint is whole. See [`seal_checkpoint`] to accept one as it is. Or if the one on
                the Hub cannot be fetched. Or if another run is training into `output_dir`.
            OSError: if the disk is too full for a checkpoint (`errno.ENOSPC`). The ones before it are left as they
                are, and the message names the last. A `ChildProcessError` if a data worker has died, a `TimeoutError`
                if none has delivered within `dataloader_timeout`.

        Example:

        ```python
        >>> trainer.train(resume_from_checkpoint=True)
        ```
        """
        lock = RunLock(self.args.output_dir)
        if trial is None:  # Each trial has a folder of its own.
            agreed(lock.acquire, self.args.should_save)
        try:
            if self.args.push_to_hub and self.is_world_process_zero():
                discard_leftovers(self.args.output_dir)
            if resume_from_checkpoint not in (None, False):
                resume_from_checkpoint = agreed(
                    partial(self._checkpoint_to_resume, resume_from_checkpoint), self.args.should_save
                )
            with data_faults_explained(self._way_to_resume):
                return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        except Exception as error:
            # What was saved last is worth the most when the training fails.
            pushes = getattr(self, "push_in_progress", None)
            if pushes is not None and not pushes.is_done():
                logger.warning(f"The training failed ({error!r}); its last checkpoint is still being pushed.")
                pushes.wait_until_done(timeout=PATIENCE_AFTER_FAILURE)
            raise
        finally:
            lock.release()

    def _way_to_resume(self) -> str:
        """How the training goes on, as the end of a message about its end."""
        last = last_checkpoint(self.args.output_dir)
        if last is None:
            return f"There is no checkpoint in {self.args.output_dir} to resume from yet."
        return f"The last whole checkpoint is {last}: `trainer.train(resume_from_checkpoint=True)` goes on from it."

    def _checkpoint_to_resume(self, resume_from_checkpoint: str | bool) -> str:
        on_the_hub = HubCheckpoint.parse(resume_from_checkpoint)
        if on_the_hub is not None:
            return fetch_checkpoint(on_the_hub, self.args.output_dir, self.args.hub_token)
        return checkpoint_to_resume(resume_from_checkpoint, self.args.output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any | None) -> None:
        """As the parent does, but sealed, and pushed and older ones deleted only then: one is whole at any moment."""
        run = self._get_output_dir(trial)
        folder = os.path.join(run, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            unseal_checkpoint(folder)
        self.accelerator.wait_for_everyone()
        with removed_if_disk_is_full(folder, partial(self._no_room_for, folder)):
            with set_aside(self.args, push_to_hub=False, save_total_limit=None):
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                # The parent has saved them as they were set aside.
                with set_aside(self.args, hub_token=None):
                    torch.save(self.args, os.path.join(folder, TRAINING_ARGS_NAME))
                self._save_card(folder, pictures=False)
                seal_checkpoint(folder)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(folder)
        if self.args.should_save:
            delete_old_checkpoints(run, folder, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _no_room_for(self, folder: str, free: int) -> str:
        last = last_checkpoint(os.path.dirname(folder))
        needed = self._least_bytes_of_checkpoint() if last is None else size_of(last)
        return (
            f"The disk is too full for the checkpoint {folder}: it needs {'more than' if last is None else 'about'} "
            f"{size_in_words(needed)}, and {size_in_words(free)} were free. What had been written of it is removed. "
            f"{self._way_to_resume()} Make room first, or keep fewer checkpoints (`save_total_limit`; a new one is "
            "written before an old one goes)."
        )

    def _least_bytes_of_checkpoint(self) -> int:
        """Of model and optimiser in this process; the others, which may be waiting, are not asked for theirs."""
        states = {} if self.args.save_only_model else getattr(self.optimizer, "state", {})
        tensors = [*self.model.parameters(), *(value for state in states.values() for value in state.values())]
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As [`Trainer.save_model`], with the card of the model beside it ([`create_model_card`])."""
        super().save_model(output_dir, _internal_call)
        # A push writes the card of the folder that it pushes.
        pushed = self.args.push_to_hub and output_dir in (None, self.args.output_dir)
        if self.args.should_save and not _internal_call and not pushed:
            self._save_card(self.args.output_dir if output_dir is None else output_dir)

    def _save_card(self, folder: str, pictures: bool = True) -> None:
        """A card that cannot be updated is no reason to lose a training."""
        from hub_cards import CardError

        try:
            self.create_model_card(output_dir=folder, pictures=pictures)
        except CardError as error:
            logger.warning(f"The card was not written: {error}")

    def create_model_card(
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
        *,
        output_dir: str | os.PathLike | None = None,
        pictures: bool = True,
    ) -> None:
        """
        Writes the card of the model, or writes anew what is generated of it: what a person has added stays
        ([`write_model_card`]). Every `save_model` and checkpoint has one. What is told here is remembered for all
        cards that the trainer writes later.

        Args:
            language (`str` or `list[str]`, *optional*):
                Codes of the languages of the texts.
            license (`str`, *optional*):
                Licence of the weights. It is never guessed.
            tags (`str` or `list[str]`, *optional*):
                Tags beside the trainer's own.
            model_name (`str`, *optional*):
                Heading of the card. Defaults to the last part of the Hub id, else of the output folder.
            finetuned_from (`str`, *optional*):
                Hub id of the model that this one started from. Defaults to what the configuration says.
            tasks (`str` or `list[str]`, *optional*):
                The Hub's name of the task. Defaults to that of the model's class.
            dataset_tags (`str` or `list[str]`, *optional*):
                Hub ids of the training data.
            dataset (`str` or `list[str]`, *optional*):
                What the data of training and evaluation are called; or the folder of a data set, whose card names it
                and its licences.
            dataset_args (`str` or `list[str]`, *optional*):
                Configurations of the training data.
            output_dir (`str` or `os.PathLike`, *optional*):
                The folder of the model. Defaults to the run's `output_dir`.
            pictures (`bool`, *optional*, defaults to `True`):
                Whether to draw curves, the weights of negatives, and what texts find, for which the model looks at up
                to 256 pairs.

        Raises:
            CardError: a `ValueError`, if the folder has a card that cannot be read. It is left as it is.

        Example:

        ```python
        >>> trainer.create_model_card(language="en", license="apache-2.0", dataset="path/of/the/data")
        >>> trainer.push_to_hub()
        ```
        """
        told = {
            "language": language,
            "license": license,
            "tags": tags,
            "model_name": model_name,
            "finetuned_from": finetuned_from,
            "tasks": tasks,
            "dataset_tags": dataset_tags,
            "dataset": dataset,
            "dataset_args": dataset_args,
        }
        self._told_to_card = {**self._told_to_card, **{name: value for name, value in told.items() if value}}
        if not self.is_world_process_zero():
            return
        from hub_cards import write_model_card

        from .run_facts import collect_facts

        facts = collect_facts(self, pictures=pictures, **self._told_to_card)
        write_model_card(self.args.output_dir if output_dir is None else output_dir, facts, draw=pictures)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        state = self._training_state()  # of all processes, if it is sharded
        if self.args.should_save:
            save_file(state, os.path.join(output_dir, TRAINING_STATE_NAME))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        from hub_cards.sections import keeping_card

        folder = self.args.output_dir if output_dir is None else output_dir
        # peft writes into the card of the folder, as if that were its own. The arguments are pickled with all that
        # they know, and folders of models are handed on.
        with keeping_card(folder), set_aside(self.args, hub_token=None):
            super()._save(output_dir, None if state_dict is None else with_scalars(state_dict, self._scalars))
        if self.args.should_save:
            save_training_arguments(self.args, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with tensors_only():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_renamed_weights(self.model if model is None else model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        with tensors_only():
            super()._load_best_model()
        load_renamed_weights(self.model, self.state.best_model_checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with arrays_allowed():  # A push may be reading its copy.
            super()._load_rng_state(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with tensors_only():
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._restore_training_state(os.path.join(checkpoint, TRAINING_STATE_NAME))

    def _training_state(self) -> dict[str, torch.Tensor]:
        """Teacher, queue and what is not logged yet, under their own prefixes, as safetensors takes them."""
        return {
            f"{prefix}.{name}": tensor.contiguous().cpu()
            for prefix, part in self._stateful_parts().items()
            for name, tensor in part.state_dict().items()
        }

    def _restore_training_state(self, path: str) -> None:
        # What is not logged yet is no loss worth stopping for, and a stream can be read again.
        if not os.path.exists(path) and set(self._stateful_parts()) <= {"logs", "skipped", "stream"}:
            return
        # Processes on one processor call theirs "cpu:0", which safetensors does not know.
        device = "cpu" if self.args.device.type == "cpu" else str(self.args.device)
        try:
            state = load_file(path, device=device)
        except (FileNotFoundError, SafetensorError) as error:
            raise ValueError(
                f"The momentum teacher and the queue cannot be restored from {path}: {error}. Resume from another "
                "checkpoint, or start a new run from this one's model with `model=<its folder>`."
            ) from error
        for prefix, part in self._stateful_parts().items():
            start = f"{prefix}."
            part.load_state_dict({name.removeprefix(start): t for name, t in state.items() if name.startswith(start)})

    # ------------------------------------------------------------------------------------------------- pushing

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Finds or creates the repository that `hub_model_id` names, or else the name of `output_dir`."""
        if not self.is_world_process_zero():
            return
        self._check_hub_strategy()
        self._repository = HubRepository(
            self.args.hub_model_id or Path(self.args.output_dir).absolute().name,
            token=self.args.hub_token if token is None else token,
            private=self.args.hub_private_repo if private is None else private,
        )
        self.hub_model_id = self._repository.repo_id
        self.push_in_progress = BackgroundPushes(keep_all=self.args.hub_always_push)

    def _check_hub_strategy(self) -> None:
        is_sharded = self.is_deepspeed_enabled or (
            self.is_fsdp_enabled and "SHARDED" in str(self.accelerator.state.fsdp_plugin.state_dict_type)
        )
        if is_sharded and self._pushes_checkpoints():
            raise ValueError(
                f"`hub_strategy={self.args.hub_strategy.value!r}` pushes the training state, which DeepSpeed and "
                "sharded FSDP save as pickles that cannot be shared: take 'every_save' or 'end', or FSDP with the "
                "state dict type FULL_STATE_DICT."
            )

    def _pushes_checkpoints(self) -> bool:
        return self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        *,
        create_pr: bool = False,
        tag: str | None = None,
        **card: Any,
    ) -> CommitInfo | Future | None:
        """
        Saves the model and pushes it in one commit: weights, configuration, processor, the code of the model, the
        card, `training_arguments.yaml` and the licence; see [`files_to_share`]. Either all of it is published or
        nothing.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`):
                The title of the commit, and of the pull request.
            blocking (`bool`, *optional*, defaults to `True`):
                Whether to wait for the end of it. What goes wrong later is logged, and raised by the future's
                `result()`.
            token (`str`, *optional*):
                A token that may write, instead of `hub_token`; of no effect on a repository that is open already.
            revision (`str`, *optional*):
                The branch, made if there is none of that name; or a pull request that is open, `"refs/pr/1"`.
                Defaults to `hub_revision`.
            private (`bool`, *optional*):
                Whether the repository is private if this creates it. Defaults to `hub_private_repo`.
            create_pr (`bool`, *optional*, defaults to `False`):
                Whether to open a pull request, which needs no right to write to the repository.
            tag (`str`, *optional*):
                A tag for the commit, such as `"v1.0"`. (Tags that people search by are the card's: `tags`.)
            card (`Any`):
                What the card says, as [`create_model_card`] takes it: `license`, `language`, `dataset`, `tags` ...

        Returns:
            [`~huggingface_hub.CommitInfo`]: the commit; with `blocking=False` a
            [`Future`](https://docs.python.org/3/library/concurrent.futures.html) of it. `None` in processes that do
            not push.

        Raises:
            ValueError: if options exclude each other, or the tag exists.
            HfHubHTTPError: if the Hub refuses, or does not recover within a few attempts.

        Example:

        ```python
        >>> trainer.push_to_hub(license="apache-2.0", tag="v1.0")
        ```
        """
        revision = self.args.hub_revision if revision is None and not create_pr else revision
        message = commit_message or "End of training"
        check_options(revision, create_pr, tag)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._repository.fetch_card(self.args.output_dir, revision)
        self.create_model_card(**{**card, "tags": self._tags(card.get("tags"))})
        self._finish_current_push()
        staged = stage(self.args.output_dir)
        push = partial(self._repository.push, staged, message, revision=revision, create_pr=create_pr, tag=tag)
        return push() if blocking else self.push_in_progress.submit(f"{message!r}", push, staged)

    def _tags(self, tags: str | list[str] | None) -> list[str]:
        """Tags for the card: the given ones, and those that the model has (`model.add_model_tags`)."""
        given = [tags] if isinstance(tags, str) else tags or []
        return [*given, *(tag for tag in getattr(self.model, "model_tags", None) or [] if tag not in given)]

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Pushes a sealed checkpoint's model in the background, with the training state if the strategy says so."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        name = None
        if self._pushes_checkpoints():
            last_only = self.args.hub_strategy == HubStrategy.CHECKPOINT
            name = LAST_CHECKPOINT if last_only else os.path.basename(checkpoint_folder)
        try:
            self._repository.fetch_card(self.args.output_dir, self.args.hub_revision)
            self._save_card(self.args.output_dir, pictures=False)
            staged = stage(self.args.output_dir, saved=checkpoint_folder, checkpoint=name)
        except OSError as error:  # The checkpoint itself is sealed, and goes out with the next one.
            logger.error(f"The checkpoint {checkpoint_folder} is not pushed, and the training goes on. {error}")
            return
        push = partial(self._push_and_note, staged, self.state.global_step)
        self.push_in_progress.submit(f"The checkpoint {checkpoint_folder}", push, staged)

    def _push_and_note(self, staged: Staged, step: int) -> CommitInfo:
        message = f"Training in progress, step {step}"
        commit = self._repository.push(staged, message, revision=self.args.hub_revision)
        # On a full disk it would only be pushed again.
        with suppress(OSError):
            Path(self.args.output_dir, PUSHED_STEP_NAME).write_text(str(step), encoding="utf-8")
        return commit

    def catch_up_with_pushing(self) -> None:
        """
        Pushes the checkpoint that the training has resumed from, if the process before was stopped before it had:
        there may be none after it.
        """
        folder = os.path.join(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.push_to_hub and self.is_world_process_zero() and os.path.isdir(folder):
            if self._pushed_step() < self.state.global_step:
                self._push_from_checkpoint(folder)

    def _pushed_step(self) -> int:
        try:
            return int(Path(self.args.output_dir, PUSHED_STEP_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
