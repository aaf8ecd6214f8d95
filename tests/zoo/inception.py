"""Inception v3 (Szegedy et al. 2016): kernels split into 1x7 and 7x1, branches that branch again."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.zoo.classic import ConvNorm


class InceptionA(nn.Module):
    """1x1, 5x5, two 3x3, and a mean."""

    def __init__(self, inputs: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = ConvNorm(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = ConvNorm(inputs, 48, 1), ConvNorm(48, 64, 5, padding=2)
        self.branch3x3_1, self.branch3x3_2 = ConvNorm(inputs, 64, 1), ConvNorm(64, 96, 3, padding=1)
        self.branch3x3_3 = ConvNorm(96, 96, 3, padding=1)
        self.branch_pool = ConvNorm(inputs, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        branch5x5 = self.branch5x5_2(self.branch5x5_1(x))
        branch3x3 = self.branch3x3_3(self.branch3x3_2(self.branch3x3_1(x)))
        branch_pool = self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        return torch.cat([self.branch1x1(x), branch5x5, branch3x3, branch_pool], 1)


class InceptionB(nn.Module):
    """Halves the map; one branch has no weights."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = ConvNorm(inputs, 384, 3, stride=2)
        self.double3x3 = nn.Sequential(
            ConvNorm(inputs, 64, 1), ConvNorm(64, 96, 3, padding=1), ConvNorm(96, 96, 3, stride=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.branch3x3(x), self.double3x3(x), F.max_pool2d(x, 3, stride=2)), dim=1)


class InceptionC(nn.Module):
    """Kernels of 7x7 as rows and columns."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        row = {"kernel": (1, 7), "padding": (0, 3)}
        column = {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = ConvNorm(inputs, 192, 1)
        self.branch7x7 = nn.Sequential(
            ConvNorm(inputs, width, 1), ConvNorm(width, width, **row), ConvNorm(width, 192, **column)
        )
        self.double7x7 = nn.Sequential(
            *(ConvNorm(inputs, width, 1), ConvNorm(width, width, **column), ConvNorm(width, width, **row)),
            *(ConvNorm(width, width, **column), ConvNorm(width, 192, **row)),
        )
        self.branch_pool = ConvNorm(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, 3, 1, 1)
        return torch.cat(
            [self.branch1x1(x), self.branch7x7(x), self.double7x7(x), self.branch_pool(pooled)], 1
        )


class InceptionD(nn.Module):
    """Halves the map again."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = nn.Sequential(ConvNorm(inputs, 192, 1), ConvNorm(192, 320, 3, stride=2))
        self.branch7x7x3 = nn.Sequential(
            *(ConvNorm(inputs, 192, 1), ConvNorm(192, 192, (1, 7), padding=(0, 3))),
            *(ConvNorm(192, 192, (7, 1), padding=(3, 0)), ConvNorm(192, 192, 3, stride=2)),
        )
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch3x3(x), self.branch7x7x3(x), self.pool(x)], 1)


class InceptionE(nn.Module):
    """Branches that split once more: joined lists within a joined list."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch1x1, self.branch3x3 = ConvNorm(inputs, 320, 1), ConvNorm(inputs, 384, 1)
        self.row, self.column = (
            ConvNorm(384, 384, (1, 3), padding=(0, 1)),
            ConvNorm(384, 384, (3, 1), padding=(1, 0)),
        )
        self.double3x3 = nn.Sequential(ConvNorm(inputs, 448, 1), ConvNorm(448, 384, 3, padding=1))
        self.double_row = ConvNorm(384, 384, (1, 3), padding=(0, 1))
        self.double_column = ConvNorm(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = ConvNorm(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three, double = self.branch3x3(x), self.double3x3(x)
        three = torch.cat([self.row(three), self.column(three)], 1)
        double = torch.cat([self.double_row(double), self.double_column(double)], 1)
        pooled = self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        return torch.cat([self.branch1x1(x), three, double, pooled], 1)


class SideHead(nn.Module):
    """Needs a map of 17x17, so images of 299x299."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.conv0, self.conv1 = ConvNorm(inputs, 128, 1), ConvNorm(128, 768, 5)
        self.fc = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.conv0(F.avg_pool2d(x, kernel_size=5, stride=3)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class InceptionOutputs(NamedTuple):
    """What training sees."""

    logits: Tensor
    aux_logits: Tensor


class Inception3(nn.Module):
    """The side head runs in training only."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *(ConvNorm(3, 32, 3, stride=2), ConvNorm(32, 32, 3), ConvNorm(32, 64, 3, padding=1)),
            *(
                nn.MaxPool2d(3, stride=2),
                ConvNorm(64, 80, 1),
                ConvNorm(80, 192, 3),
                nn.MaxPool2d(3, stride=2),
            ),
        )
        self.mixed_5 = nn.Sequential(InceptionA(192, 32), InceptionA(256, 64), InceptionA(288, 64))
        self.mixed_6a = InceptionB(288)
        self.mixed_6 = nn.Sequential(*(InceptionC(768, width) for width in (128, 160, 160, 192)))
        self.aux = SideHead(768, classes)
        self.mixed_7a, self.mixed_7b, self.mixed_7c = InceptionD(768), InceptionE(1280), InceptionE(2048)
        self.dropout = nn.Dropout()
        self.fc = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor | InceptionOutputs:
        x = self.mixed_6(self.mixed_6a(self.mixed_5(self.stem(x))))
        aux = self.aux(x) if self.training else None
        x = self.mixed_7c(self.mixed_7b(self.mixed_7a(x)))
        x = self.dropout(F.adaptive_avg_pool2d(x, 1))
        x = self.fc(x.flatten(1))
        if self.training:
            return InceptionOutputs(x, aux)
        return x
