"""MobileNet V2 and V3, EfficientNet and ShuffleNet: depthwise convolutions, gates, shuffled channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


def divisible(width: float, by: int = 8) -> int:
    """The nearest multiple, at most a tenth below."""
    rounded = max(by, int(width + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * width else rounded


class ConvBNReLU(nn.Sequential):
    """A layer of MobileNetV2."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        padding = (kernel - 1) // 2
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(inplace=True),
        )


class InvertedResidual(nn.Module):
    """Wide in the middle and narrow at its ends; no activation on what is summed."""

    def __init__(self, inputs: int, outputs: int, stride: int, ratio: int) -> None:
        super().__init__()
        hidden = round(inputs * ratio)
        self.use_res_connect = stride == 1 and inputs == outputs
        layers = [] if ratio == 1 else [ConvBNReLU(inputs, hidden, kernel=1)]
        layers += [
            ConvBNReLU(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, 1, 0, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


class MobileNetV2(nn.Module):
    """Sandler et al. 2018. Rows: ratio, channels, blocks, stride."""

    ROWS = (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    )

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        features: list[nn.Module] = [ConvBNReLU(3, 32, stride=2)]
        inputs = 32
        for ratio, outputs, blocks, stride in self.ROWS:
            for i in range(blocks):
                features.append(InvertedResidual(inputs, outputs, stride if i == 0 else 1, ratio))
                inputs = outputs
        features.append(ConvBNReLU(inputs, 1280, kernel=1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = nn.functional.adaptive_avg_pool2d(x, (1, 1)).reshape(x.shape[0], -1)
        return self.classifier(x)


class HardGate(nn.Module):
    """Squeeze and excitation of MobileNetV3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        squeeze = divisible(width / 4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(width, squeeze, 1), nn.Conv2d(squeeze, width, 1)
        self.activation, self.scale_activation = nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return scale * x


class V3Block(nn.Module):
    """An inverted residual with a gate before the projection and a choice of activation."""

    def __init__(
        self, inputs: int, kernel: int, hidden: int, outputs: int, gate: bool, act: type, stride: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers += [self.norm(nn.Conv2d(inputs, hidden, 1, bias=False)), act(inplace=True)]
        depthwise = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
        layers += [self.norm(depthwise), act(inplace=True)]
        if gate:
            layers.append(HardGate(hidden))
        layers.append(self.norm(nn.Conv2d(hidden, outputs, 1, bias=False)))
        self.block = nn.Sequential(*layers)
        self.identity = stride == 1 and inputs == outputs

    @staticmethod
    def norm(conv: nn.Conv2d) -> nn.Module:
        return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels, eps=0.001, momentum=0.01))

    def forward(self, x: Tensor) -> Tensor:
        result = self.block(x)
        if self.identity:
            result += x
        return result


class MobileNetV3Small(nn.Module):
    """Howard et al. 2019. Rows: inputs, kernel, hidden, outputs, gate, activation, stride."""

    RE, HS = nn.ReLU, nn.Hardswish
    ROWS = (
        *((16, 3, 16, 16, True, RE, 2), (16, 3, 72, 24, False, RE, 2), (24, 3, 88, 24, False, RE, 1)),
        *((24, 5, 96, 40, True, HS, 2), (40, 5, 240, 40, True, HS, 1), (40, 5, 240, 40, True, HS, 1)),
        *((40, 5, 120, 48, True, HS, 1), (48, 5, 144, 48, True, HS, 1), (48, 5, 288, 96, True, HS, 2)),
        *((96, 5, 576, 96, True, HS, 1), (96, 5, 576, 96, True, HS, 1)),
    )

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        first, last = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.Conv2d(96, 576, 1, bias=False)
        self.features = nn.Sequential(
            *(V3Block.norm(first), nn.Hardswish()),
            *(V3Block(*row) for row in self.ROWS),
            *(V3Block.norm(last), nn.Hardswish()),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(576, 1024), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(1024, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def drop_path(x: Tensor, probability: float, training: bool) -> Tensor:
    """Leave out whole examples of a branch, in training."""
    if probability == 0.0 or not training:
        return x
    keep = 1 - probability
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    return x / keep * x.new_empty(shape).bernoulli_(keep)


class MBConv(nn.Module):
    """EfficientNet's block: SiLU, a gate as wide as a quarter of the block's inputs, stochastic depth."""

    def __init__(self, inputs: int, outputs: int, ratio: int, kernel: int, stride: int, drop: float) -> None:
        super().__init__()
        hidden, squeeze = inputs * ratio, max(1, inputs // 4)
        self.expand, self.drop = ratio != 1, drop
        if self.expand:
            self.conv_pw, self.bn1 = nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.conv_dw = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.reduce, self.expand_gate = nn.Conv2d(hidden, squeeze, 1), nn.Conv2d(squeeze, hidden, 1)
        self.conv_pwl, self.bn3 = nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.residual = inputs == outputs and stride == 1

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs
        if self.expand:
            x = F.silu(self.bn1(self.conv_pw(x)))
        x = F.silu(self.bn2(self.conv_dw(x)))
        gate = F.adaptive_avg_pool2d(x, 1)
        gate = self.expand_gate(F.silu(self.reduce(gate)))
        x = gate.sigmoid() * x
        x = self.bn3(self.conv_pwl(x))
        return drop_path(x, self.drop, self.training) + inputs if self.residual else x


class EfficientNetB0(nn.Module):
    """Tan and Le 2019. Rows: ratio, kernel, stride, outputs, blocks."""

    ROWS = (
        *((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3)),
        *((6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1)),
    )

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.blocks, inputs, total = nn.ModuleList(), 32, sum(row[-1] for row in self.ROWS)
        for ratio, kernel, stride, outputs, blocks in self.ROWS:
            for i in range(blocks):
                drop = 0.2 * len(self.blocks) / total
                self.blocks.append(MBConv(inputs, outputs, ratio, kernel, 1 if i else stride, drop))
                inputs = outputs
        self.conv_head, self.bn2 = nn.Conv2d(inputs, 1280, 1, bias=False), nn.BatchNorm2d(1280)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.bn1(self.conv_stem(x)), inplace=True)
        for block in self.blocks:
            x = block(x)
        x = F.silu(self.bn2(self.conv_head(x))).mean((-2, -1))
        return self.classifier(F.dropout(x, p=0.2, training=self.training))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` halves."""
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batch, -1, height, width)


class ShuffleBlock(nn.Module):
    """With stride 1 one half of the channels passes as it is; with stride 2 both branches read all."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, half = stride, outputs // 2
        reads = inputs if stride > 1 else half
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(*self.depthwise(inputs, stride), *self.pointwise(inputs, half))
        self.branch2 = nn.Sequential(
            *self.pointwise(reads, half), *self.depthwise(half, stride), *self.pointwise(half, half)
        )

    @staticmethod
    def depthwise(width: int, stride: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width)

    @staticmethod
    def pointwise(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


class ShuffleNetV2(nn.Module):
    """Ma et al. 2018, at width 1.0."""

    def __init__(self, widths: tuple = (24, 116, 232, 464, 1024), classes: int = 1000) -> None:
        super().__init__()
        inputs = widths[0]
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, inputs, 3, 2, 1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(True)
        )
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, width, repeats in zip((2, 3, 4), widths[1:], (4, 8, 4), strict=False):
            blocks = [ShuffleBlock(inputs, width, 2)]
            blocks += [ShuffleBlock(width, width, 1) for _ in range(repeats - 1)]
            setattr(self, f"stage{stage}", nn.Sequential(*blocks))
            inputs = width
        self.conv5 = nn.Sequential(*ShuffleBlock.pointwise(inputs, widths[-1]))
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        return self.fc(x.mean([2, 3]))
