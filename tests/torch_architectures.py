"""Networks as people write them, in PyTorch: none knows of `NetSpec`."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut(inputs, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return F.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.shortcut = shortcut(inputs, 4 * width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity, or a projection where shapes change."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    """For CIFAR (He et al. 2016): three stages of `blocks` blocks, widths w, 2w, 4w."""

    def __init__(self, blocks: int = 3, width: int = 8, block: type = Basic) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        stages, inputs = [], width
        for stage in range(3):
            layers = []
            for place in range(blocks):
                stride = 2 if stage and not place else 1
                layers.append(block(inputs, width * 2**stage, stride))
                inputs = width * 2**stage * block.expansion
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stages(F.relu(self.bn1(self.conv1(x))))
        x = F.avg_pool2d(x, x.size(3))
        return self.fc(x.view(x.size(0), -1))


def vgg(width: int = 8) -> nn.Module:
    """Convolutions with batch normalization and max pooling, two dense layers with dropout."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in (width, "pool", 2 * width, 2 * width, "pool", 4 * width, "pool"):
        if outputs == "pool":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(True)]
            inputs = outputs
    head = [nn.Flatten(), nn.Linear(inputs * 4, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 10)]
    return nn.Sequential(*layers, *head)


class DenseNet(nn.Module):
    """Batch normalization before the convolutions, features concatenated, a transition (Huang et al. 2017)."""

    def __init__(self, growth: int = 4, layers: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + growth * i) for i in range(layers))
        self.convs = nn.ModuleList(
            nn.Conv2d(6 + growth * i, growth, 3, padding=1, bias=False) for i in range(layers)
        )
        width = 6 + growth * layers
        self.transition = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)
        )
        self.norm, self.head = nn.BatchNorm2d(width // 2), nn.Linear(width // 2, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        x = F.relu(self.norm(self.transition(x)))
        return self.head(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


class MobileNet(nn.Module):
    """Inverted residuals: expansion, depthwise convolution, projection (Sandler et al. 2018)."""

    def __init__(self, width: int = 6, expansion: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
        wide = width * expansion
        self.block = nn.Sequential(
            *(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(True)),
            *(nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU(True)),
            *(nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width)),
        )
        self.last = nn.Conv2d(width, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        return self.last(x.mean((2, 3), keepdim=True)).flatten(1)


class SqueezeExcitation(nn.Module):
    """A gate on each channel (Hu et al. 2018); `convolutional` writes its dense layers as 1x1 convolutions."""

    def __init__(self, width: int = 8, convolutional: bool = False) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.pool, self.convolutional = nn.AdaptiveAvgPool2d(1), convolutional
        layer = (lambda i, o: nn.Conv2d(i, o, 1)) if convolutional else nn.Linear
        self.gate = nn.Sequential(layer(width, 3), nn.ReLU(), layer(3, width), nn.Sigmoid())
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.bn(self.conv(x)))
        pooled = self.pool(x)
        if self.convolutional:
            x = x * self.gate(pooled)
        else:
            x = x * self.gate(pooled.view(x.size(0), -1)).view(x.size(0), -1, 1, 1)
        return self.head(torch.amax(x, (2, 3)))


class LeNet(nn.Module):
    """LeNet-5 as its tutorials have it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16, 20), nn.Linear(20, 12), nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), (2, 2))
        x = torch.flatten(x, 1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def multilayer_perceptron() -> nn.Module:
    """Reads images; a tanh, a batch normalization."""
    layers = (nn.Linear(768, 24), nn.BatchNorm1d(24), nn.Tanh(), nn.Linear(24, 12), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *layers, nn.Identity(), nn.Linear(12, 10))


TORCH = {  # all read (batch, 3, 16, 16) and give 10 logits
    "resnet, basic": lambda: ResNet(),
    "resnet, bottleneck": lambda: ResNet(2, 4, Bottleneck),
    "vgg": vgg,
    "densenet": DenseNet,
    "mobilenet": MobileNet,
    "squeeze and excitation": SqueezeExcitation,
    "squeeze and excitation, 1x1": lambda: SqueezeExcitation(convolutional=True),
    "lenet": LeNet,
    "multilayer perceptron": multilayer_perceptron,
}


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """With kernels large enough for signals to come through, and statistics that are not those of the start."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.dim() > 1:
                nn.init.kaiming_normal_(tensor)
            elif tensor.is_floating_point():
                low, high = (-0.3, 0.3) if name.endswith(("bias", "mean")) else (0.5, 1.5)
                tensor.uniform_(low, high)
    return model
