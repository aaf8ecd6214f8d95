"""Quantized models of both frameworks: their weights, int8 kernels, calibrated inputs."""

import copy

import numpy as np
import pytest

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from nnopt_lib.compression import quantize, quantize_dynamic, quantize_static, quantize_weights
from nnopt_lib.compression.quantized_models import straight_through
from tests.networks import arrays

pytestmark = [pytest.mark.torch, pytest.mark.keras]
both = pytest.mark.parametrize("framework", ["torch", "keras"])
MLP = nnopt.mlp((9, 7), inputs=12, outputs=4)
CNN = nnopt.cnn((4, 6), input_shape=(2, 12), outputs=4, batch_norm=True)


def inputs(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def with_bad_number(framework, bad=np.nan):
    model = nnopt.build(MLP, framework)
    weights = nnopt.get_weights(model)
    weights["dense_2/kernel"][1, 2] = bad
    nnopt.set_weights(model, weights)
    return model


@both
@pytest.mark.parametrize("spec", [MLP, CNN], ids=["mlp", "cnn"])
def test_a_copy_holds_the_quantized_weights_and_the_model_its_own(framework, spec):
    model = nnopt.build(spec, framework, seed=3)
    before = nnopt.get_weights(model)
    small, quantized = quantize_weights(model, bits=3, scheme="affine", per="group", group=5)
    after = nnopt.get_weights(small)
    assert list(quantized) == nnopt.prunable(model) and set(after) == set(before)
    for name, value in before.items():
        expected = value
        if name in quantized:
            expected = quantize(value, bits=3, scheme="affine", per="group", group=5).dequantize()
            assert np.array_equal(quantized[name].dequantize(), expected)
        assert np.array_equal(after[name], expected), name
        assert np.array_equal(nnopt.get_weights(model)[name], value), name


@both
def test_pruned_weights_stay_zero_and_named_ones_alone_are_quantized(framework):
    model = nnopt.build(MLP, framework)
    masks = nnopt.prune(model, sparsity=0.7)
    small, quantized = quantize_weights(model, bits=2, scheme="affine", names=["dense_2/kernel"])
    after = nnopt.get_weights(small)
    assert (
        list(quantized) == ["dense_2/kernel"] and not after["dense_2/kernel"][~masks["dense_2/kernel"]].any()
    )
    assert np.array_equal(after["dense_1/kernel"], nnopt.get_weights(model)["dense_1/kernel"])


@both
def test_int8_kernels_give_what_rounded_numbers_give(framework):
    model, x = nnopt.build(MLP, framework, seed=1), inputs(50, 12)
    small = quantize_dynamic(model, names=["dense_1/kernel"])
    weights = nnopt.get_weights(model)
    if framework == "torch":  # one affine grid of 7 bits for the batch
        ends = min(x.min(), 0), max(x.max(), 0)
        scale = (ends[1] - ends[0]) / 127
        zero_point = np.rint(-ends[0] / scale)
        read = (np.clip(np.rint(x / scale) + zero_point, 0, 127) - zero_point) * scale
    else:  # a symmetric one of 8 bits for each example
        scale = np.abs(x).max(1, keepdims=True) / 127
        read = np.rint(x / scale) * scale
    kernel = quantize(weights["dense_1/kernel"], per="row").dequantize()
    hidden = np.maximum(read @ kernel.T + weights["dense_1/bias"], 0)
    hidden = np.maximum(hidden @ weights["dense_2/kernel"].T + weights["dense_2/bias"], 0)
    expected = hidden @ weights["dense_3/kernel"].T + weights["dense_3/bias"]
    # Exact sums of whole numbers, but which of two codes a number in the middle gets may differ.
    np.testing.assert_allclose(nnopt.predict(small, x), expected, atol=2e-3)
    distance = np.abs(nnopt.predict(small, x) - nnopt.predict(model, x)).max()
    assert 0 < distance < 0.1 * np.abs(expected).max()


@both
def test_a_model_with_int8_kernels_can_be_copied_and_the_first_one_goes_on(framework):
    model, x = nnopt.build(CNN, framework, seed=1), inputs(20, 2, 12)
    before = nnopt.predict(model, x)
    small = quantize_dynamic(model)
    after = nnopt.predict(small, x)
    assert np.array_equal(nnopt.predict(copy.deepcopy(small), x), after)
    assert np.array_equal(nnopt.predict(model, x), before)
    assert 0 < np.abs(after - before).max() < 0.1 * np.abs(before).max()


@both
@pytest.mark.parametrize("method", ["min-max", "percentile", "error"])
def test_calibrated_layers_read_what_lies_on_their_grid(framework, method):
    model, x = nnopt.build(MLP, framework, seed=1), inputs(80, 12)
    small, ranges = quantize_static(model, x, bits=4, method=method, percentile=99)
    weights = nnopt.get_weights(quantize_weights(model, bits=4)[0])
    assert list(ranges) == nnopt.prunable(model)
    values = x
    for number in (1, 2, 3):
        name = f"dense_{number}"
        values = quantize(values, bits=4, scheme="affine", clip=ranges[f"{name}/kernel"]).dequantize()
        values = values @ weights[f"{name}/kernel"].T + weights[f"{name}/bias"]
        values = np.maximum(values, 0) if number < 3 else values
    given = nnopt.predict(small, x)
    # Float sums in another order: a number in the middle between two values may go to the other one.
    assert np.mean(np.abs(given - values) > 1e-4) < 0.02
    if method == "min-max":
        assert ranges["dense_1/kernel"] == (x.min(), x.max())


def test_both_frameworks_calibrate_alike():
    models, x = [nnopt.build(CNN, framework, seed=1) for framework in ("torch", "keras")], inputs(40, 2, 12)
    (one, ranges), (other, others) = (quantize_static(model, x, method="percentile") for model in models)
    assert list(ranges) == list(others) and all("conv" in n or "dense" in n for n in ranges)
    for name, ends in ranges.items():
        np.testing.assert_allclose(ends, others[name], rtol=1e-5)
    np.testing.assert_allclose(nnopt.predict(one, x), nnopt.predict(other, x), atol=0.05)
    assert np.abs(nnopt.predict(one, x) - nnopt.predict(models[0], x)).max() > 0


@both
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_layer_with_numbers_that_are_none_is_named(framework, bad):
    model = with_bad_number(framework, bad)
    sentence = (
        "layer 'dense_2/kernel' must hold finite numbers to be quantized; received NaN, inf or numbers beyond "
        "8.5e+37 at 1 of 63 places. Find out where they come from: training may have diverged."
    )
    for call in (
        lambda: quantize_weights(model),
        lambda: quantize_dynamic(model),
        lambda: quantize_static(model, inputs(5, 12)),
        lambda: straight_through(model, nnopt.compression.Quantization()),
        lambda: nnopt.fit(
            model, arrays(), nnopt.Training(), device="cpu", quantization=nnopt.compression.Quantization()
        ),
    ):
        with pytest.raises(NnoptError) as error:
            call()
        assert str(error.value) == sentence


@both
def test_layers_without_int8_kernels_are_refused(framework):
    layers = {"torch": "torch.nn.Linear", "keras": "Dense and EinsumDense"}[framework]
    with pytest.raises(NnoptError) as error:
        quantize_dynamic(nnopt.build(CNN, framework), names=["conv1d_1/kernel"])
    assert str(error.value) == (
        f"int8 kernels are for weights of {layers}; received conv1d_1/kernel. It has dense_1/kernel."
    )


@both
def test_options_out_of_range_are_refused_before_anything_runs(framework):
    model = nnopt.build(MLP, framework)
    with pytest.raises(NnoptError) as error:
        quantize_weights(model, bits=16)
    assert str(error.value) == "bits must be a whole number, from 2 to 8; received 16."
    with pytest.raises(NnoptError) as error:
        quantize_weights(model, names=["dense_4/kernel"])
    assert str(error.value) == "the model has no weight 'dense_4/kernel'. Did you mean 'dense_3/kernel'?"
    with pytest.raises(NnoptError) as error:
        quantize_static(model, inputs(5, 12), method="best")
    assert str(error.value) == "method must be one of min-max, percentile, error; received 'best'."


@both
def test_what_puts_other_weights_into_the_forward_pass_is_refused_beside_quantization(framework):
    model = nnopt.build(MLP, framework)
    start = nnopt.get_weights(model)
    others = {
        "penalty='l0'": {"penalty": nnopt.Penalty("l0", 0.1)},
        "sharing": {"sharing": nnopt.compression.share_weights(nnopt.build(MLP, framework), bits=2)},
    }
    for other, option in others.items():
        with pytest.raises(NnoptError) as error:
            recipe = nnopt.compression.Quantization()
            nnopt.fit(model, arrays(), nnopt.Training(), quantization=recipe, **option)
        assert str(error.value) == (
            "quantization puts weights of its own into the forward pass, as gates and sharing do; received "
            f"quantization and {other}. Leave one out."
        )
    assert all(np.array_equal(start[name], value) for name, value in nnopt.get_weights(model).items())
