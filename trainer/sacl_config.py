# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Training arguments of [`SaclTrainer`]."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from transformers import TrainingArguments

from .objectives import OBJECTIVES
from .terms import TERMS


# The guide's share over the progress of its hand-over, from 0 to 1.
GUIDE_SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "constant": lambda progress: 1.0,
}


@dataclass(repr=False)  # That of the parent leaves out tokens.
class SaclTrainingArguments(TrainingArguments):
    r"""
    Arguments of [`SaclTrainer`]: those of [`TrainingArguments`], and the objective's.

    > [!NOTE]
    > These arguments have other defaults than in [`TrainingArguments`]: `learning_rate` (1e-4 instead of 5e-5),
    > `weight_decay` (0.02 instead of 0), `lr_scheduler_type` (`"cosine"` instead of `"linear"`), `warmup_steps` (0.1,
    > a share of the training, instead of 0), `remove_unused_columns` (`False`: the collator reads the raw columns),
    > `logging_nan_inf_filter` (`False`: a loss that is not finite is no average of its neighbours, see `nan_policy`),
    > `label_names` (none: the labels are the pairs themselves), `eval_on_start`-style metrics need no setting:
    > `eval_loss` and retrieval metrics come with every evaluation.

    A *share or steps* argument is a share of all optimisation steps when it is below 1, and a number of steps from 1
    on, like `warmup_steps` in [`TrainingArguments`].

    Args:
        objective (`str`, *optional*, defaults to `"sacl"`):
            The contrastive objective: `"sacl"` (weights regulated by similarity), `"infonce"` (CLIP's), `"albef"`
            (targets softened by the momentum teacher), `"sacl_distilled"` (SACL's weights and ALBEF's targets),
            `"dcl"` (no positive in the denominator), `"debiased"` (negatives corrected for positives among them),
            `"hcl"` (hard negatives count more), `"gist"` (what a guide finds closer than the pair is no negative),
            `"xclr"` (targets from a guide's similarities of texts), `"cwcl"` (every candidate a positive by its
            similarity within a modality), `"softclip"` (targets shared with similar pairs of the same modality),
            `"siglip"` (each pair judged by itself, for models with a `logit_bias`), `"filter"` (similar negatives
            removed), `"multi_positive"` (positives of one pair id do not compete with one another), `"graded"` (ours:
            SACL, and a second contrast at a warm temperature that learns how right a negative is), `"negclip"`
            (captions with swapped words are further negatives) or `"one_to_k"` (several captions of each image at
            once).
        regulation_strength (`float`, *optional*, defaults to 1.0):
            How strongly similar negatives are spared, >= 0: 1 is the paper's formula, 0 is InfoNCE.
        regulation_warmup (`float`, *optional*, defaults to 0.1):
            Share or steps over which the strength rises linearly from 0, since an early model knows little of
            similarity.
        filter_threshold (`float`, *optional*):
            In (0, 1): remove negatives whose weight is under it, instead of regulating. For `"filter"`, which does
            nothing else, 0.3 if it is not set.
        regulate_hard_negatives (`bool`, *optional*, defaults to `True`):
            Whether the hard negatives of image-text matching are drawn with the regulation weights too. A false
            negative labelled "no match" is the same mistake again.
        hard_negative_warmup (`float`, *optional*, defaults to 0.0):
            Share or steps over which the negatives of image-text matching turn hard: at first they are drawn evenly,
            in the end all by the contrast. 0 draws hard ones from the start, as the papers do; a fusion encoder that
            starts from random weights may then never begin to learn.
        regulation_quantile (`float`, *optional*):
            In (0, 1): regulate only above this quantile of an anchor's similarities, for `"sacl"` and `"graded"`. Not
            of the paper.
        graded_weight (`float`, *optional*, defaults to 0.5):
            Weight of the second contrast of `"graded"`, >= 0.
        graded_temperature (`float`, *optional*, defaults to 0.15):
            Its temperature, > 0, which is not learned.
        debiased_prior (`float`, *optional*, defaults to 0.1):
            Share of the negatives, in [0, 0.99], that are taken to be positives in truth: for `"debiased"` and
            `"hcl"`.
        hard_negative_concentration (`float`, *optional*, defaults to 1.0):
            How much more hard negatives count, >= 0: the beta of `"hcl"`.
        guide_margin (`float`, *optional*, defaults to 0.0):
            How much less similar than the pair itself, by cosines of the guide, a negative may be and is still left
            out by `"gist"`; in [-2, 2]. A guide of one modality finds every pair fully alike, and needs a margin
            above 0 to leave anything out.
        target_temperature (`float`, *optional*, defaults to 0.1):
            Temperature of the softmax that makes targets of similarities, > 0: for `"xclr"`, `"softclip"` and
            `"graded"`.
        captions_per_image (`int`, *optional*, defaults to 2):
            How many captions of each image `"one_to_k"` compares at once, >= 2, when [`SaclTrainer`] makes the
            collator. A row with fewer repeats them.
        momentum (`float`, *optional*, defaults to 0.995):
            Momentum of the teacher, in [0, 1). `None` trains without one: less memory and time, and the model's own
            detached similarity regulates.
        distillation_weight (`float`, *optional*, defaults to 0.4):
            Share of the teacher in soft targets, in [0, 1]: of masked language modeling, and of the contrast for
            `"albef"` and `"sacl_distilled"`. Without a teacher it is without effect, but for `"softclip"`, where it
            is the share of similar pairs in the target.
        distillation_warmup (`float`, *optional*, defaults to 0.05):
            Share or steps over which `distillation_weight` rises linearly from 0.
        teacher_bf16 (`bool`, *optional*, defaults to `False`):
            Whether the teacher computes in bfloat16 even where the model does not. Its weights stay as they are: in
            bfloat16 they would be too coarse to move.
        queue_size (`int`, *optional*, defaults to 0):
            Number of past pairs kept as further candidates; any number. ALBEF keeps 65,536 for millions of pairs.
        guide_schedule (`str`, *optional*, defaults to `"linear"`):
            How the share of the guide's similarity falls from 1 to 0, when there is a guide: `"linear"`, `"cosine"`,
            or `"constant"`, which keeps the guide's alone throughout.
        guide_duration (`float`, *optional*, defaults to 1.0):
            Share of the training, in (0, 1], after which the guide has handed over.
        lock_vision (`bool`, *optional*, defaults to `False`):
            Whether to lock the image tower: it stays as it is, and the text tower learns to read it ("LiT", Zhai et
            al., 2022, [arXiv 2111.07991](https://huggingface.co/papers/2111.07991)). Projections, temperature, fusion
            encoder and heads learn on.
        lock_text (`bool`, *optional*, defaults to `False`):
            Whether to lock the text tower.
        cache_locked_towers (`bool`, *optional*, defaults to `False`):
            Whether to ask locked towers once for each pair, before training, instead of in every epoch
            ([`add_tower_features`]; columns that the data set has already are used). With `lock_vision` images are
            then neither decoded nor augmented in training. Not with `itm_weight` or `mlm_weight` on a model with these
            heads; with `lock_text` only for pairs of one caption each. Evaluation asks the towers themselves.
        itc_weight (`float`, *optional*, defaults to 1.0):
            Weight of the image-text contrastive loss.
        itm_weight (`float`, *optional*, defaults to 1.0):
            Weight of the image-text matching loss; 0 leaves it out. Only for models with that head.
        mlm_weight (`float`, *optional*, defaults to 1.0):
            Weight of the masked language modeling loss; 0 leaves it out. Only for models with that head.
        mlm_probability (`float`, *optional*, defaults to 0.15):
            Share of the tokens that is masked, when [`SaclTrainer`] makes the collator.
        alignment_uniformity_weight (`float`, *optional*, defaults to 0.0):
            Weight of [`~trainer.terms.AlignmentUniformityTerm`], which closes the gap between images and texts.
        unimodal_self_supervision_weight (`float`, *optional*, defaults to 0.0):
            Weight of [`~trainer.terms.UnimodalSelfSupervisionTerm`], which weakens backdoors in the data (CleanCLIP).
            A data collator of your own has to make second views (`PairCollator(..., second_views=True)`). Not with
            `cache_locked_towers`.
        off_diagonal_weight (`float`, *optional*, defaults to 0.0):
            Weight of [`~trainer.terms.OffDiagonalTerm`], which keeps what a model knew before it learns on.
        off_diagonal_temperature (`float`, *optional*, defaults to 1.0):
            Temperature of the similarities that it keeps, > 0.
        mixup_weight (`float`, *optional*, defaults to 0.0):
            Weight of [`~trainer.terms.MixupTerm`], in which a mixture of two pairs belongs to both. Not with
            `cache_locked_towers`.
        mixup_alpha (`float`, *optional*, defaults to 0.15):
            The parameter of the Beta distribution that the shares of a mixture are drawn from, > 0: at 1 every share
            is as likely as any, below it one of the two pairs mostly has nearly all.
        patch_selection_warmup (`float`, *optional*, defaults to 0.0):
            Share or steps over which the image tower comes to drop patches, in ten steps from none to what the model's
            configuration says (`SaclVisionConfig.patch_keep_rate`). Without effect if that keeps all.
        contrastive_chunk_size (`int`, *optional*):
            Gradient caching: batches larger than this run through the model in chunks of this size, twice, while the
            contrast still sees the whole of `per_device_train_batch_size`. The activations of one chunk live at a
            time. (`gradient_accumulation_steps` saves memory too, but adds no negatives.)
        loss_block_size (`int`, *optional*):
            Computes the contrastive loss in blocks of this many anchors and candidates (1024 suits a CPU, a GPU may
            want more), twice, instead of holding matrices of all of them: memory grows with batch plus queue, not
            batch times queue. The loss is the same. Objectives that must see all candidates of an anchor at once, and
            a `regulation_quantile`, take blocks of this many anchors with all candidates.
        local_loss (`bool`, *optional*, defaults to `True`):
            Whether each of several processes computes only its own anchors' rows of the loss, among the candidates of
            all. `False` has every process compute all rows: the same gradients for more work, and a loss that is the
            same number everywhere.
        nan_policy (`str`, *optional*, defaults to `"raise"`):
            What to do about a loss that is not finite: `"raise"` stops the training and names the loss and the pairs;
            `"skip"` leaves out that optimiser step and goes on, but stops after 10 in a row. On a GPU `"raise"` comes
            when losses are next logged, saved or evaluated, and `"skip"` makes every step wait for its loss.
        max_skipped_ratio (`float`, *optional*, defaults to 0.5):
            Largest share of pairs that may be left out, in [0, 1]: of the last 1000 that a process has looked at. With
            more the training stops and names the commonest reasons with ids; 0 stops at the first pair. A pair that
            cannot be used gives its place in the batch to another, is counted as `skipped/<reason>` in the logs, and
            is listed in `skipped_pairs.jsonl` in `output_dir`. (1000 one after another stop the training in any case.)
        vision_learning_rate (`float`, *optional*):
            Learning rate of the image tower; `learning_rate` is then that of the rest. The paper takes 1e-5 beside
            1e-4.
        min_temperature (`float`, *optional*, defaults to 0.001):
            Lower bound of the learned temperature.
        max_temperature (`float`, *optional*, defaults to 0.5):
            Upper bound of the learned temperature.
        stream_shards_at_once (`int`, *optional*, defaults to 1):
            From how many shards of a stream each data-loader worker takes turns, so that neighbours in a shard are no
            neighbours in a batch (see [`SeededStream`]).
        retrieval_chunk_size (`int`, *optional*, defaults to 1024):
            Evaluation compares this many images with this many texts at a time.
        dataloader_timeout (`int`, *optional*, defaults to 900):
            Seconds after which a training or an evaluation ends whose data workers deliver no batch, because a read
            has stalled; 0 waits for ever. Only with `dataloader_num_workers` above 0: without workers nobody is left
            to stop the reading. It should stay below `ddp_timeout` (1800), after which the other processes give up
            without knowing why.

    Raises:
        ValueError: for an unknown objective or a value out of its range.
    """

    # Defaults that differ from the parent's.
    learning_rate: float = field(default=1e-4, metadata={"help": "Initial learning rate."})
    weight_decay: float = field(default=0.02, metadata={"help": "Weight decay of matrices."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Share (< 1) or steps of learning rate warm-up."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Replace losses that are not finite in the log; see nan_policy instead."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: the collator reads the raw columns."}
    )
    label_names: list[str] | None = field(
        default_factory=list, metadata={"help": "None: the labels of contrast are the pairs themselves."}
    )

    # Objective.
    objective: str = field(default="sacl", metadata={"help": f"Contrastive objective: {', '.join(OBJECTIVES)}."})
    regulation_strength: float = field(
        default=1.0, metadata={"help": "How strongly similar negatives are spared (1: the paper, 0: InfoNCE)."}
    )
    regulation_warmup: float = field(
        default=0.1, metadata={"help": "Share (< 1) or steps over which the strength rises from 0."}
    )
    filter_threshold: float | None = field(
        default=None, metadata={"help": "Remove negatives whose weight is under this, instead of regulating."}
    )
    regulate_hard_negatives: bool = field(
        default=True, metadata={"help": "Draw the hard negatives of matching with the regulation weights too."}
    )
    hard_negative_warmup: float = field(
        default=0.0, metadata={"help": "Share (< 1) or steps over which the negatives of matching turn hard."}
    )

    regulation_quantile: float | None = field(
        default=None, metadata={"help": "Regulate only above this quantile of an anchor's similarities."}
    )
    graded_weight: float = field(default=0.5, metadata={"help": "Weight of the second contrast, for graded."})
    graded_temperature: float = field(
        default=0.15, metadata={"help": "Temperature of the second contrast, which is not learned, for graded."}
    )
    debiased_prior: float = field(
        default=0.1, metadata={"help": "Share of positives among the negatives, for debiased and hcl."}
    )
    hard_negative_concentration: float = field(
        default=1.0, metadata={"help": "How much more hard negatives count, for hcl."}
    )
    guide_margin: float = field(
        default=0.0, metadata={"help": "How much less similar than the pair a negative is left out, for gist."}
    )
    target_temperature: float = field(
        default=0.1, metadata={"help": "Temperature of targets made of similarities, for xclr, softclip and graded."}
    )
    captions_per_image: int = field(
        default=2, metadata={"help": "Captions of each image that are compared at once, for one_to_k."}
    )

    # Teacher and queue.
    momentum: float | None = field(
        default=0.995, metadata={"help": "Momentum of the teacher; None trains without one."}
    )
    distillation_weight: float = field(default=0.4, metadata={"help": "Share of the teacher in soft targets."})
    distillation_warmup: float = field(
        default=0.05, metadata={"help": "Share (< 1) or steps over which distillation_weight rises from 0."}
    )
    teacher_bf16: bool = field(default=False, metadata={"help": "Compute the teacher in bfloat16."})
    queue_size: int = field(default=0, metadata={"help": "Number of past pairs kept as further candidates."})

    # Guide.
    guide_schedule: str = field(
        default="linear", metadata={"help": "How the guide hands over to the model: linear, cosine or constant."}
    )
    guide_duration: float = field(
        default=1.0, metadata={"help": "Share of the training after which the guide has handed over."}
    )

    # Locked towers.
    lock_vision: bool = field(default=False, metadata={"help": "Keep the image tower as it is (LiT)."})
    lock_text: bool = field(default=False, metadata={"help": "Keep the text tower as it is."})
    cache_locked_towers: bool = field(
        default=False, metadata={"help": "Ask locked towers once for each pair instead of in every epoch."}
    )

    # Weights of the losses.
    itc_weight: float = field(default=1.0, metadata={"help": "Weight of the image-text contrastive loss."})
    itm_weight: float = field(default=1.0, metadata={"help": "Weight of the image-text matching loss."})
    mlm_weight: float = field(default=1.0, metadata={"help": "Weight of the masked language modeling loss."})
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens that is masked."})

    # Terms beside the objective.
    alignment_uniformity_weight: float = field(
        default=0.0, metadata={"help": "Weight of alignment and uniformity, against the gap between modalities."}
    )
    unimodal_self_supervision_weight: float = field(
        default=0.0, metadata={"help": "Weight of self-supervision within images and texts, against backdoors."}
    )
    off_diagonal_weight: float = field(
        default=0.0, metadata={"help": "Weight of keeping the similarities that the training starts with (Mod-X)."}
    )
    off_diagonal_temperature: float = field(
        default=1.0, metadata={"help": "Temperature of the similarities that off_diagonal_weight keeps."}
    )
    mixup_weight: float = field(default=0.0, metadata={"help": "Weight of mixtures of two pairs (M3CoL)."})
    mixup_alpha: float = field(
        default=0.15, metadata={"help": "Parameter of the Beta distribution of a mixture's shares."}
    )

    # Optimisation.
    patch_selection_warmup: float = field(
        default=0.0, metadata={"help": "Share (< 1) or steps over which the image tower comes to drop patches."}
    )
    contrastive_chunk_size: int | None = field(
        default=None, metadata={"help": "Pairs whose activations live at a time, in batches larger than that."}
    )
    loss_block_size: int | None = field(
        default=None, metadata={"help": "Compute the contrastive loss in blocks of this size, in linear memory."}
    )
    local_loss: bool = field(
        default=True, metadata={"help": "Each process computes only its own anchors' rows of the loss."}
    )
    nan_policy: str = field(
        default="raise", metadata={"help": "A loss that is not finite: raise (stop) or skip (leave the step out)."}
    )
    max_skipped_ratio: float = field(
        default=0.5, metadata={"help": "Largest share of pairs that may be left out before the training stops."}
    )
    vision_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the image tower; learning_rate is that of the rest."}
    )
    min_temperature: float = field(default=0.001, metadata={"help": "Lower bound of the learned temperature."})
    max_temperature: float = field(default=0.5, metadata={"help": "Upper bound of the learned temperature."})

    # Data.
    stream_shards_at_once: int = field(
        default=1, metadata={"help": "Number of a stream's shards from which a data-loader worker takes turns."}
    )

    # Evaluation.
    retrieval_chunk_size: int = field(
        default=1024, metadata={"help": "Evaluation compares this many images with this many texts at a time."}
    )

    # Data.
    dataloader_timeout: int = field(
        default=900, metadata={"help": "Seconds to wait for the data workers' next batch; 0 waits for ever."}
    )

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            raise ValueError(f"`objective` must be one of {', '.join(OBJECTIVES)}; got {self.objective!r}.")
        if self.momentum is None and OBJECTIVES[self.objective].needs_teacher:
            raise ValueError(
                f"The objective {self.objective!r} takes its targets from the momentum teacher: set `momentum` "
                "(ALBEF: 0.995)."
            )
        if self.loss_block_size is not None and not OBJECTIVES[self.objective].streams():
            raise ValueError(
                f"The objective {self.objective!r} cannot be computed in blocks: set `loss_block_size=None`."
            )
        self._check_terms()
        if self.nan_policy not in ("raise", "skip"):
            raise ValueError(f"`nan_policy` must be 'raise' or 'skip', got {self.nan_policy!r}.")
        if self.remove_unused_columns:
            raise ValueError("`remove_unused_columns` must be False: the collator reads the raw columns.")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"`{name}` must be between {low} and {high}, got {value}.")
        for name, what in (("queue_size", "pairs"), ("captions_per_image", "captions")):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"`{name}` is a number of {what}, so an integer; got {getattr(self, name)!r}.")
        if self.guide_schedule not in GUIDE_SCHEDULES:
            raise ValueError(
                f"`guide_schedule` must be one of {', '.join(GUIDE_SCHEDULES)}; got {self.guide_schedule!r}."
            )
        if not 0 < self.guide_duration <= 1:
            raise ValueError(f"`guide_duration` must be in (0, 1], got {self.guide_duration}.")
        if self.lock_vision and self.vision_learning_rate is not None:
            raise ValueError(
                f"`vision_learning_rate` ({self.vision_learning_rate}) is for an image tower that learns, and "
                "`lock_vision` locks it: set only one of them."
            )
        if self.cache_locked_towers and not (self.lock_vision or self.lock_text):
            raise ValueError("`cache_locked_towers` needs a locked tower: set `lock_vision` or `lock_text` too.")
        if self.cache_locked_towers and self.lock_text and OBJECTIVES[self.objective].extra_texts is not None:
            raise ValueError(
                f"The objective {self.objective!r} compares with texts beyond those of the pairs, which the features "
                "of a cached text tower are not of: set `cache_locked_towers=False` or `lock_text=False`."
            )
        if self.momentum is not None and self.momentum == 1:
            raise ValueError("`momentum` must be below 1: at 1 the teacher would never learn.")
        if self.filter_threshold is not None and not 0 < self.filter_threshold < 1:
            raise ValueError(f"`filter_threshold` must be in (0, 1), got {self.filter_threshold}.")
        if self.regulation_quantile is not None and not 0 < self.regulation_quantile < 1:
            raise ValueError(f"`regulation_quantile` must be in (0, 1), got {self.regulation_quantile}.")
        if self.min_temperature > self.max_temperature:
            raise ValueError(
                f"`min_temperature` ({self.min_temperature}) is above `max_temperature` ({self.max_temperature})."
            )
        super().__post_init__()

    def _check_terms(self) -> None:
        terms = [f"`{name}_weight`" for name in TERMS if getattr(self, f"{name}_weight") > 0]
        if terms and self.loss_block_size is not None:
            raise ValueError(
                f"With {' and '.join(terms)} the similarities of the whole batch are held at once, which "
                f"`loss_block_size={self.loss_block_size}` is there to avoid: set `loss_block_size=None`."
            )
        embedding = [name for name, term in TERMS.items() if term.rows and getattr(self, f"{name}_weight") > 0]
        if embedding and self.cache_locked_towers:
            raise ValueError(
                f"`cache_locked_towers` knows what its towers say of the pairs, and not of what "
                f"{' and '.join(f'`{name}_weight`' for name in embedding)} has them embed beside these: set "
                "`cache_locked_towers=False`."
            )

    def steps_of(self, share_or_steps: float, max_steps: int) -> float:
        """A *share or steps* argument as a number of steps."""
        return share_or_steps * max_steps if share_or_steps < 1 else share_or_steps


_RANGES: dict[str, tuple[float, float]] = {
    "regulation_strength": (0, 1e3),
    "regulation_warmup": (0, float("inf")),
    "hard_negative_warmup": (0, float("inf")),
    "graded_weight": (0, float("inf")),
    "graded_temperature": (1e-6, float("inf")),
    "debiased_prior": (0, 0.99),
    "hard_negative_concentration": (0, 1e3),
    "guide_margin": (-2, 2),
    "captions_per_image": (2, float("inf")),
    "target_temperature": (1e-6, float("inf")),
    "momentum": (0, 1),
    "distillation_weight": (0, 1),
    "distillation_warmup": (0, float("inf")),
    "queue_size": (0, float("inf")),
    "itc_weight": (0, float("inf")),
    "itm_weight": (0, float("inf")),
    "mlm_weight": (0, float("inf")),
    "mlm_probability": (0, 1),
    **{f"{name}_weight": (0, float("inf")) for name in TERMS},
    "off_diagonal_temperature": (1e-6, float("inf")),
    "mixup_alpha": (1e-3, float("inf")),
    "patch_selection_warmup": (0, float("inf")),
    "contrastive_chunk_size": (1, float("inf")),
    "loss_block_size": (1, float("inf")),
    "max_skipped_ratio": (0, 1),
    "vision_learning_rate": (0, float("inf")),
    "min_temperature": (1e-6, float("inf")),
    "max_temperature": (1e-6, float("inf")),
    "retrieval_chunk_size": (1, float("inf")),
    "stream_shards_at_once": (1, float("inf")),
    "dataloader_timeout": (0, float("inf")),
}
