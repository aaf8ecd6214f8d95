"""Distillation, against formulas written out, finite differences, Keras's own loss and plain training."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nnopt_lib as nnopt
from nnopt_lib.checks import NnoptError
from tests.networks import arrays

pytestmark = pytest.mark.torch

STUDENT = nnopt.mlp((5,), inputs=12, outputs=4)
TEACHER = nnopt.mlp((9, 7), inputs=12, outputs=4)
RECIPE = nnopt.Training(epochs=2, batch_size=16, learning_rate=0.1, momentum=0.9, weight_decay=1e-3)
BOTH = [pytest.param("torch"), pytest.param("keras", marks=pytest.mark.keras)]


def trained_teacher(framework="torch", spec=TEACHER):
    model = nnopt.build(spec, framework, seed=9)
    nnopt.fit(model, arrays(), RECIPE, seed=9, device="cpu")
    return model


def student_after(framework, teacher=None, *, spec=STUDENT, data=None, recipe=RECIPE, **options):
    """Weights of a student after training; `options` are the distillation's, or fit's masks and penalty."""
    fits = {name: options.pop(name) for name in ("masks", "penalty") if name in options}
    model = nnopt.build(spec, framework, seed=1)
    taught = None if teacher is None else nnopt.Distillation(teacher, **options)
    data = arrays() if data is None else data
    nnopt.fit(model, data, recipe, seed=3, device="cpu", distillation=taught, **fits)
    return nnopt.get_weights(model)


def assert_equal(one, other, atol=0.0):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=atol, err_msg=name)


def refusal(call):
    with pytest.raises(NnoptError) as error:
        call()
    return str(error.value)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def by_formula(student, teacher, y, temperature, alpha):
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    divergence = (p * np.log(p / q)).sum(1).mean()
    labels = -np.log(softmax(student)[range(len(y)), y]).mean()
    return (1 - alpha) * labels + alpha * temperature**2 * divergence


def drawn(seed, examples=6, classes=4):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(2, examples, classes)) * 3
    return logits[0], logits[1], random.integers(0, classes, examples)


# ---------------------------------------------------------------- the loss


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.5, 30), st.floats(0, 1))
def test_the_loss_and_its_gradient_are_those_of_the_formula(seed, temperature, alpha):
    student, teacher, y = drawn(seed)
    logits = torch.tensor(student, requires_grad=True)
    loss = nnopt.distillation_loss(logits, teacher, torch.tensor(y), temperature=temperature, alpha=alpha)
    loss.backward()
    assert loss.item() == pytest.approx(by_formula(student, teacher, y, temperature, alpha), rel=1e-9)
    step, slopes = 1e-5, np.zeros_like(student)
    for place in np.ndindex(student.shape):
        moved = [student.copy(), student.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (by_formula(one, teacher, y, temperature, alpha) for one in moved)
        slopes[place] = (up - down) / (2 * step)
    np.testing.assert_allclose(logits.grad.numpy(), slopes, atol=1e-6)


@pytest.mark.keras
def test_keras_computes_the_same_loss_and_so_does_keras_own():
    from nnopt_lib.backends.keras import keras, tf

    for seed, temperature, alpha in ((0, 1.0, 1.0), (1, 4.0, 0.5), (2, 20.0, 0.9)):
        student, teacher, y = drawn(seed)
        student, teacher = student.astype(np.float32), teacher.astype(np.float32)
        options = {"temperature": temperature, "alpha": alpha}
        variable = tf.Variable(student)
        with tf.GradientTape() as tape:
            loss = nnopt.distillation_loss(variable, teacher, y, **options)
        logits = torch.tensor(student, requires_grad=True)
        in_torch = nnopt.distillation_loss(logits, torch.tensor(teacher), torch.tensor(y), **options)
        in_torch.backward()
        assert float(loss) == pytest.approx(in_torch.item(), rel=1e-5)
        np.testing.assert_allclose(tape.gradient(loss, variable), logits.grad, atol=1e-6)
        # An instance: by its name, "kl_divergence", Keras 3.15 compares logits as if they were probabilities.
        keras_own = keras.distillation.LogitsDistillation(temperature, keras.losses.KLDivergence())
        keras_loss = keras_own.compute_loss(teacher, student)
        labels = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, student)
        assert float(loss) == pytest.approx(float((1 - alpha) * labels + alpha * keras_loss), rel=1e-4)


def test_hot_softmaxes_compare_logits():
    """Hinton et al. 2015, section 2.1: for T above all logits, T² times the gradient is (z - v) / N, centered."""
    student, teacher, y = drawn(5)
    logits = torch.tensor(student, requires_grad=True)
    nnopt.distillation_loss(logits, teacher, torch.tensor(y), temperature=1000.0, alpha=1.0).backward()
    centered = [one - one.mean(1, keepdims=True) for one in (student, teacher)]
    expected = (centered[0] - centered[1]) / (4 * len(y))  # classes, examples
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=0.02, atol=2e-3)


def test_no_gradient_goes_into_the_teacher():
    student, teacher, y = (torch.tensor(one) for one in drawn(0))
    student.requires_grad_(), teacher.requires_grad_()
    nnopt.distillation_loss(student, teacher, y).backward()
    assert teacher.grad is None


def test_a_teacher_that_is_not_listened_to_may_say_anything():
    student, _, y = drawn(0)
    loss = nnopt.distillation_loss(torch.tensor(student), np.full((6, 4), np.inf), torch.tensor(y), alpha=0)
    assert loss == torch.nn.functional.cross_entropy(torch.tensor(student), torch.tensor(y))


# ---------------------------------------------------------------- in fit


@pytest.mark.parametrize("framework", BOTH)
def test_alpha_0_is_plain_training_bit_for_bit(framework):
    teacher = trained_teacher()
    assert_equal(student_after(framework, teacher, alpha=0.0), student_after(framework))
    assert not np.array_equal(
        student_after(framework, teacher)["dense_1/kernel"], student_after(framework)["dense_1/kernel"]
    )


def test_alpha_0_draws_nothing_that_dropout_would_draw():
    def after(distillation):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.Dropout(), torch.nn.Linear(8, 4))
        nnopt.fit(model, arrays(), RECIPE, seed=3, device="cpu", distillation=distillation)
        return nnopt.get_weights(model)

    class Noisy(torch.nn.Linear):  # draws in evaluation mode, too
        def forward(self, x):
            return super().forward(x) + torch.randn(1)

    assert_equal(after(nnopt.Distillation(Noisy(12, 4), alpha=0.0)), after(None))


def test_fit_follows_a_loop_written_out():
    data, teacher = arrays(), trained_teacher()
    model = nnopt.build(STUDENT, seed=1)
    recipe = nnopt.Training(steps=3, batch_size=30, shuffle=False, learning_rate_schedule="constant")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for first in (0, 30, 60):
        x, y = (torch.tensor(v[first : first + 30]) for v in (data.x_train, data.y_train))
        optimizer.zero_grad()
        nnopt.distillation_loss(model(x), teacher(x), y, temperature=3.0, alpha=0.7).backward()
        optimizer.step()
    fitted = student_after("torch", teacher, recipe=recipe, temperature=3.0, alpha=0.7)
    assert_equal(fitted, nnopt.get_weights(model), atol=1e-6)


@pytest.mark.keras
@pytest.mark.parametrize("hidden", [(), (("dense_1", "dense_2"),)])
def test_both_frameworks_learn_the_same_from_a_teacher_of_either(hidden):
    teacher = trained_teacher()
    twin = nnopt.build(TEACHER, "keras")
    nnopt.copy_weights(teacher, twin)
    results = [
        student_after(framework, one, hidden=hidden)
        for framework in ("torch", "keras")
        for one in (teacher, twin)
    ]
    for other in results[1:]:
        assert_equal(results[0], other, atol=2e-6)


def convolutional(filters):
    return nnopt.cnn((filters,), input_shape=(3, 6, 5), outputs=4)


@pytest.mark.keras
def test_hidden_convolutions_are_mapped_over_channels_alike():
    data, recipe = arrays(shape=(3, 6, 5)), nnopt.Training(epochs=1, batch_size=16, learning_rate=0.05)
    teacher = nnopt.build(convolutional(6), seed=4)
    options = {"spec": convolutional(2), "data": data, "recipe": recipe, "hidden": [("conv2d_1", "conv2d_1")]}
    one, other = (student_after(framework, teacher, **options) for framework in ("torch", "keras"))
    assert_equal(one, other, atol=1e-5)


@pytest.mark.parametrize("framework", BOTH)
def test_hidden_layers_come_closer_to_the_teachers(framework):
    """A student without labels and logits: what a linear map can tell of the teacher's layer grows."""
    data, teacher = arrays(), trained_teacher()
    model = nnopt.build(STUDENT, framework, seed=1)
    taught = nnopt.Distillation(teacher, alpha=0.0, hidden=(("dense_1", "dense_1"),), hidden_weight=100.0)

    def unexplained():
        weights = nnopt.get_weights(model)
        read = data.x_train @ weights["dense_1/kernel"].T + weights["dense_1/bias"]
        target = nnopt.get_weights(teacher)
        target = data.x_train @ target["dense_1/kernel"].T + target["dense_1/bias"]
        read = np.c_[read, np.ones(len(read))]
        return ((read @ np.linalg.lstsq(read, target, rcond=None)[0] - target) ** 2).mean()

    before = unexplained()
    recipe = nnopt.Training(epochs=40, batch_size=30, optimizer="adam", learning_rate=0.02)
    nnopt.fit(model, data, recipe, device="cpu", distillation=taught)
    assert unexplained() < 0.7 * before


@pytest.mark.parametrize("framework", BOTH)
def test_masks_stay_and_a_penalty_acts_beside_it(framework):
    teacher = trained_teacher()
    masks = nnopt.prune(nnopt.build(STUDENT, framework, seed=1), sparsity=0.5)
    options = {"masks": masks, "hidden": (("dense_1", "dense_2"),)}
    plain = student_after(framework, teacher, **options)
    shrunk = student_after(framework, teacher, penalty=nnopt.Penalty("l1", 0.05), **options)
    for weights in (plain, shrunk):
        assert all((weights[name][~masks[name]] == 0).all() for name in masks)
    assert abs(shrunk["dense_1/kernel"]).sum() < 0.9 * abs(plain["dense_1/kernel"]).sum()


@pytest.mark.parametrize("framework", BOTH)
def test_the_teacher_and_the_students_modules_stay_as_they_were(framework):
    teacher, model = trained_teacher(framework), nnopt.build(STUDENT, framework, seed=1)
    before = nnopt.get_weights(teacher)
    taught = nnopt.Distillation(teacher, hidden=(("dense_1", "dense_1"),))
    nnopt.fit(model, arrays(), RECIPE, device="cpu", distillation=taught)
    assert_equal(nnopt.get_weights(teacher), before)
    for one in (teacher, model):
        if framework == "torch":
            assert not any(module._forward_hooks for module in one.modules())
            copy.deepcopy(one)
        else:
            assert not any("call" in layer.__dict__ for layer in one.layers)


def test_validation_losses_are_without_the_teacher():
    data, model = arrays(), nnopt.build(STUDENT, seed=1)
    history = nnopt.fit(model, data, RECIPE, distillation=nnopt.Distillation(trained_teacher()), device="cpu")
    loss = nnopt.evaluate(model, data.x_validation, data.y_validation)["loss"]
    assert history["validation_loss"][-1] == pytest.approx(loss)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": 0}, "temperature must be a finite number, above 0; received 0."),
        ({"temperature": -2.5}, "temperature must be a finite number, above 0; received -2.5."),
        ({"temperature": float("nan")}, "temperature must be a finite number, above 0; received nan."),
        ({"alpha": 1.5}, "alpha must be from 0 (labels only) to 1 (the teacher only); received 1.5."),
        ({"alpha": -0.1}, "alpha must be from 0 (labels only) to 1 (the teacher only); received -0.1."),
    ],
)
def test_temperature_and_alpha_outside_their_range_are_refused(options, sentence):
    logits = torch.zeros(2, 4)
    assert (
        refusal(lambda: nnopt.distillation_loss(logits, logits, torch.zeros(2, dtype=int), **options))
        == sentence
    )
    assert refusal(lambda: nnopt.Distillation(nnopt.build(STUDENT), **options)) == sentence


def test_other_parts_of_a_distillation_are_refused():
    model = nnopt.build(STUDENT)
    expected = "hidden must be pairs (student's layer, teacher's layer); received "
    for hidden in ("dense_1", ("dense_1", "dense_2"), [("dense_1",)], [("dense_1", 2)]):
        assert refusal(lambda hidden=hidden: nnopt.Distillation(model, hidden=hidden)).startswith(expected)
    assert (
        refusal(lambda: nnopt.Distillation(model, hidden_weight=0))
        == "hidden_weight must be a finite number, above 0; received 0."
    )
    assert (
        refusal(lambda: nnopt.Distillation("teacher"))
        == "a model must be a torch.nn.Module or a keras.Model; received builtins.str."
    )


def test_logits_that_do_not_fit_are_refused():
    y = torch.zeros(2, dtype=int)
    assert refusal(lambda: nnopt.distillation_loss(torch.zeros(2, 4), np.zeros((2, 5)), y)) == (
        "logits of student and teacher must have one shape, (examples, classes); received (2, 4) and (2, 5)."
    )
    assert refusal(lambda: nnopt.distillation_loss(np.zeros((2, 4)), np.zeros((2, 4)), y)) == (
        "logits of a student must be a tensor of PyTorch or TensorFlow; received numpy.ndarray."
    )


@pytest.mark.parametrize("framework", BOTH)
@pytest.mark.parametrize(
    ("teacher", "hidden", "sentence"),
    [
        (
            nnopt.mlp((5,), inputs=12, outputs=7),
            (),
            "teacher and student must give equally many outputs; received 7 and 4.",
        ),
        (TEACHER, (("dense_9", "dense_1"),), "the model has no layer 'dense_9'. Did you mean 'dense_2'?"),
        (TEACHER, (("dense_1", "dense_9"),), "the model has no layer 'dense_9'. Did you mean 'dense_3'?"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_anything_changes(framework, teacher, hidden, sentence):
    model, teacher = nnopt.build(STUDENT, framework, seed=1), nnopt.build(teacher, framework)
    before = nnopt.get_weights(model)
    taught = nnopt.Distillation(teacher, hidden=hidden)
    masks = nnopt.prune(nnopt.build(STUDENT, framework, seed=1), sparsity=0.5)
    assert refusal(lambda: nnopt.fit(model, arrays(), RECIPE, distillation=taught, masks=masks)) == sentence
    assert_equal(nnopt.get_weights(model), before)


def test_hidden_layers_of_unequal_space_and_answers_that_are_not_numbers_are_refused():
    data = arrays(shape=(3, 6, 5))
    smaller = nnopt.cnn((2,), input_shape=(3, 6, 5), outputs=4)
    student, teacher = nnopt.build(smaller), nnopt.build(convolutional(3))
    pair = (("conv2d_1", "dense_1"),)
    taught = nnopt.Distillation(teacher, hidden=pair)
    assert refusal(lambda: nnopt.fit(student, data, RECIPE, distillation=taught)) == (
        "hidden layers ('conv2d_1', 'dense_1') must have equal sizes in space; received (6, 5) and ()."
    )
    with torch.no_grad():
        teacher.dense_1.bias[0] = torch.nan
    taught = nnopt.Distillation(teacher)
    assert refusal(lambda: nnopt.fit(student, data, RECIPE, distillation=taught)) == (
        "a teacher's logits must be finite; received NaN or inf for 90 of 90 examples."
    )


def test_a_layer_that_is_called_twice_is_refused():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inside, self.out = torch.nn.Linear(12, 12), torch.nn.Linear(12, 4)

        def forward(self, x):
            return self.out(self.inside(self.inside(x)))

    taught = nnopt.Distillation(Twice(), hidden=(("dense_1", "inside"),))
    assert refusal(lambda: nnopt.fit(nnopt.build(STUDENT), arrays(), RECIPE, distillation=taught)) == (
        "layer 'inside' must give one tensor, (examples, channels, ...), once; received 2 calls."
    )
