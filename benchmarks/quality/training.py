# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""One run of the benchmark: two heads on locked towers, trained by [`SaclTrainer`] with an objective and a seed."""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from model import Heads, HeadsConfig
from torch import nn
from towers import load_emoji, load_features, load_swapped_names
from transformers.trainer_callback import PrinterCallback

from trainer import SaclTrainer, SaclTrainingArguments
from trainer.data import pair_ids_tensor
from trainer.data.seeding import ROW_SEED


@dataclass(frozen=True)
class Run:
    """
    What one training is, down to the seed: equal runs give equal numbers.

    Args:
        objective (`str`):
            What `SaclTrainingArguments` calls it.
        settings (mapping, *optional*):
            Other training arguments.
        guide (`str`, *optional*):
            `"text"` (MiniLM), `"image"` (EfficientNet-Lite0), `"image_text"` (heads that InfoNCE has trained on
            the pictures of one vendor, of which each pair is a concept of its own) or none.
        seed (`int`, *optional*, defaults to 0):
            Of the weights, the order and the captions.
        batch_size (`int`, *optional*, defaults to 256).
        examples (`int`, *optional*, defaults to 102400):
            How many pairs are seen: 400 steps of 256.
        data_share (`float`, *optional*, defaults to 1.0):
            Share of the emoji that is trained on.
        adversarial (`bool`, *optional*, defaults to `False`):
            Whether batches are made of few subgroups.
        vendor (`str`, *optional*):
            Trains on the pictures of this vendor alone.
    """

    objective: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    guide: str | None = None
    seed: int = 0
    batch_size: int = 256
    examples: int = 102_400
    data_share: float = 1.0
    adversarial: bool = False
    vendor: str | None = None

    @property
    def steps(self) -> int:
        return max(1, round(self.examples / self.batch_size))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class FeatureCollator:
    """
    Rows by number to a batch of features. A row draws its name or its keywords anew each time, by its seed.

    Args:
        features (`dict[str, torch.Tensor]`):
            What [`load_features`] returns.
        kinds (`frozenset[str]`):
            What batches have beside the pairs: `"negative"` names with swapped words, the two `"further"` captions of
            a row, or the `"view"` of each pair, its picture augmented and the caption that was not drawn.
        swapped (`dict[str, torch.Tensor]`, *optional*):
            What [`load_swapped_names`] returns, for `"negative"`.
    """

    def __init__(
        self,
        features: Mapping[str, torch.Tensor],
        kinds: frozenset[str] = frozenset(),
        swapped: Mapping[str, torch.Tensor] | None = None,
    ):
        self.features, self.kinds, self.swapped = features, kinds, swapped
        self.captions = torch.stack([features["names"], features["keywords"], features["sentences"]])

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        numbers = torch.tensor([row["row"] for row in rows])
        drawn = torch.tensor([row.get(ROW_SEED, 0) % 2 for row in rows])
        batch = {
            "pixel_values": self.features["images"][numbers],
            "input_ids": self.captions[drawn, numbers],
            "pair_ids": torch.tensor([row["pair_id"] for row in rows]),
        }
        for column in ("guide_image_embeds", "guide_text_embeds"):
            if column in rows[0]:
                batch[column] = torch.stack([torch.from_numpy(row[column]) for row in rows])
        if "view" in self.kinds:
            batch["view_pixel_values"] = self.features["augmented_images"][numbers]
            batch["view_input_ids"] = self.captions[1 - drawn, numbers]
        if "further" in self.kinds:
            batch["further_input_ids"] = torch.stack([self.captions[1 - drawn, numbers], self.captions[2, numbers]], 1)
        if "negative" in self.kinds:
            batch["negative_input_ids"] = self.swapped["features"][numbers]
            # A further text with the id of a caption does not count.
            batch["caption_ids"] = numbers
            batch["negative_caption_ids"] = torch.where(self.swapped["exist"][numbers], -1, numbers)
        return batch


def make_collator(run: Run, features: Mapping[str, torch.Tensor], folder: Path) -> FeatureCollator:
    """The collator with what a run reads beside the pairs."""
    kinds = {"negclip": "negative", "one_to_k": "further"}.get(run.objective)
    if run.settings.get("unimodal_self_supervision_weight"):
        kinds = "view"
    swapped = load_swapped_names(folder / "features") if kinds == "negative" else None
    return FeatureCollator(features, frozenset() if kinds is None else frozenset({kinds}), swapped)


class SubgroupSampler(torch.utils.data.Sampler[int]):
    """Batches of alike pairs: blocks of one subgroup, in random order."""

    def __init__(self, subgroups: list[str], seed: int, block_size: int = 64):
        self.subgroups, self.seed, self.block_size, self.epoch = subgroups, seed, block_size, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.subgroups)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        order = torch.randperm(len(self.subgroups), generator=generator).tolist()
        together = sorted(order, key=lambda row: self.subgroups[row])
        blocks = [together[start : start + self.block_size] for start in range(0, len(together), self.block_size)]
        for block in torch.randperm(len(blocks), generator=generator).tolist():
            yield from blocks[block]


class BenchmarkTrainer(SaclTrainer):
    """[`SaclTrainer`] with batches of alike pairs, if it is given their sampler."""

    sampler: SubgroupSampler | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int] | None:
        return super()._get_train_sampler(train_dataset) if self.sampler is None else self.sampler


def train(run: Run, folder: Path, image_size: int | None = None) -> tuple[Heads, dict[str, Any]]:
    """The trained heads, and what the training said: processor seconds, and the last of the logs."""
    features = load_features("train", folder / "features", image_size)
    pairs = training_pairs(run, features, folder)
    torch.manual_seed(run.seed)
    model = Heads(HeadsConfig(sigmoid=run.objective == "siglip"))
    trainer = BenchmarkTrainer(
        model=model,
        args=make_arguments(run, len(pairs), folder),
        train_dataset=pairs,
        data_collator=make_collator(run, features, folder),
    )
    if run.adversarial:
        subgroups = load_emoji("train")["subgroup"]
        trainer.sampler = SubgroupSampler([subgroups[row] for row in pairs["row"]], run.seed)
    return model, fit(trainer)


def make_arguments(run: Run, num_pairs: int, folder: Path, **changes: Any) -> SaclTrainingArguments:
    """The training arguments of a run; of few pairs even a batch that is not full is taken."""
    return SaclTrainingArguments(
        # Nothing is saved, but no two trainings share a folder.
        output_dir=str(folder / "trainer" / str(os.getpid())),
        objective=run.objective,
        max_steps=run.steps,
        per_device_train_batch_size=run.batch_size,
        dataloader_drop_last=num_pairs >= run.batch_size,
        seed=run.seed,
        use_cpu=True,
        logging_steps=max(1, run.steps // 10),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **{"momentum": None, "learning_rate": 1e-3, **run.settings, **changes},
    )


def fit(trainer: SaclTrainer) -> dict[str, Any]:
    """Trains, and says how many processor seconds it took and what was logged last."""
    # Of the results only the records are wanted, not a line for each tenth of every training.
    trainer.remove_callback(PrinterCallback)
    started = time.process_time()
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "itc_loss" in entry]
    trainer.model.eval()
    return {"processor_seconds": time.process_time() - started, "logs": logs[-1] if logs else {}}


def training_pairs(run: Run, features: Mapping[str, torch.Tensor], folder: Path) -> Dataset:
    """Row numbers and pair ids of the training split, or of a share of its emoji, with the features of the guide."""
    emoji = load_emoji("train")
    ids = pair_ids_tensor(emoji["emoji_id"])
    rows = torch.arange(len(ids))
    if run.vendor is not None:
        rows = torch.tensor([row for row, vendor in enumerate(emoji["vendor"]) if vendor == run.vendor])
    if run.data_share < 1:
        # Whole emoji, and of a larger share all that is in a smaller one.
        distinct = ids.unique()
        order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(run.seed))
        kept = distinct[order[: round(run.data_share * len(distinct))]]
        rows = rows[torch.isin(ids[rows], kept)]
    columns = {"row": rows.tolist(), "pair_id": ids[rows].tolist()}
    guide = guide_features(run.guide, features, folder)
    return Dataset.from_dict({**columns, **{name: value[rows].numpy() for name, value in guide.items()}}).with_format(
        "numpy"
    )


def guide_features(kind: str | None, features: Mapping[str, torch.Tensor], folder: Path) -> dict[str, torch.Tensor]:
    """What a guide says of every training pair: unit vectors, of the name and not of the caption that is drawn."""
    if kind is None:
        return {}
    if kind == "text":
        return {"guide_text_embeds": features["names"]}
    if kind == "image":
        centred = features["images"] - features["images"].mean(dim=0)
        return {"guide_image_embeds": nn.functional.normalize(centred, dim=-1)}
    if kind == "image_text":
        model = trained_guide(folder)
        with torch.inference_mode():
            return {
                "guide_image_embeds": model.get_image_features(features["images"]),
                "guide_text_embeds": model.get_text_features(features["names"]),
            }
    raise ValueError(f"A guide is 'text', 'image', 'image_text' or none, got {kind!r}.")


def trained_guide(folder: Path, examples: int = Run.examples) -> Heads:
    """The paper's guide: heads that InfoNCE has trained on clean pairs, here those of one vendor. Kept in `folder`."""
    kept = folder / "guide"
    if not (kept / "config.json").exists():
        model, _ = train(Run("infonce", vendor="noto", seed=1_000, examples=examples), folder)
        model.save_pretrained(kept)
    return Heads.from_pretrained(kept).eval()
