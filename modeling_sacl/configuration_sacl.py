# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Configurations of the SACL model: image tower, fusion encoder, and the whole (text tower: any encoder's own)."""

import dataclasses
import difflib
import shutil
from pathlib import Path

from huggingface_hub.dataclasses import strict
from transformers import GenerationConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.utils import cached_file


# Written into every checkpoint, so that each class loads where this package is not installed.
AUTO_MAP = {
    "AutoConfig": "configuration_sacl.SaclConfig",
    "AutoModel": "modeling_sacl.SaclModel",
    "AutoModelForPreTraining": "pretraining_sacl.SaclForPreTraining",
    "AutoModelForSequenceClassification": "classification_sacl.SaclForImageTextClassification",
    "AutoModelForVisualQuestionAnswering": "question_answering_sacl.SaclForQuestionAnswering",
    "AutoModelForZeroShotImageClassification": "modeling_sacl.SaclModel",
    "AutoProcessor": "processing_sacl.SaclProcessor",
}
# All that travels with a checkpoint, so that each of its classes can be made of it. Heads that have no Auto class in
# transformers are had by `get_class_from_dynamic_module`.
MODULES = (
    "classification_sacl",
    "configuration_sacl",
    "images_and_text_sacl",
    "loss_sacl",
    "modeling_sacl",
    "patch_selection_sacl",
    "pretraining_sacl",
    "processing_sacl",
    "question_answering_sacl",
    "retrieval_sacl",
    "streamed_loss_sacl",
    "warm_start_sacl",
)

PATCH_SELECTION_GUIDES = ("image", "text")

# What `PreTrainedConfig` itself takes beside the fields of the dataclass.
_INHERITED_ARGUMENTS = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "quantization_config",
    "torch_dtype",
}


def _reject_unknown_arguments(config: PreTrainedConfig, kwargs: dict) -> None:
    """`PreTrainedConfig` turns any keyword into an attribute, so that a misspelt option is silently without effect."""
    allowed = _INHERITED_ARGUMENTS | set(GenerationConfig._get_default_generation_params())
    for name in kwargs:
        if name in allowed or name.startswith("_"):
            continue
        fields = [field.name for field in dataclasses.fields(config)]
        close = difflib.get_close_matches(name, fields, n=1)
        hint = f" Did you mean `{close[0]}`?" if close else f" It has: {', '.join(fields)}."
        raise TypeError(f"`{type(config).__name__}` has no option `{name}`.{hint}")


def _check_sizes(config: PreTrainedConfig, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"`{name}` must be at least 1, got {getattr(config, name)}.")


def _check_dropout(config: PreTrainedConfig) -> None:
    for name in ("hidden_dropout", "attention_dropout"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"`{name}` must be in [0, 1), got {getattr(config, name)}.")


def _check_heads(config: PreTrainedConfig) -> None:
    if config.hidden_size % config.num_attention_heads != 0:
        raise ValueError(
            f"`hidden_size` ({config.hidden_size}) must be a multiple of `num_attention_heads` "
            f"({config.num_attention_heads})."
        )


def _check_patch_selection(config: "SaclVisionConfig") -> None:
    if config.patch_selection_guide not in PATCH_SELECTION_GUIDES:
        raise ValueError(
            f"`patch_selection_guide` must be one of {', '.join(map(repr, PATCH_SELECTION_GUIDES))}, got "
            f"{config.patch_selection_guide!r}."
        )
    layers, depth = config.patch_selection_layers, config.num_hidden_layers
    if layers is not None and (layers != sorted(set(layers)) or not layers or layers[0] < 1 or layers[-1] > depth):
        raise ValueError(
            f"`patch_selection_layers` must name layers between 1 and `num_hidden_layers` ({depth}), each once and in "
            f"ascending order, got {layers}; for no selection set `patch_keep_rate=1.0`."
        )
    layers, rates = config.resolved_patch_selection_layers, config.resolved_patch_keep_rates
    if not all(0 < rate <= 1 for rate in rates):
        raise ValueError(
            f"`patch_keep_rate` must be in (0, 1], where 1 keeps all patches; got {config.patch_keep_rate}."
        )
    if len(rates) != len(layers):
        raise ValueError(
            f"`patch_keep_rate` has {len(rates)} values for the {len(layers)} `patch_selection_layers` {layers}: give "
            "one for each, or a single number for all."
        )


@strict
class SaclVisionConfig(PreTrainedConfig):
    r"""
    Configuration of [`SaclVisionModel`], a pre-norm vision transformer that can also be CLIP's.

    The defaults give ALBEF's ViT-B/16 at 256 pixels. CLIP's image tower is `pre_layernorm=True`, `patch_bias=False`,
    `hidden_act="quick_gelu"`, `layer_norm_eps=1e-5`.

    Args:
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the tokens.
        intermediate_size (`int`, *optional*, defaults to 3072):
            Width of the feed-forward layers.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Number of layers.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Number of attention heads of each layer.
        num_channels (`int`, *optional*, defaults to 3):
            Number of channels of the images.
        image_size (`int`, *optional*, defaults to 256):
            Height and width of the images in pixels. Other sizes need `interpolate_pos_encoding=True` in the forward.
        patch_size (`int`, *optional*, defaults to 16):
            Height and width of a patch in pixels; divides `image_size`.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the feed-forward layers.
        layer_norm_eps (`float`, *optional*, defaults to 1e-6):
            Epsilon of the layer norms.
        hidden_dropout (`float`, *optional*, defaults to 0.0):
            Dropout after the embeddings, the attention and the feed-forward layers.
        attention_dropout (`float`, *optional*, defaults to 0.0):
            Dropout of the attention probabilities.
        attention_bias (`bool`, *optional*, defaults to `True`):
            Whether the query, key and value projections have a bias.
        patch_bias (`bool`, *optional*, defaults to `True`):
            Whether the patch convolution has a bias.
        pre_layernorm (`bool`, *optional*, defaults to `False`):
            Whether a layer norm stands between the embeddings and the first layer, as in CLIP.
        patch_keep_rate (`float` or `list[float]`, *optional*, defaults to 1.0):
            Share of the patch tokens that a selection keeps, in (0, 1]: one for all selection layers, or one for each.
            1.0 is no selection; TRIPS uses 0.7. [`~SaclPreTrainedModel.set_patch_selection`] changes it later.
        patch_selection_layers (`list[int]`, *optional*):
            The layers that select, counted from 1. Defaults to the 5th and 10th of 12, as in TRIPS, and to layers at
            the same share of another depth.
        patch_selection_guide (`str`, *optional*, defaults to `"image"`):
            What ranks the patches. `"image"`: the image's own class token, so that an image has the same tokens beside
            every text. `"text"`: the class token of the text, as in TRIPS; it acts where image and text are fused,
            never on `image_embeds`, and needs towers of one width.
        patch_fusion_token (`bool`, *optional*, defaults to `True`):
            Whether the dropped patch tokens are fused into one; without it they are lost.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights.

    Example:

    ```python
    >>> from modeling_sacl import SaclVisionConfig, SaclVisionModel

    >>> model = SaclVisionModel(SaclVisionConfig(hidden_size=64, num_attention_heads=2, num_hidden_layers=2))
    ```
    """

    model_type = "sacl_vision_model"
    base_config_key = "vision_config"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 256
    patch_size: int = 16
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    hidden_dropout: int | float = 0.0
    attention_dropout: int | float = 0.0
    attention_bias: bool = True
    patch_bias: bool = True
    pre_layernorm: bool = False
    patch_keep_rate: int | float | list[int | float] = 1.0
    patch_selection_layers: list[int] | None = None
    patch_selection_guide: str = "image"
    patch_fusion_token: bool = True
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        _reject_unknown_arguments(self, kwargs)
        super().__post_init__(**kwargs)
        self.validate_architecture()

    def validate_architecture(self):
        """Impossible shapes fail here, not in the first forward. `@strict` repeats this when a config is saved."""
        _check_sizes(
            self,
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_channels",
            "image_size",
            "patch_size",
        )
        _check_dropout(self)
        _check_heads(self)
        if self.image_size % self.patch_size != 0:
            raise ValueError(
                f"`image_size` ({self.image_size}) must be a multiple of `patch_size` ({self.patch_size}); otherwise "
                "the right and lower border of every image would be cut off."
            )
        _check_patch_selection(self)

    @property
    def resolved_patch_selection_layers(self) -> list[int]:
        """The layers that select, counted from 1, also where they are left to their default."""
        if self.patch_selection_layers is not None:
            return self.patch_selection_layers
        return sorted({max(1, int(self.num_hidden_layers * layer / 12 + 0.5)) for layer in (5, 10)})

    @property
    def resolved_patch_keep_rates(self) -> list[int | float]:
        """The keep rate of each layer that selects."""
        rates = self.patch_keep_rate
        return rates if isinstance(rates, list) else [rates] * len(self.resolved_patch_selection_layers)

    @property
    def selects_patches(self) -> bool:
        """Whether any layer drops patches."""
        return any(rate < 1 for rate in self.resolved_patch_keep_rates)

    @property
    def selects_patches_by_text(self) -> bool:
        """Whether texts choose the patches that are dropped, where they are fused with an image."""
        return self.selects_patches and self.patch_selection_guide == "text"


@strict
class SaclFusionConfig(PreTrainedConfig):
    r"""
    Configuration of [`SaclFusionModel`], the encoder in which text tokens attend to one another and to the image.

    Inside a [`SaclConfig`], whatever is not given is taken from the text tower.

    Args:
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the tokens: that of the text tower.
        encoder_hidden_size (`int`, *optional*, defaults to 768):
            Width of the image tokens that the cross-attention reads: that of the image tower.
        intermediate_size (`int`, *optional*, defaults to 3072):
            Width of the feed-forward layers.
        num_hidden_layers (`int`, *optional*, defaults to 6):
            Number of layers, each with self-attention, cross-attention and feed-forward.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Number of attention heads of each layer.
        hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation of the feed-forward layers.
        layer_norm_eps (`float`, *optional*, defaults to 1e-12):
            Epsilon of the layer norms.
        hidden_dropout (`float`, *optional*, defaults to 0.1):
            Dropout after the attention and the feed-forward layers.
        attention_dropout (`float`, *optional*, defaults to 0.1):
            Dropout of the attention probabilities.
        attention_bias (`bool`, *optional*, defaults to `True`):
            Whether the query, key and value projections have a bias.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights.
    """

    model_type = "sacl_fusion_model"
    base_config_key = "fusion_encoder_config"

    hidden_size: int = 768
    encoder_hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout: int | float = 0.1
    attention_dropout: int | float = 0.1
    attention_bias: bool = True
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        _reject_unknown_arguments(self, kwargs)
        super().__post_init__(**kwargs)
        self.validate_architecture()

    def validate_architecture(self):
        """Impossible shapes fail here, not in the first forward. `@strict` repeats this when a config is saved."""
        _check_sizes(
            self,
            "hidden_size",
            "encoder_hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
        )
        _check_dropout(self)
        _check_heads(self)


@strict
class SaclConfig(PreTrainedConfig):
    r"""
    Configuration of [`SaclModel`] and its heads: an image tower, a text tower, and a fusion encoder above both.

    The defaults are the base model of SACL and ALBEF: ViT-B/16 at 256 pixels, the first 6 layers of BERT-base as text
    tower, 6 fusion layers, embeddings of 256 dimensions, temperature 0.07.

    Args:
        text_config (`dict` or [`PreTrainedConfig`], *optional*):
            Configuration of the text tower: any encoder that `AutoModel` knows (BERT, MiniLM, RoBERTa, XLM-R ...). A
            dict is read by its `model_type`, `"bert"` if it has none. Defaults to BERT-base with 6 layers.
        vision_config (`dict` or [`SaclVisionConfig`], *optional*):
            Configuration of the image tower.
        fusion_encoder_config (`dict` or [`SaclFusionConfig`], *optional*):
            Configuration of the fusion encoder. What it leaves out is taken from the text tower.
        projection_dim (`int`, *optional*, defaults to 256):
            Width of `image_embeds` and `text_embeds`.
        logit_scale_init_value (`float`, *optional*, defaults to 2.6592600369327783):
            Initial value of the logarithm of the inverse temperature, `log(1 / 0.07)`.
        logit_bias_init_value (`float`, *optional*):
            Gives the model a learned bias of its logits with this initial value, which the sigmoid loss of SigLIP
            needs (there -10, with `logit_scale_init_value=math.log(10)`). Defaults to none: a softmax cancels it.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of the initial weights of projections and heads.
        tie_word_embeddings (`bool`, *optional*, defaults to `True`):
            Whether the masked-language head predicts with the text tower's word embeddings.
        num_answer_decoder_layers (`int`, *optional*):
            Layers of the decoder of [`SaclForQuestionAnswering`]; as many as the fusion encoder has, if not given.
        share_answer_word_embeddings (`bool`, *optional*, defaults to `True`):
            Whether the decoder of [`SaclForQuestionAnswering`] reads the text tower's word embeddings. Without it, it
            has its own, as in ALBEF, and the masked-language head predicts with those.

    Example:

    ```python
    >>> from modeling_sacl import SaclConfig, SaclForPreTraining

    >>> config = SaclConfig(
    ...     text_config={"model_type": "bert", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    ...     vision_config={"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64},
    ...     fusion_encoder_config={"num_hidden_layers": 1},
    ... )
    >>> model = SaclForPreTraining(config)
    ```
    """

    model_type = "sacl"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(AutoConfig, model_type="bert", init_kwargs={"num_hidden_layers": 6}),
        "vision_config": SaclVisionConfig,
        "fusion_encoder_config": SaclFusionConfig,
    }
    _auto_class = "AutoConfig"

    text_config: dict | PreTrainedConfig | None = None
    vision_config: dict | SaclVisionConfig | None = None
    fusion_encoder_config: dict | SaclFusionConfig | None = None
    projection_dim: int = 256
    logit_scale_init_value: int | float = 2.6592600369327783
    logit_bias_init_value: int | float | None = None
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    num_answer_decoder_layers: int | None = None
    share_answer_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        _reject_unknown_arguments(self, kwargs)
        for key in ("text_config", "vision_config"):
            subconfig, kwargs = self.sub_configs_defaults[key].create_subconfig(key, getattr(self, key), **kwargs)
            setattr(self, key, subconfig)
        self._check_text_config()
        if not isinstance(self.fusion_encoder_config, PreTrainedConfig):
            self.fusion_encoder_config = {**self._derived_fusion_options(), **(self.fusion_encoder_config or {})}
        super().__post_init__(**kwargs)
        self.validate_architecture()

    def _check_text_config(self) -> None:
        """The text tower is anybody's configuration: what is built on it must be there."""
        text = self.text_config
        missing = [
            name for name in ("vocab_size", "hidden_size", "num_attention_heads") if getattr(text, name, None) is None
        ]
        if missing or text.is_encoder_decoder:
            raise ValueError(
                f"`text_config` of type `{text.model_type}` "
                + (f"has no {', '.join(f'`{name}`' for name in missing)}" if missing else "is an encoder-decoder")
                + ": give the configuration of a text encoder, such as BERT's."
            )

    def _derived_fusion_options(self) -> dict:
        """The fusion encoder continues the text tower, so it has the text tower's shape unless told otherwise."""
        text = self.text_config
        options = {
            "hidden_size": text.hidden_size,
            "encoder_hidden_size": self.vision_config.hidden_size,
            "num_attention_heads": text.num_attention_heads,
            "intermediate_size": getattr(text, "intermediate_size", 4 * text.hidden_size),
        }
        same_meaning = {"hidden_dropout_prob": "hidden_dropout", "attention_probs_dropout_prob": "attention_dropout"}
        for theirs, ours in {**same_meaning, "hidden_act": "hidden_act", "layer_norm_eps": "layer_norm_eps"}.items():
            if isinstance(getattr(text, theirs, None), str | float | int):
                options[ours] = getattr(text, theirs)
        return options

    def validate_architecture(self):
        """Towers that do not fit together fail here, not in the first forward. `@strict` repeats this at saving."""
        _check_sizes(self, "projection_dim")
        if self.num_answer_decoder_layers is not None:
            _check_sizes(self, "num_answer_decoder_layers")
        if getattr(self.text_config, "is_decoder", False):
            raise ValueError(
                "The text tower must be an encoder, since its first token stands for the whole text: set "
                "`is_decoder=False` in `text_config`."
            )
        if self.fusion_encoder_config.hidden_size != self.text_config.hidden_size:
            raise ValueError(
                f"The fusion encoder reads the text tower's tokens, so its `hidden_size` "
                f"({self.fusion_encoder_config.hidden_size}) must be that of the text tower ("
                f"{self.text_config.hidden_size})."
            )
        if self.fusion_encoder_config.encoder_hidden_size != self.vision_config.hidden_size:
            raise ValueError(
                f"The fusion encoder attends to the image tokens, so its `encoder_hidden_size` "
                f"({self.fusion_encoder_config.encoder_hidden_size}) must be the `hidden_size` of the image tower "
                f"({self.vision_config.hidden_size})."
            )
        vision = self.vision_config
        if vision.selects_patches_by_text and vision.hidden_size != self.text_config.hidden_size:
            raise ValueError(
                '`patch_selection_guide="text"` puts the text\'s class token through query projections of the image '
                f"tower, so the `hidden_size` of the text tower ({self.text_config.hidden_size}) must be that of the "
                f"image tower ({vision.hidden_size}): choose towers of one width, or let the image guide the "
                'selection, `patch_selection_guide="image"`.'
            )

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Like [`~PreTrainedConfig.save_pretrained`], with the code of every class and an `auto_map` that names it."""
        copied = self._copy_code(Path(save_directory))
        self.auto_map = {name: place for name, place in AUTO_MAP.items() if place.split(".")[0] in copied}
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _copy_code(self, folder: Path) -> list[str]:
        """Copies the modules of the model into a folder; the names of those that were found."""
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for module in MODULES:
            file = Path(__file__).with_name(f"{module}.py")
            if not file.exists() and self.name_or_path:
                # Of code that came with a checkpoint, only what was asked for is here; the rest is where it came from.
                fetched = cached_file(
                    self.name_or_path,
                    file.name,
                    _raise_exceptions_for_missing_entries=False,
                    _raise_exceptions_for_gated_repo=False,
                    _raise_exceptions_for_connection_errors=False,
                )
                file = file if fetched is None else Path(fetched)
            if file.exists():
                target = folder / f"{module}.py"
                if not (target.exists() and target.samefile(file)):
                    shutil.copyfile(file, target)
                found.append(module)
        return found


__all__ = ["SaclConfig", "SaclFusionConfig", "SaclVisionConfig"]
