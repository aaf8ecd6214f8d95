"""Well-known networks, written from their papers as people write them; none knows of this library.

Each at its published size. Weights are torch's own at first; what would hide mistakes is drawn anew, see `drawn`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo import (
    classic,
    dense_prediction,
    inception,
    language,
    mobile,
    recurrent,
    residual,
    swin,
    transformers,
)


@dataclass(frozen=True)
class Entry:
    """One network.

    example: a batch of so many, at the smallest size that the network takes in training too.
    parameters: as published, counting shared ones once; None where nobody publishes a number.
    granularities: what `prune` is to take from it.
    loses: at least this part of the parameters goes with half of the nodes.
    """

    make: Callable[[], nn.Module]
    example: Callable[[int], Any]
    parameters: int | None
    granularities: tuple[str, ...] = ("weight", "node")
    loses: float = 0.25


def images(size: int) -> Callable[[int], Tensor]:
    """Square pictures of noise."""
    return lambda count: torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def words(length: int, vocabulary: int) -> Callable[[int], Tensor]:
    """Sentences of noise."""
    generator = torch.Generator
    return lambda count: torch.randint(1, vocabulary, (count, length), generator=generator().manual_seed(1))


def sentences(length: int, vocabulary: int) -> Callable[[int], dict[str, Tensor]]:
    """As a tokenizer gives them: the last one is shorter and padded."""

    def batch(count: int) -> dict[str, Tensor]:
        mask = torch.ones(count, length, dtype=torch.long)
        mask[-1, -3:] = 0
        return {"input_ids": words(length, vocabulary)(count) * mask, "attention_mask": mask}

    return batch


def _resnet(block: type, *layers: int, **options: int) -> Callable[[], nn.Module]:
    return lambda: residual.ResNet(block, layers, **options)


def _small_bert() -> nn.Module:
    config = {"vocab_size": 1000, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    return language.Bert(language.BertConfig(**config, intermediate_size=1024, max_position_embeddings=64))


ZOO: dict[str, Entry] = {
    "alexnet": Entry(classic.AlexNet, images(224), 61_100_840),
    "vgg16": Entry(classic.VGG, images(64), 138_357_544),
    "googlenet": Entry(lambda: classic.GoogLeNet(aux=False), images(64), 6_624_904),
    "googlenet, side heads": Entry(classic.GoogLeNet, images(64), 13_004_888),
    "inception v3": Entry(inception.Inception3, images(299), 27_161_264),
    "squeezenet 1.0": Entry(classic.squeezenet, images(64), 1_248_424),
    "resnet-18": Entry(_resnet(residual.BasicBlock, 2, 2, 2, 2), images(64), 11_689_512),
    "resnet-50": Entry(_resnet(residual.Bottleneck, 3, 4, 6, 3), images(64), 25_557_032),
    "resnext-50 32x4d": Entry(
        _resnet(residual.Bottleneck, 3, 4, 6, 3, groups=32, base_width=4), images(64), 25_028_904
    ),
    "densenet-121": Entry(residual.DenseNet, images(64), 7_978_856),
    "regnet y 400mf": Entry(residual.RegNet, images(64), 4_344_144),
    "mobilenet v2": Entry(mobile.MobileNetV2, images(64), 3_504_872),
    "mobilenet v3 small": Entry(mobile.MobileNetV3Small, images(64), 2_542_856),
    "efficientnet b0": Entry(mobile.EfficientNetB0, images(64), 5_288_548),
    "shufflenet v2": Entry(mobile.ShuffleNetV2, images(64), 2_278_604),
    "u-net": Entry(dense_prediction.UNet, images(64), 31_037_698),
    "feature pyramid": Entry(dense_prediction.FeaturePyramid, images(64), None),
    "yolo v8 nano": Entry(dense_prediction.Detector, images(64), 3_157_200),
    "convnext tiny": Entry(transformers.ConvNeXt, images(64), 28_589_128),
    "vit-b/16": Entry(transformers.VisionTransformer, images(224), 86_567_656),
    "deit small": Entry(transformers.DeiT, images(224), 22_050_664),
    "swin tiny": Entry(swin.Swin, images(224), 28_288_354),
    "mixer-s/16": Entry(transformers.Mixer, images(224), 18_528_264),
    "bert base": Entry(language.Bert, sentences(10, 30522), 109_482_240),
    "bert, small": Entry(_small_bert, sentences(10, 1000), None),
    # Its words are 31 % of it. Should heads stay whole, half of its hidden layers are 23 %.
    "gpt-2 small": Entry(language.GPT, words(10, 50257), 124_439_808, loses=0.2),
    "smollm2 135m": Entry(language.Llama, words(10, 49152), 134_515_008),
    "lstm tagger": Entry(recurrent.Tagger, words(10, 5000), None, loses=0.0),
    "gru classifier": Entry(recurrent.Classifier, words(10, 5000), None, loses=0.0),
}


def call(model: nn.Module, batch: Any) -> Any:
    """As its users do: a dictionary gives arguments by name, a tuple in order."""
    if isinstance(batch, dict):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def tensors(output: Any) -> Iterator[Tensor]:
    """All tensors of what a network answers with, in order."""
    if isinstance(output, Tensor):
        yield output
    elif is_dataclass(output):
        yield from tensors([getattr(output, field.name) for field in fields(output)])
    elif output is not None:
        for part in output.values() if isinstance(output, dict) else output:
            yield from tensors(part)


def parameter_count(model: nn.Module) -> int:
    """Shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def drawn(entry: Entry, *, seed: int = 0, count: int = 2) -> tuple[nn.Module, Any]:
    """The network with nothing left at its first 0 or 1, in evaluation mode, and a batch for it.

    Scales, shifts and layer scales are random. Statistics are near those of the batch, so that signals reach the
    end of deep networks, but off by a random part: normalization neither does nothing nor is exact.
    """
    torch.manual_seed(seed)
    model, batch = entry.make(), entry.example(count)
    with torch.no_grad():
        for parameter in model.parameters():
            first = parameter.flatten()[0].item()
            if parameter.requires_grad and (parameter == first).all():
                parameter.uniform_(*((0.5, 1.5) if first else (-0.3, 0.3)))
        _draw_statistics(model, batch)
    return model.eval(), batch


def _draw_statistics(model: nn.Module, batch: Any) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0  # all of the batch, nothing of what was before
    call(model.train(), batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        mean, variance = norm.running_mean, norm.running_var
        # The mean of squares: a channel that this batch hardly moves would be blown up, and its rounding with
        # it, until a ResNet-50 in float32 is off by 2e-5 of its outputs.
        variance.add_(mean.square())
        mean.add_(torch.empty_like(mean).uniform_(-0.3, 0.3) * variance.sqrt())
        variance.mul_(torch.empty_like(mean).uniform_(0.5, 1.5)).add_(0.1 * variance.mean() + 1e-3)
