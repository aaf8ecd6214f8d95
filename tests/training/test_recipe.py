import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.training.recipe import History, Training


def test_history_gives_columns_and_the_row_that_was_kept():
    rows = [{"epoch": 1, "step": 3, "train_loss": 0.5}, {"epoch": 2, "step": 6, "train_loss": 0.25}]
    history = History(0, rows, kept_row=1)
    assert history["train_loss"] == [0.5, 0.25]
    assert history.kept is rows[0]
    assert repr(history) == "History(seed 0, 2 rows, kept step 3: train_loss 0.50)"
    assert History(0).kept == {} and repr(History(0)) == "History(seed 0, 0 rows, no row yet)"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epochs": 0}, "epochs must be a whole number, at least 1; received 0."),
        ({"epochs": True}, "epochs must be a whole number, at least 1; received True."),
        ({"batch_size": 2.5}, "batch_size must be a whole number, at least 1; received 2.5."),
        (
            {"optimizer": "SGD"},
            "optimizer must be one of sgd, adam, adamw; received 'SGD'. Did you mean 'sgd'?",
        ),
        (
            {"optimizer": "adamww"},
            "optimizer must be one of sgd, adam, adamw; received 'adamww'. Did you mean 'adamw'?",
        ),
        ({"learning_rate": 0}, "learning_rate must be a finite number, above 0; received 0."),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number, above 0; received nan."),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1; received 1.0."),
        (
            {"optimizer": "adam", "momentum": 0.9},
            "momentum and nesterov belong to sgd; received adam. Leave them out.",
        ),
        ({"nesterov": True}, "nesterov needs a momentum above 0; received 0.0."),
        ({"weight_decay": -1}, "weight_decay must be a finite number, at least 0; received -1."),
        ({"patience": 0}, "patience must be a whole number, at least 1; received 0."),
        ({"steps": 0}, "steps must be a whole number, at least 1; received 0."),
        (
            {"learning_rate_schedule": "cosin"},
            "learning_rate_schedule must be one of cosine, constant; received 'cosin'. Did you mean 'cosine'?",
        ),
        ({"report_every": 1.5}, "report_every must be a whole number, at least 1; received 1.5."),
    ],
)
def test_recipes_out_of_range_are_refused(options, sentence):
    with pytest.raises(NnoptError) as error:
        Training(**options)
    assert str(error.value) == sentence


@pytest.mark.parametrize("options", [{"steps": 17}, {"epochs": 3, "batch_size": 8}, {"steps": 1}])
def test_the_falling_rate_is_that_of_pytorch(options):
    import torch

    recipe = Training(learning_rate=0.3, **options)
    total = recipe.total_steps(50)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        falling.step()
    assert [recipe.rate(step, total) for step in range(1, total + 1)] == pytest.approx(rates)
    assert rates[0] == 0.3 and all(rate > 0 for rate in rates)


def test_a_constant_rate_stays():
    recipe = Training(learning_rate=0.3, learning_rate_schedule="constant")
    assert {recipe.rate(step, 9) for step in range(1, 10)} == {0.3}


@pytest.mark.parametrize(
    ("options", "total"), [({"epochs": 3, "batch_size": 8}, 21), ({"epochs": 3, "steps": 5}, 5)]
)
def test_steps_in_all(options, total):
    assert Training(**options).total_steps(50) == total  # 50 = 6 · 8 + 2: the last batch is smaller
