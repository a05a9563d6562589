# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""The guide: a frozen model that says how alike two pairs are while the model in training cannot tell yet."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import PIL.Image
import torch
from torch import nn
from transformers import AutoModel, AutoProcessor

from .data.collator import GUIDE_COLUMNS
from .data.pairs import clean_captions
from .embedding import dual_encoder, evaluation_mode, feature_encoder, text_options
from .features import add_features, encode_readable, fingerprint_of


class Guide:
    r"""
    A frozen model whose embeddings regulate the contrast at the beginning of training, before the model's own mean
    anything (the paper's section 3.4). Two pairs are as alike as

    - the image of one and the text of the other, for a dual encoder (SACL, CLIP, SigLIP ...): the paper's guide;
    - their captions, for a text embedding model (any encoder of `AutoModel`, mean-pooled, or a
      `SentenceTransformer`);
    - their images, for an image embedding model (any `AutoModel` with `pooler_output` or a class token).

    Args:
        model (`nn.Module`):
            The model. What it embeds is recognised by its methods and its processor.
        processor ([`ProcessorMixin`], tokenizer or image processor, *optional*):
            What prepares its inputs. Not needed for a `SentenceTransformer`, which has its own.

    Raises:
        ValueError: if neither texts nor images can be embedded with what is given.

    Example:

    ```python
    >>> from trainer import Guide, SaclTrainer

    >>> guide = Guide.from_pretrained("openai/clip-vit-base-patch32")
    >>> SaclTrainer(model, args, train_dataset=pairs, processing_class=processor, guide_model=guide).train()
    ```
    """

    # A module's attributes are tensors or modules to a type checker, its methods included.
    model: Any

    def __init__(self, model: nn.Module, processor: Any = None):
        self.model = model
        self.processor = processor
        embedder = dual_encoder(model)
        if hasattr(embedder, "get_image_features") and hasattr(embedder, "get_text_features"):
            self.kind = "image_text"
        elif hasattr(model, "encode") or _is_tokenizer(processor):
            self.kind = "text"
        elif processor is not None and hasattr(processor, "image_mean"):
            self.kind = "image"
        else:
            raise ValueError(
                f"`{type(model).__name__}` with `{type(processor).__name__}` can embed neither texts nor images: give "
                "a dual encoder and its processor, a text encoder and its tokenizer, an image encoder and its image "
                "processor, or a `SentenceTransformer`."
            )

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike, *, revision: str | None = None, trust_remote_code: bool = False
    ) -> "Guide":
        """
        The model of a folder or Hub id with the processor, tokenizer or image processor that lies beside it.

        Args:
            name (`str` or `os.PathLike`):
                The folder or Hub id.
            revision (`str`, *optional*):
                Branch, tag or commit on the Hub.
            trust_remote_code (`bool`, *optional*, defaults to `False`):
                Whether to run code that lies beside the model.

        Raises:
            ValueError: if the model needs code of its own, and that is not trusted.

        Example:

        ```python
        >>> guide = Guide.from_pretrained("openai/clip-vit-base-patch32")
        ```
        """
        options = {"revision": revision, "trust_remote_code": trust_remote_code}
        return cls(AutoModel.from_pretrained(name, **options), AutoProcessor.from_pretrained(name, **options))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of features that this guide gives: one for each modality that it embeds."""
        return tuple(column for column in GUIDE_COLUMNS if column.split("_")[1] in self.kind)

    @torch.inference_mode()
    def encode(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Embeds pairs.

        Args:
            rows (sequence of mappings):
                Rows with `image` (decoded or not) and `caption` or `captions`. The text of a pair with several
                captions is their mean direction.

        Returns:
            `dict[str, torch.Tensor]`: for each of `columns` float32 features of shape `(len(rows), dim)`,
            L2-normalised. A pair whose image cannot be read has NaN, which the collator skips and counts.
        """
        features = {}
        with evaluation_mode(self.model):
            if "image" in self.kind:
                images = [row["image"] for row in rows]
                features["guide_image_embeds"] = encode_readable(images, self._encode_images, "The guide")
            if "text" in self.kind:
                features["guide_text_embeds"] = self._encode_captions(
                    [clean_captions(row.get("captions"), row.get("caption")) or [""] for row in rows]
                )
        return features

    def _encode_images(self, pictures: list[PIL.Image.Image]) -> torch.Tensor:
        if self.kind == "image_text":
            inputs = self.processor(images=pictures, return_tensors="pt")
            return feature_encoder(self.model, "get_image_features")(inputs)
        outputs = self.model(**self.processor(pictures, return_tensors="pt").to(self.model.device))
        pooled = outputs.get("pooler_output")
        embeds = outputs.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)
        return nn.functional.normalize(embeds.float(), dim=-1)

    def _encode_captions(self, captions: list[list[str]]) -> torch.Tensor:
        flat = [caption for texts in captions for caption in texts]
        owner = torch.tensor([row for row, texts in enumerate(captions) for _ in texts])
        embeds = nn.functional.normalize(self._encode_texts(flat).float().cpu(), dim=-1)
        sums = torch.zeros(len(captions), embeds.shape[1]).index_add_(0, owner, embeds)
        return nn.functional.normalize(sums, dim=-1)

    def _encode_texts(self, texts: list[str]) -> torch.Tensor:
        if hasattr(self.model, "encode"):
            return torch.as_tensor(self.model.encode(texts, show_progress_bar=False))
        tokenizer = getattr(self.processor, "tokenizer", self.processor)
        inputs = tokenizer(texts, return_tensors="pt", **text_options(self.model, tokenizer, None))
        if self.kind == "image_text":
            return feature_encoder(self.model, "get_text_features")(inputs)
        inputs = inputs.to(self.model.device)
        tokens = self.model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"][:, :, None]
        return (tokens * mask).sum(dim=1) / mask.sum(dim=1)

    def fingerprint(self) -> str:
        """A hash of the weights and the preprocessing: the same guide, the same features."""
        return fingerprint_of(self.model, self.processor)


def as_guide(given: Guide | nn.Module | str | None, processor: Any = None) -> Guide | None:
    """The guide that a trainer is given: itself, by name, or as a bare model, which is taken to share `processor`."""
    if given is None or isinstance(given, Guide):
        return given
    return Guide.from_pretrained(given) if isinstance(given, str) else Guide(given, processor)


def check_guided(objective: str, dataset: Any) -> None:
    """Raises a ValueError if training pairs have no features of the guide that the objective needs."""
    columns = getattr(dataset, "column_names", None)
    if columns is not None and not set(GUIDE_COLUMNS) & set(columns):
        raise ValueError(
            f"The objective {objective!r} compares pairs by a guide, and there is none: pass `guide_model`, or "
            f"training pairs with {' or '.join(f'`{name}`' for name in GUIDE_COLUMNS)} (`add_guide_features`)."
        )


def _is_tokenizer(processor: Any) -> bool:
    return hasattr(processor, "convert_tokens_to_ids")


def add_guide_features(
    dataset: datasets.Dataset,
    guide: Guide,
    *,
    batch_size: int = 64,
    cache_dir: str | os.PathLike | None = None,
    show_progress: bool = True,
) -> datasets.Dataset:
    """
    Writes the guide's features of every pair as columns of the data set, once; training then pays nothing for it.

    An interrupted call goes on where it stopped, and a repeated one reads what is there (see [`add_features`]).

    Args:
        dataset ([`~datasets.Dataset`]):
            Pairs as [`load_pairs`] gives them.
        guide ([`Guide`]):
            The guide.
        batch_size (`int`, *optional*, defaults to 64):
            Pairs per forward pass.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where features are kept. Defaults to a folder in the cache of `datasets`.
        show_progress (`bool`, *optional*, defaults to `True`):
            Whether to show a progress bar.

    Returns:
        [`~datasets.Dataset`]: the data set with `guide_image_embeds`, `guide_text_embeds`, or both: lists of float32.
        One that has the guide's columns already is returned as it is.

    Raises:
        ValueError: if the data set has no length (features of a stream cannot be kept) or no rows.

    Example:

    ```python
    >>> from trainer import Guide, add_guide_features

    >>> pairs = add_guide_features(pairs, Guide.from_pretrained("openai/clip-vit-base-patch32"))
    ```
    """
    return add_features(
        dataset,
        guide,
        name="guide features",
        batch_size=batch_size,
        cache_dir=cache_dir,
        show_progress=show_progress,
    )
