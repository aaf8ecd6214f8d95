"""Attention with fewer heads than `torch.nn.MultiheadAttention` can have."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class FewerHeads(nn.Module):
    """What is left of a `torch.nn.MultiheadAttention` whose heads were removed; called like it.

    That one derives the size of a head from the width of its input and the number of heads, so that it cannot
    have fewer of them. Its projections are linear layers of their own here.
    """

    in_proj_bias = None  # nn.TransformerEncoderLayer then leaves its fused path alone

    def __init__(self, attention: nn.MultiheadAttention, heads: int, before: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, attention.embed_dim // before
        self.embed_dim, self.dropout = attention.embed_dim, attention.dropout
        self.batch_first, self._qkv_same_embed_dim = attention.batch_first, False
        separate = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        together, biases = attention.in_proj_weight, attention.in_proj_bias
        weights = separate if together is None else together.detach().chunk(3)
        parts = [None] * 3 if biases is None else biases.detach().chunk(3)
        like = separate[0] if together is None else together
        for name, weight, bias in zip(("q_proj", "k_proj", "v_proj"), weights, parts, strict=True):
            setattr(self, name, _linear(weight, bias, like.requires_grad))
        self.out_proj = attention.out_proj
        self.out_proj.out_features, self.out_proj.in_features = self.out_proj.weight.shape
        self.train(attention.training)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As `torch.nn.MultiheadAttention.forward`; masks for each head must be those of the heads left."""
        inputs = [query, key, value]
        batched = query.dim() == 3
        inputs = [x if batched else x.unsqueeze(0 if self.batch_first else 1) for x in inputs]
        inputs = [x if self.batch_first else x.transpose(0, 1) for x in inputs]  # (batch, positions, width)
        layers: Any = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (
            layer(x).unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)
            for layer, x in zip(layers, inputs, strict=True)
        )  # (batch, heads, positions, size)
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        scores = q @ k.transpose(2, 3) * self.head_dim**-0.5
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = F.dropout(weights, self.dropout, self.training)
        out = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        out = out if self.batch_first else out.transpose(0, 1)
        out = out if batched else out.squeeze(0 if self.batch_first else 1)
        if not need_weights:
            return out, None
        weights = weights.mean(1) if average_attn_weights else weights
        return out, weights if batched else weights.squeeze(0)

    def _mask(self, q: torch.Tensor, k: torch.Tensor, padding: Any, attention: Any) -> torch.Tensor | None:
        """What is added to the scores, (batch or 1, heads or 1, queries, keys)."""
        total: torch.Tensor | None = None
        if attention is not None:
            if attention.dim() == 3:
                attention = attention.unflatten(0, (len(q), -1))
            total = _as_added(attention, q)
        if padding is not None:
            added = _as_added(padding.reshape(-1, 1, 1, k.shape[2]), q)
            total = added if total is None else total + added
        return total


def _as_added(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if mask.dtype == torch.bool:  # True: not allowed
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
    return mask.to(like.dtype)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, trained: bool) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.clone(), trained)
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone(), trained)
    return layer
