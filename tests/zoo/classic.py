"""AlexNet, VGG, GoogLeNet, Inception v3 and SqueezeNet: convolutions in a row, then side by side."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


def initialized(model: nn.Module) -> nn.Module:
    """Kernels as He et al. 2015 draw them: without normalization, torch's own let signals die on the way."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model


class AlexNet(nn.Module):
    """Krizhevsky 2014, in one column; the size of the last map stands as a number in `forward`."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = x.view(x.size(0), 256 * 6 * 6)
        return self.classifier(x)


class VGG(nn.Module):
    """Simonyan and Zisserman 2015, configuration D: thirteen 3x3 convolutions made from a list of widths."""

    D = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")

    def __init__(self, widths: tuple = D, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width in widths:
            if width == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers.extend((nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(True)))
                inputs = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.fc6, self.fc7 = nn.Linear(inputs * 49, 4096), nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)
        initialized(self.features)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(self.avgpool(self.features(x)), 1)
        x = F.dropout(F.relu(self.fc6(x)), training=self.training)
        x = F.dropout(F.relu(self.fc7(x)), training=self.training)
        return self.fc8(x)


class ConvNorm(nn.Module):
    """A convolution without a bias, batch normalization with the epsilon of Inception, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], **options) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, bias=False, **options)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Four branches of GoogLeNet. The published weights have a 3x3 kernel where the paper has 5x5."""

    def __init__(self, inputs: int, one: int, three: tuple, five: tuple, pool: int) -> None:
        super().__init__()
        self.branch1 = ConvNorm(inputs, one, 1)
        self.branch2 = nn.Sequential(ConvNorm(inputs, three[0], 1), ConvNorm(*three, 3, padding=1))
        self.branch3 = nn.Sequential(ConvNorm(inputs, five[0], 1), ConvNorm(*five, 3, padding=1))
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), ConvNorm(inputs, pool, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)]
        return torch.cat(branches, 1)


class SideHead(nn.Module):
    """Classifies from the middle of GoogLeNet."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvNorm(inputs, 128, 1)
        self.fc1, self.fc2 = nn.Linear(2048, 1024), nn.Linear(1024, classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(F.adaptive_avg_pool2d(x, (4, 4))).flatten(1)
        return self.fc2(self.dropout(F.relu(self.fc1(x))))


class GoogLeNetOutputs(NamedTuple):
    """What training sees."""

    logits: Tensor
    aux2: Tensor
    aux1: Tensor


class GoogLeNet(nn.Module):
    """Szegedy et al. 2015, with batch normalization. The side heads run in training only."""

    def __init__(self, classes: int = 1000, aux: bool = True) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, 64, 7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2, self.conv3 = ConvNorm(64, 64, 1), ConvNorm(64, 192, 3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = Mixed(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = Mixed(256, 128, (128, 192), (32, 96), 64)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = Mixed(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = Mixed(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = Mixed(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = Mixed(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = Mixed(528, 256, (160, 320), (32, 128), 128)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.inception5a = Mixed(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = Mixed(832, 384, (192, 384), (48, 128), 128)
        self.aux1 = SideHead(512, classes) if aux else None
        self.aux2 = SideHead(528, classes) if aux else None
        self.avgpool, self.dropout = nn.AdaptiveAvgPool2d((1, 1)), nn.Dropout(0.2)
        self.fc = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor | GoogLeNetOutputs:
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        x = self.inception4a(x)
        aux1 = self.aux1(x) if self.training and self.aux1 is not None else None
        x = self.inception4d(self.inception4c(self.inception4b(x)))
        aux2 = self.aux2(x) if self.training and self.aux2 is not None else None
        x = self.maxpool4(self.inception4e(x))
        x = self.avgpool(self.inception5b(self.inception5a(x)))
        x = self.fc(self.dropout(torch.flatten(x, 1)))
        return x if aux1 is None else GoogLeNetOutputs(x, aux2, aux1)


class Fire(nn.Module):
    """Squeeze to few channels; expand with 1x1 and with 3x3 kernels, side by side."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1, self.expand3x3 = (
            nn.Conv2d(squeeze, expand, 1),
            nn.Conv2d(squeeze, expand, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat([self.expand1x1(x).relu_(), self.expand3x3(x).relu_()], dim=1)


def squeezenet(classes: int = 1000) -> nn.Module:
    """Version 1.0 (Iandola et al. 2016); the classes are the channels of the last convolution."""
    pool = {"kernel_size": 3, "stride": 2, "ceil_mode": True}
    features = nn.Sequential(
        *(nn.Conv2d(3, 96, 7, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(**pool)),
        *(Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128), nn.MaxPool2d(**pool)),
        *(Fire(256, 32, 128), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256)),
        *(nn.MaxPool2d(**pool), Fire(512, 64, 256)),
    )
    last = (nn.Dropout(0.5), nn.Conv2d(512, classes, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))
    return initialized(nn.Sequential(features, *last, nn.Flatten()))
