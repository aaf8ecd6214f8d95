"""Swin transformer (Liu et al. 2021): attention within windows, which every second block shifts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo.transformers import Mlp


def window_partition(x: Tensor, size: int) -> Tensor:
    """(batch, height, width, channels) to (windows, size * size, channels)."""
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, c)


def window_reverse(windows: Tensor, size: int, h: int, w: int) -> Tensor:
    """And back."""
    b = windows.shape[0] // (h * w // size // size)
    x = windows.view(b, h // size, w // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)


class WindowAttention(nn.Module):
    """With a learned bias for every offset between two places of a window."""

    def __init__(self, dim: int, size: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, heads))
        places = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        offsets = places[:, :, None] - places[:, None, :] + size - 1
        self.register_buffer("relative_position_index", offsets[0] * (2 * size - 1) + offsets[1])
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        attn = attn + bias.view(n, n, -1).permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            windows = mask.shape[0]
            attn = attn.view(b // windows, windows, self.num_heads, n, n) + mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, self.num_heads, n, n)
        x = (self.softmax(attn) @ v).transpose(1, 2).reshape(b, n, c)
        return self.proj(x)


class SwinBlock(nn.Module):
    """`shift` rolls the map; places that were not neighbours before then do not see each other."""

    def __init__(self, dim: int, resolution: int, heads: int, shift: int, size: int = 7) -> None:
        super().__init__()
        self.resolution, self.size = resolution, size
        self.shift = 0 if resolution <= size else shift
        self.norm1, self.attn = nn.LayerNorm(dim), WindowAttention(dim, size, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, 4 * dim)
        self.register_buffer("attn_mask", self.shifted_mask() if self.shift else None)

    def shifted_mask(self) -> Tensor:
        """0 where two places of a window may see each other, -100 elsewhere."""
        regions, count = torch.zeros(1, self.resolution, self.resolution, 1), 0
        cuts = (slice(0, -self.size), slice(-self.size, -self.shift), slice(-self.shift, None))
        for rows in cuts:
            for columns in cuts:
                regions[:, rows, columns, :] = count
                count += 1
        windows = window_partition(regions, self.size).squeeze(-1)
        differ = windows.unsqueeze(1) != windows.unsqueeze(2)
        return differ * -100.0

    def forward(self, x: Tensor) -> Tensor:
        h = w = self.resolution
        b, length, c = x.shape
        assert length == h * w, "the input has another size"
        shortcut = x
        x = self.norm1(x).view(b, h, w, c)
        if self.shift > 0:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        x = self.attn(window_partition(x, self.size), mask=self.attn_mask)
        x = window_reverse(x.view(-1, self.size, self.size, c), self.size, h, w)
        if self.shift > 0:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(1, 2))
        x = shortcut + x.view(b, h * w, c)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Four neighbours become one place."""

    def __init__(self, dim: int, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.reduction, self.norm = nn.Linear(4 * dim, 2 * dim, bias=False), nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        b, _, c = x.shape
        x = x.view(b, self.resolution, self.resolution, c)
        neighbours = [x[:, row::2, column::2, :] for column in (0, 1) for row in (0, 1)]
        x = torch.cat(neighbours, -1).view(b, -1, 4 * c)
        return self.reduction(self.norm(x))


class Swin(nn.Module):
    """By default the tiny one, for images of 224x224."""

    def __init__(
        self,
        dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24),
        image: int = 224,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.patch_embed, self.patch_norm = nn.Conv2d(3, dim, kernel_size=4, stride=4), nn.LayerNorm(dim)
        self.layers, resolution = nn.ModuleList(), image // 4
        for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            if stage:
                self.layers.append(PatchMerging(dim, resolution))
                dim, resolution = 2 * dim, resolution // 2
            blocks = [SwinBlock(dim, resolution, count, shift=i % 2 * 3) for i in range(depth)]
            self.layers.extend(blocks)
        self.norm, self.avgpool = nn.LayerNorm(dim), nn.AdaptiveAvgPool1d(1)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_norm(self.patch_embed(x).flatten(2).transpose(1, 2))
        for layer in self.layers:
            x = layer(x)
        x = self.avgpool(self.norm(x).transpose(1, 2))
        return self.head(torch.flatten(x, 1))
