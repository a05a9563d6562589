# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Text-relevant image patch selection (TRIPS): an image tower goes on with the patches that matter. No parameters.

Source: Jiang et al., EMNLP 2022 ([arXiv 2305.04474](https://huggingface.co/papers/2305.04474), version 4). These are
pure functions of tensors; which layers select, and what guides them, is the image tower's affair.
"""

import math

import torch


def number_to_keep(num_patches: int, keep_rate: float) -> int:
    r"""
    How many of `num_patches` patch tokens a selection keeps: `ceil(keep_rate * num_patches)`, at least 1. It depends
    on shapes alone, so that every image of a batch keeps as many and no value has to be read from a device.

    Args:
        num_patches (`int`):
            Number of patch tokens before the selection.
        keep_rate (`float`):
            Share of them that stays, in (0, 1].

    Returns:
        `int`

    Example:

    ```python
    >>> from modeling_sacl.patch_selection_sacl import number_to_keep

    >>> number_to_keep(256, 0.7)
    180
    ```
    """
    # 0.07 * 100 is 7.000000000000001, and must not be 8 patches.
    return min(num_patches, max(1, math.ceil(keep_rate * num_patches - 1e-6)))


def patch_relevance(query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    r"""
    How relevant each patch is to what asks, the text or the image's own class token: the attention that it would give
    to the patches, averaged over the heads.

        relevance_j = mean_h softmax_j( query_h . key_hj / sqrt(head_dim) )

    Args:
        query (`torch.Tensor` of shape `(batch_size, num_heads, 1, head_dim)`):
            The query of the one that asks, by the query projection of the layer.
        keys (`torch.Tensor` of shape `(batch_size, num_heads, num_patches, head_dim)`):
            The keys of the patch tokens in the self-attention of the layer.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_patches)`, at least in float32: positive, with the sum 1 in each row.

    Example:

    ```python
    >>> import torch
    >>> from modeling_sacl import patch_relevance

    >>> query, keys = torch.ones(1, 1, 1, 4), torch.tensor([[0.0], [2.0], [1.0]]).expand(1, 1, 3, 4)
    >>> [round(score, 3) for score in patch_relevance(query, keys)[0].tolist()]
    [0.016, 0.867, 0.117]
    ```
    """
    logits = torch.matmul(query, keys.transpose(2, 3)).squeeze(2) * query.shape[-1] ** -0.5
    # Half precision would tie patches that differ, and lose the small scores by which the rest is fused.
    return logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)).mean(dim=1)


def take_tokens(hidden_states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    r"""
    The tokens at the positions of each row.

    Args:
        hidden_states (`torch.Tensor` of shape `(batch_size, length, hidden_size)`).
        positions (`torch.Tensor` of shape `(batch_size, num_positions)`, int64).

    Returns:
        `torch.Tensor` of shape `(batch_size, num_positions, hidden_size)`.
    """
    return hidden_states.gather(1, positions[:, :, None].expand(-1, -1, hidden_states.shape[-1]))


def select_patches(
    hidden_states: torch.Tensor, scores: torch.Tensor, num_kept: int, fusion_token: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    Keeps the tokens of the most relevant patches, in their order, and fuses all others into one token behind them:

        fused = sum_j scores_j * patch_j / sum_j scores_j        over the patches j that are dropped

    The class token, the first one, always stays. A fused token of an earlier selection is a patch token like the
    others. The gradient reaches the kept tokens, and by the fused one the dropped tokens and their scores.

    Args:
        hidden_states (`torch.Tensor` of shape `(batch_size, 1 + num_patches, hidden_size)`):
            The class token and the patch tokens.
        scores (`torch.Tensor` of shape `(batch_size, num_patches)`):
            Relevance of the patch tokens, not negative, as of [`patch_relevance`].
        num_kept (`int`):
            How many patch tokens stay. With all of them, the hidden states are returned as they are.
        fusion_token (`bool`, *optional*, defaults to `True`):
            Whether the others are fused; without it they are lost.

    Returns:
        Two `torch.Tensor`: the hidden states that remain, of shape `(batch_size, 1 + num_kept + 1, hidden_size)` with
        a fused token and `(batch_size, 1 + num_kept, hidden_size)` without; and which of the patch tokens were kept,
        of shape `(batch_size, num_kept)`, int64, ascending.

    Raises:
        ValueError: if the shapes do not fit, or `num_kept` is not in 1 ... `num_patches`.

    Example:

    ```python
    >>> import torch
    >>> from modeling_sacl import select_patches

    >>> tokens = torch.tensor([9.0, 10.0, 20.0, 30.0, 40.0]).view(1, 5, 1)  # the first is the class token
    >>> selected, kept = select_patches(tokens, torch.tensor([[0.0625, 0.5, 0.25, 0.1875]]), num_kept=2)
    >>> kept.tolist(), selected.flatten().tolist()  # the last one is a quarter of 10 and three quarters of 40
    ([[1, 2]], [9.0, 20.0, 30.0, 32.5])
    ```
    """
    batch_size, num_patches = scores.shape
    if hidden_states.shape[:2] != (batch_size, 1 + num_patches):
        raise ValueError(
            f"`scores` of shape {tuple(scores.shape)} are of {num_patches} patch tokens, so `hidden_states` must have "
            f"the shape {(batch_size, 1 + num_patches, 'hidden_size')}, class token first; got "
            f"{tuple(hidden_states.shape)}."
        )
    if not 1 <= num_kept <= num_patches:
        raise ValueError(f"`num_kept` must be between 1 and the number of patches ({num_patches}), got {num_kept}.")
    if num_kept == num_patches:
        return hidden_states, torch.arange(num_patches, device=scores.device).expand(batch_size, -1)

    class_token, patches = hidden_states[:, :1], hidden_states[:, 1:]
    kept = scores.topk(num_kept, dim=1, sorted=False).indices.sort(dim=1).values
    tokens = [class_token, take_tokens(patches, kept)]
    if fusion_token:
        # The summand is lost in any ordinary score; where all scores are 0 in floating point, it makes a plain mean.
        weights = (scores + 1e-20).scatter(1, kept, 0.0)
        weights = weights / weights.sum(dim=1, keepdim=True)
        tokens.append(torch.matmul(weights[:, None].to(patches.dtype), patches).to(patches.dtype))
    return torch.cat(tokens, dim=1), kept


__all__ = ["number_to_keep", "patch_relevance", "select_patches", "take_tokens"]
