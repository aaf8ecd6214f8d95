"""ResNet, ResNeXt, DenseNet and RegNet: sums and joins across layers."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

conv1x1 = partial(nn.Conv2d, kernel_size=1, bias=False)
conv3x3 = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; `downsample` is None where the identity fits."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, width, stride=stride), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv3x3(width, width), nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3 in groups, 1x1. ResNet has one group, ResNeXt 32 with 4 channels each at first."""

    expansion = 4

    def __init__(
        self,
        inputs: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
    ) -> None:
        super().__init__()
        width = planes * base_width // 64 * groups
        self.conv1, self.bn1 = conv1x1(inputs, width), nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride=stride, groups=groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv1x1(width, planes * 4), nn.BatchNorm2d(planes * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        out = self.relu(out)
        out = self.conv3(out)
        out = self.bn3(out)
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    """He et al. 2016; `stages` gives the maps that detectors read."""

    def __init__(self, block: type, layers: tuple[int, ...], classes: int = 1000, **options) -> None:
        super().__init__()
        self.inputs = 64
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._make_layer(block, 64, layers[0], 1, options)
        self.layer2 = self._make_layer(block, 128, layers[1], 2, options)
        self.layer3 = self._make_layer(block, 256, layers[2], 2, options)
        self.layer4 = self._make_layer(block, 512, layers[3], 2, options)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512 * block.expansion, classes)

    def _make_layer(self, block: type, planes: int, blocks: int, stride: int, options: dict) -> nn.Module:
        downsample, outputs = None, planes * block.expansion
        if stride != 1 or self.inputs != outputs:
            downsample = nn.Sequential(conv1x1(self.inputs, outputs, stride=stride), nn.BatchNorm2d(outputs))
        layers = [block(self.inputs, planes, stride, downsample, **options)]
        self.inputs = outputs
        layers += [block(outputs, planes, **options) for _ in range(1, blocks)]
        return nn.Sequential(*layers)

    def stages(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.stages(x)[-1])
        return self.fc(torch.flatten(x, 1))


class DenseLayer(nn.Module):
    """Reads the list of all features so far; at first that list has one tensor."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, kernel_size=1, bias=False)
        self.norm2, self.relu2 = nn.BatchNorm2d(4 * growth), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * growth, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = torch.cat(features, 1)
        return self.conv2(self.relu2(self.norm2(self.conv1(self.relu1(self.norm1(x))))))


class DenseBlock(nn.ModuleDict):
    """A dictionary of layers, iterated."""

    def __init__(self, layers: int, inputs: int, growth: int) -> None:
        super().__init__()
        for i in range(layers):
            self[f"denselayer{i + 1}"] = DenseLayer(inputs + i * growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """Huang et al. 2017, by default of 121 layers."""

    def __init__(
        self, blocks: tuple[int, ...] = (6, 12, 24, 16), growth: int = 32, classes: int = 1000
    ) -> None:
        super().__init__()
        self.features, width = nn.Sequential(), 64
        self.features.add_module("conv0", nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(width))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("pool0", nn.MaxPool2d(3, stride=2, padding=1))
        for i, layers in enumerate(blocks, start=1):
            self.features.add_module(f"denseblock{i}", DenseBlock(layers, width, growth))
            width += layers * growth
            if i < len(blocks):
                parts = (nn.BatchNorm2d(width), nn.ReLU(True), conv1x1(width, width // 2), nn.AvgPool2d(2, 2))
                self.features.add_module(f"transition{i}", nn.Sequential(*parts))
                width //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(width))
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        out = F.adaptive_avg_pool2d(F.relu(features, inplace=True), (1, 1))
        return self.classifier(out.flatten(start_dim=1))


class Gate(nn.Module):
    """Squeeze and excitation with 1x1 convolutions."""

    def __init__(self, width: int, squeeze: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, squeeze, 1), nn.Conv2d(squeeze, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        s = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(s))))


class RegNetBlock(nn.Module):
    """Block Y of Radosavovic et al. 2020: groups of 8 channels, a gate as wide as a quarter of the inputs."""

    def __init__(self, inputs: int, width: int, stride: int, group_width: int = 8) -> None:
        super().__init__()
        groups = width // group_width
        self.proj = None
        if inputs != width or stride != 1:
            self.proj = nn.Sequential(conv1x1(inputs, width, stride=stride), nn.BatchNorm2d(width))
        self.f = nn.Sequential(
            *(conv1x1(inputs, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
            *(
                conv3x3(width, width, stride=stride, groups=groups),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ),
            *(Gate(width, round(inputs / 4)), conv1x1(width, width), nn.BatchNorm2d(width)),
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.proj(x) if self.proj is not None else x
        return (shortcut + self.f(x)).relu()


class RegNet(nn.Module):
    """By default RegNetY-400MF."""

    def __init__(
        self, widths: tuple = (48, 104, 208, 440), depths: tuple = (1, 3, 6, 6), classes: int = 1000
    ) -> None:
        super().__init__()
        inputs = 32
        self.stem = nn.Sequential(
            nn.Conv2d(3, inputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(True)
        )
        self.trunk = nn.Sequential()
        for width, depth in zip(widths, depths, strict=True):
            for i in range(depth):
                self.trunk.append(RegNetBlock(inputs, width, 1 if i else 2))
                inputs = width
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.trunk(self.stem(x)).mean(dim=[2, 3]))
