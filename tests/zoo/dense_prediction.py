"""Networks that answer with maps: U-Net, a feature pyramid, and a detector like YOLOv8."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.zoo.residual import BasicBlock, ResNet


class DoubleConv(nn.Module):
    """Twice a 3x3 convolution, batch normalization and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)),
            *(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Up(nn.Module):
    """A transposed convolution, padded to the map it is joined with, since odd sizes lose a row on the way."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, inputs // 2, kernel_size=2, stride=2)
        self.conv = DoubleConv(inputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        rows, columns = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
        x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return self.conv(torch.cat([skip, x], dim=1))


class UNet(nn.Module):
    """Ronneberger et al. 2015 with padding and batch normalization; the way back reads the way down."""

    def __init__(self, channels: int = 3, classes: int = 2) -> None:
        super().__init__()
        self.inc, self.pool = DoubleConv(channels, 64), nn.MaxPool2d(2)
        self.down1, self.down2 = DoubleConv(64, 128), DoubleConv(128, 256)
        self.down3, self.down4 = DoubleConv(256, 512), DoubleConv(512, 1024)
        self.up1, self.up2, self.up3, self.up4 = Up(1024, 512), Up(512, 256), Up(256, 128), Up(128, 64)
        self.outc = nn.Conv2d(64, classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.inc(x)
        x2 = self.down1(self.pool(x1))
        x3 = self.down2(self.pool(x2))
        x4 = self.down3(self.pool(x3))
        x = self.up1(self.down4(self.pool(x4)), x4)
        x = self.up2(x, x3)
        x = self.up3(x, x2)
        return self.outc(self.up4(x, x1))


class FeaturePyramid(nn.Module):
    """Lin et al. 2017 on ResNet-18: a dictionary of maps, all as wide."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.body = ResNet(BasicBlock, (2, 2, 2, 2))
        self.body.fc = nn.Identity()
        self.inner_blocks = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in (64, 128, 256, 512))
        self.layer_blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.body.stages(x)
        last = self.inner_blocks[-1](maps[-1])
        results = [self.layer_blocks[-1](last)]
        for i in range(len(maps) - 2, -1, -1):
            lateral = self.inner_blocks[i](maps[i])
            last = lateral + F.interpolate(last, size=lateral.shape[-2:], mode="nearest")
            results.insert(0, self.layer_blocks[i](last))
        results.append(F.max_pool2d(results[-1], kernel_size=1, stride=2, padding=0))
        return dict(zip(("0", "1", "2", "3", "pool"), results, strict=True))


class Conv(nn.Module):
    """Convolution, batch normalization and one SiLU that all layers share."""

    default_act = nn.SiLU()

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001, momentum=0.03)
        self.act = self.default_act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Residual(nn.Module):
    """Two 3x3 convolutions, summed with what they read in the backbone and not in the neck."""

    def __init__(self, width: int, add: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(width, width, 3), Conv(width, width, 3), add

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    """Cut in two; each block reads the last piece, and all pieces are joined."""

    def __init__(self, inputs: int, outputs: int, blocks: int = 1, add: bool = False) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1, self.cv2 = Conv(inputs, 2 * half), Conv((2 + blocks) * half, outputs)
        self.m = nn.ModuleList(Residual(half, add) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    """One pool, three times: windows of 5, 9 and 13."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 5) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(inputs, inputs // 2), Conv(inputs // 2 * 4, outputs)
        self.m = nn.MaxPool2d(kernel_size=kernel, stride=1, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        y1 = self.m(x)
        y2 = self.m(y1)
        return self.cv2(torch.cat((x, y1, y2, self.m(y2)), 1))


class Detect(nn.Module):
    """Boxes as distributions over 16 distances per side, and scores of classes, at three scales."""

    def __init__(self, widths: tuple[int, ...], classes: int = 80, bins: int = 16) -> None:
        super().__init__()
        self.classes, self.bins = classes, bins
        self.stride = torch.tensor([8.0, 16.0, 32.0])  # neither a parameter nor a buffer
        box, score = max(16, widths[0] // 4, bins * 4), max(widths[0], min(classes, 100))
        self.cv2 = nn.ModuleList(
            nn.Sequential(Conv(width, box, 3), Conv(box, box, 3), nn.Conv2d(box, 4 * bins, 1))
            for width in widths
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(Conv(width, score, 3), Conv(score, score, 3), nn.Conv2d(score, classes, 1))
            for width in widths
        )
        self.dfl = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)  # an expected value
        self.dfl.weight.data[:] = torch.arange(bins, dtype=torch.float).view(1, bins, 1, 1)

    def forward(self, maps: list[Tensor]) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        for i in range(len(maps)):
            maps[i] = torch.cat((self.cv2[i](maps[i]), self.cv3[i](maps[i])), 1)
        if self.training:
            return maps
        joined = torch.cat([x.view(x.shape[0], 4 * self.bins + self.classes, -1) for x in maps], 2)
        box, scores = joined.split((4 * self.bins, self.classes), 1)
        b, _, anchors = box.shape
        box = self.dfl(box.view(b, 4, self.bins, anchors).transpose(2, 1).softmax(1)).view(b, 4, anchors)
        centers, strides = self.anchors(maps)
        near, far = box.chunk(2, 1)
        corners = torch.cat((centers - near, centers + far), 1)
        return torch.cat((corners * strides, scores.sigmoid()), 1), maps

    def anchors(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The middle of every cell, and its size in pixels."""
        centers, strides = [], []
        for x, stride in zip(maps, self.stride, strict=True):
            height, width = x.shape[2:]
            rows = torch.arange(height, dtype=x.dtype, device=x.device) + 0.5
            columns = torch.arange(width, dtype=x.dtype, device=x.device) + 0.5
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            centers.append(torch.stack((x, y), -1).view(-1, 2))
            strides.append(stride.expand(height * width))
        return torch.cat(centers).t(), torch.cat(strides)


class Detector(nn.Module):
    """The smallest YOLOv8: a backbone in a list, and a neck that goes up and down again."""

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.backbone = nn.ModuleList(
            (
                *(Conv(3, 16, 3, 2), Conv(16, 32, 3, 2), C2f(32, 32, 1, True)),
                *(Conv(32, 64, 3, 2), C2f(64, 64, 2, True), Conv(64, 128, 3, 2), C2f(128, 128, 2, True)),
                *(Conv(128, 256, 3, 2), C2f(256, 256, 1, True), SPPF(256, 256)),
            )
        )
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.fuse4, self.fuse3 = C2f(384, 128), C2f(192, 64)
        self.down3, self.fuse4b = Conv(64, 64, 3, 2), C2f(192, 128)
        self.down4, self.fuse5 = Conv(128, 128, 3, 2), C2f(384, 256)
        self.detect = Detect((64, 128, 256), classes)

    def forward(self, x: Tensor) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        kept = []
        for i, layer in enumerate(self.backbone):
            x = layer(x)
            if i in (4, 6, 9):
                kept.append(x)
        p3, p4, p5 = kept
        p4 = self.fuse4(torch.cat((self.upsample(p5), p4), 1))
        p3 = self.fuse3(torch.cat((self.upsample(p4), p3), 1))
        p4 = self.fuse4b(torch.cat((self.down3(p3), p4), 1))
        p5 = self.fuse5(torch.cat((self.down4(p4), p5), 1))
        return self.detect([p3, p4, p5])
