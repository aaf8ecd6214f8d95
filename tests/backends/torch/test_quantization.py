"""Training for few bits, straight through the rounding; int8 layers."""

import io

import numpy as np
import pytest
import torch
from torch import nn

import nnopt_lib as nnopt
from nnopt_lib.backends.torch.quantization import StraightThrough, rounded
from nnopt_lib.compression import Quantization, quantize, quantize_dynamic, quantize_static, quantize_weights
from tests.networks import arrays

pytestmark = pytest.mark.torch
SPEC = nnopt.cnn((4, 6), input_shape=(2, 12), outputs=4, batch_norm=True)
RECIPES = [
    Quantization(bits, scheme, per, group=5)
    for bits in (2, 4, 8)
    for scheme in ("symmetric", "affine")
    for per in ("tensor", "row", "group")
]
TRAINING = nnopt.Training(epochs=2, batch_size=16, learning_rate=0.1, momentum=0.5, weight_decay=1e-3)


def on_grid(weights, recipe):
    """Whether each number is a whole number of steps of few bits away from the others, 0 among them."""
    kernel = weights.reshape(1 if recipe.per == "tensor" else len(weights), -1).astype(np.float64)
    width = recipe.group if recipe.per == "group" else kernel.shape[1]
    for row in kernel:
        for group in np.split(row, range(width, len(row), width)):
            values = np.unique(np.append(group, 0))
            gaps = np.diff(values)
            if len(gaps):
                # Few values: the step is the largest number that all gaps are multiples of.
                step = (
                    np.gcd.reduce((gaps / np.ldexp(1.0, -60)).astype(object).astype(int).tolist()) * 2.0**-60
                )
                if (values[-1] - values[0]) / step > 2**recipe.bits - 1:
                    return False
    return True


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("shape", [(6, 14), (3, 2, 3, 3), (5,)])
def test_rounding_is_that_of_quantize_bit_for_bit(recipe, shape):
    kernel = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    kernel[0] = 0
    options = {"bits": recipe.bits, "scheme": recipe.scheme, "per": recipe.per, "group": recipe.group}
    expected = quantize(kernel, **options).dequantize()
    given = rounded(torch.from_numpy(kernel), recipe).numpy()
    assert given.shape == shape and given.tobytes() == expected.tobytes()


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_trained_weights_lie_on_their_grid_and_pruned_ones_stay_zero(recipe):
    model, data = nnopt.build(SPEC, seed=1), arrays(shape=(2, 12))
    masks = nnopt.prune(model, sparsity=0.5)
    start = nnopt.get_weights(model)
    nnopt.fit(model, data, TRAINING, masks=masks, quantization=recipe, device="cpu")
    weights = nnopt.get_weights(model)
    options = {"bits": recipe.bits, "scheme": recipe.scheme, "per": recipe.per, "group": recipe.group}
    _, quantized = quantize_weights(model, **options)
    for name, mask in masks.items():
        assert not weights[name][~mask].any() and weights[name].any()
        assert on_grid(weights[name], recipe), name
        assert not on_grid(start[name], recipe), name
        if recipe.scheme == "symmetric":
            assert np.array_equal(quantized[name].dequantize(), weights[name])


def test_the_weights_that_early_stopping_goes_back_to_lie_on_the_grid():
    model, data = nnopt.build(SPEC, seed=1), arrays(shape=(2, 12))
    recipe = nnopt.Training(epochs=30, batch_size=16, learning_rate=0.5, patience=2)
    history = nnopt.fit(model, data, recipe, quantization=Quantization(3), device="cpu")
    assert history.kept_row < len(history.rows)
    _, quantized = quantize_weights(model, bits=3)
    weights = nnopt.get_weights(model)
    assert all(np.array_equal(each.dequantize(), weights[name]) for name, each in quantized.items())


def test_gradients_are_those_at_the_quantized_weights_and_step_the_float_ones():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    floats = [model[0].weight.detach().clone(), model[2].weight.detach().clone()]
    x, y = torch.randn(20, 5, dtype=torch.float64), torch.randint(3, (20,))
    held = StraightThrough(model, ["0/kernel", "2/kernel"], Quantization(3))
    kernels = [model[0].weight, model[2].weight]
    for kernel, value in zip(kernels, floats, strict=True):
        assert torch.equal(kernel, rounded(value, Quantization(3)).double()) and not torch.equal(
            kernel, value
        )
    loss = lambda: nn.functional.cross_entropy(model(x), y)
    slopes = []
    with torch.no_grad():
        for kernel in kernels:
            slope = torch.zeros_like(kernel)
            for place in np.ndindex(*kernel.shape):
                ends = []
                for move in (1e-6, -2e-6):
                    kernel[place] += move
                    ends.append(loss())
                kernel[place] += 1e-6
                slope[place] = (ends[0] - ends[1]) / 2e-6
            slopes.append(slope)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held.before()
    loss().backward()
    held.after_backward()
    for kernel, value in zip(kernels, floats, strict=True):
        assert torch.equal(kernel, value)
    optimizer.step()
    held.after_step(0.1)
    for kept, value, slope, kernel in zip(held.floats, floats, slopes, kernels, strict=True):
        torch.testing.assert_close(kept, value - 0.1 * slope, rtol=0, atol=1e-8)
        assert torch.equal(kernel, rounded(kept, Quantization(3)).double())


def test_steps_smaller_than_the_grid_add_up():
    """Without the float weights aside nothing would ever move."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    held = StraightThrough(model, ["kernel"], Quantization(8))
    for _ in range(4):
        held.before()
        held.after_backward()
        with torch.no_grad():
            model.weight.sub_(0.01)
        held.after_step(0.01)
    assert held.floats[0].item() == pytest.approx(0.96)


def test_a_threshold_acts_on_the_float_weights():
    model, data = nnopt.build(SPEC, seed=1), arrays(shape=(2, 12))
    penalty = nnopt.Penalty("proximal_l1", 0.5)
    nnopt.fit(model, data, TRAINING, penalty=penalty, quantization=Quantization(4), device="cpu")
    weights = nnopt.get_weights(model)
    assert np.mean(weights["dense_1/kernel"] == 0) > 0.3
    assert all(on_grid(weights[name], Quantization(4)) for name in nnopt.prunable(model))


def test_an_int8_layer_comes_back_from_a_file():
    model, x = nnopt.build(nnopt.mlp((6,), inputs=12, outputs=4), seed=1), torch.randn(30, 12)
    small, other = quantize_dynamic(model), quantize_dynamic(nnopt.build(model.spec, seed=2))
    expected = small(x)
    assert not torch.equal(other(x), expected)
    other.load_state_dict(small.state_dict())
    assert torch.equal(other(x), expected)
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), expected)
    assert small.state_dict()["dense_1.codes"].dtype == torch.int8


def test_int8_layers_read_more_axes_and_shared_ones_stay_shared():
    layer = nn.Linear(6, 6)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    small = quantize_dynamic(model)
    assert small[0] is small[2] is not layer
    x = torch.randn(3, 5, 6)
    assert small(x).shape == (3, 5, 6) and (small(x) - model(x)).abs().max() < 0.1


def test_attention_keeps_its_own_projection_in_float():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    small = quantize_dynamic(nn.Sequential(layer))
    assert type(small[0].self_attn.out_proj) is type(layer.self_attn.out_proj)
    assert type(small[0].linear1).__name__ == "Int8Linear"
    with torch.no_grad():
        x = torch.randn(4, 3, 8)
        assert (quantize_static(nn.Sequential(layer), x)[0](x) - layer(x)).abs().max() < 0.1
