import numpy as np
import pytest

from nnopt_lib.checks import NnoptError
from nnopt_lib.pruning import layerwise
from nnopt_lib.pruning.layerwise import layer_error, least_squares, obc, sparsegpt, spread, wanda
from tests.pruning.layers import damped, obs_order, random_layer, slow_obc, slow_sparsegpt, turns

COUNTED = (obc, sparsegpt)


def counted(random, W, H, keep=None):
    """A random number of weights to remove, at least those that were removed."""
    return int(random.integers(0 if keep is None else (~keep).sum(), W.size + 1))


# ---------------------------------------------------------------- what all methods promise


@pytest.mark.parametrize("method", COUNTED)
def test_numbers_are_exact_and_removed_stays_removed_in_1000_cases(method):
    random = np.random.default_rng(0)
    for case in range(1000):
        W, H = random_layer(random, most=10, rows=4, dead=case % 2 == 1)
        keep = random.random(W.shape) < 0.8 if case % 3 == 0 else None
        count = counted(random, W, H, keep)
        options = {"block": int(random.integers(1, 12))} if method is sparsegpt else {}
        before = W.copy(), H.copy()
        mask, new = method(W, H, count=count, keep=keep, **options)
        assert mask.dtype == bool and mask.shape == W.shape and new.dtype == np.float64
        assert np.count_nonzero(~mask) == count
        assert not new[~mask].any() and np.isfinite(new).all()
        assert keep is None or not mask[~keep].any()
        dead = (np.diag(H) == 0) & (np.ones(W.shape, bool) if keep is None else keep)
        if not mask[~dead & (True if keep is None else keep)].all():  # a weight was paid for,
            assert not mask[dead].any()  # so all that cost nothing are gone
        for array, copy in zip((W, H), before, strict=True):
            np.testing.assert_array_equal(array, copy)  # arguments are never changed


@pytest.mark.parametrize("method", [obc, sparsegpt, wanda])
def test_of_every_run_exactly_n_are_kept_in_300_cases(method):
    random = np.random.default_rng(1)
    for case in range(300):
        m = int(random.integers(2, 5))
        n = int(random.integers(1, m))
        while True:
            W, H = random_layer(random, dead=case % 2 == 1)
            if len(H) % m == 0:
                break
        keep = None
        if case % 3 == 0:  # at most m - n of each run are gone
            ranks = random.random((len(W), len(H) // m, m)).argsort(2).argsort(2)
            keep = (ranks >= random.integers(0, m - n + 1, (len(W), len(H) // m, 1))).reshape(W.shape)
        mask, new = method(W, H, n_m=(n, m), keep=keep)
        assert (mask.reshape(len(W), -1, m).sum(2) == n).all()
        assert not new[~mask].any() and (keep is None or not mask[~keep].any())
        dead = (np.diag(H) == 0) & (True if keep is None else keep)
        dead = np.broadcast_to(dead, W.shape)
        earlier = np.zeros(W.shape, bool) if keep is None else ~keep
        for run, costless in zip(mask.reshape(-1, m), (dead | earlier).reshape(-1, m), strict=True):
            assert not run[costless].any() or costless[~run].all()  # what costs nothing goes first


def test_wanda_removes_in_each_row_as_many_half_to_even():
    W, H = np.random.default_rng(2).normal(size=(3, 5)), np.eye(5)
    for sparsity, number in ((0.0, 0), (0.5, 2), (0.7, 4), (0.1, 0), (0.3, 2)):
        assert ((~wanda(W, H, sparsity=sparsity)[0]).sum(1) == number).all()


@pytest.mark.parametrize("method", COUNTED)
@pytest.mark.parametrize("count", [0, 12])
def test_nothing_and_everything(method, count):
    W, H = np.random.default_rng(3).normal(size=(3, 4)), np.eye(4)
    mask, new = method(W, H, count=count)
    np.testing.assert_array_equal(new, W if count == 0 else 0 * W)
    assert (~mask).sum() == count


@pytest.mark.parametrize("method", COUNTED)
def test_at_equal_cost_the_later_weight_goes(method):
    mask, _ = method(np.ones((2, 3)), np.eye(3), count=4)
    np.testing.assert_array_equal(mask, [[True, True, False], [False, False, False]])
    mask, _ = method(np.ones((2, 3)), np.zeros((3, 3)), count=2)  # inputs that are always 0
    np.testing.assert_array_equal(mask, [[True, True, True], [True, False, False]])
    mask, _ = wanda(np.ones((2, 3)), np.eye(3), sparsity=0.3)
    np.testing.assert_array_equal(mask, [[True, True, False]] * 2)
    for n_m_method in (method, wanda):
        mask, _ = n_m_method(np.ones((1, 4)), np.eye(4), n_m=(1, 2))
        np.testing.assert_array_equal(mask, [[True, False, True, False]])


# ---------------------------------------------------------------- which of them is better


def errors_of(W, H, count):
    """Layer errors: obc, sparsegpt, and what belongs to the latter's mask: least squares, mask alone."""
    (greedy_mask, greedy), (mask, ordered) = (method(W, H, count=count, dampening=0) for method in COUNTED)
    fitted = least_squares(W, H, mask, dampening=0)
    news = greedy, ordered, fitted, np.where(mask, W, 0), np.where(greedy_mask, W, 0)
    return [layer_error(W, new, H) for new in news]


def test_what_is_a_theorem_holds_in_2000_cases_and_the_rest_nearly_always():
    """On one mask, least squares <= updates in a fixed order, and <= the mask alone: in every case.

    obc <= sparsegpt compares two masks, each chosen greedily, and sparsegpt <= mask alone forgets that a weight
    which made up for others may leave later: both hold mostly. Cases here are tiny, which is the worst.
    """
    random = np.random.default_rng(4)
    worse_than_order = worse_than_mask = 0
    for _ in range(2000):
        W, H = random_layer(random)
        greedy, ordered, fitted, alone, greedy_alone = errors_of(W, H, int(random.integers(1, W.size)))
        room = 1e-12 * spread(W, H)
        assert fitted <= ordered * (1 + 1e-9) + room and fitted <= alone * (1 + 1e-9) + room
        assert greedy <= greedy_alone * (1 + 1e-9) + room
        worse_than_order += greedy > ordered * (1 + 1e-9) + room
        worse_than_mask += ordered > alone * (1 + 1e-9) + room
    assert worse_than_order <= 0.01 * 2000 and worse_than_mask <= 0.12 * 2000


def test_at_the_size_of_a_small_layer_the_order_is_as_expected_in_40_of_40_cases():
    random = np.random.default_rng(5)
    for _ in range(40):
        X = np.maximum(random.normal(size=(256, 64)) @ random.normal(size=(64, 64)) / 8, 0)
        H, W = X.T @ X / 256, random.normal(size=(16, 64))
        greedy, ordered, _, alone, _ = errors_of(W, H, int(random.choice([0.5, 0.7, 0.9]) * W.size))
        assert greedy < ordered < alone


def test_the_two_ways_in_which_greed_and_order_lose_by_hand():
    H = np.array([[2.0, 1, 0], [1, 2, -1], [0, -1, 1]])
    W = np.array([[2.0, 3, 3]])
    mask, new = sparsegpt(W, H, count=2, dampening=0)
    np.testing.assert_array_equal(mask, [[False, True, False]])
    np.testing.assert_allclose(new, [[0, 5, 0]])  # 2 and 3 make up for 1; then 3 leaves, grown to 5
    assert layer_error(W, new, H) == pytest.approx(29)
    assert layer_error(W, np.where(mask, W, 0), H) == pytest.approx(17)
    H = np.array([[1.0, 0, 1], [0, 1, -1], [1, -1, 3]])
    W = np.array([[-2.0, 2, -1]])
    assert [layer_error(W, method(W, H, count=2, dampening=0)[1], H) for method in COUNTED] == [
        pytest.approx(10),
        pytest.approx(8 / 3),
    ]


# ---------------------------------------------------------------- obc


def test_the_first_step_costs_what_obs_says():
    """w^2 / (2 [H^-1]_qq) for the Hessian of the mean squared error, which is 2 X^T X / rows."""
    random = np.random.default_rng(6)
    for _ in range(200):
        W, H = random_layer(random, rows=1)
        inverse = np.linalg.inv(2 * H)
        costs = W[0] ** 2 / (2 * np.diag(inverse))
        mask, new = obc(W, H, count=1, dampening=0)
        assert (~mask[0]).nonzero()[0] == [costs.argmin()]
        assert layer_error(W, new, H) == pytest.approx(costs.min(), rel=1e-6)


def test_it_equals_its_definition_in_300_cases():
    random = np.random.default_rng(7)
    for case in range(300):
        W, H = random_layer(random, most=12)
        dampening = (0, 0.01)[case % 2]
        count = counted(random, W, H)
        mask, new = obc(W, H, count=count, dampening=dampening)
        expected_mask, expected = slow_obc(W, damped(H, dampening), count)
        np.testing.assert_array_equal(mask, expected_mask)
        np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-7)


def test_delayed_updates_change_nothing(monkeypatch):
    """Rows are longer than the 32 steps between two updates of the inverse."""
    random = np.random.default_rng(8)
    X = random.normal(size=(300, 80)) @ random.normal(size=(80, 80))
    H, w = X.T @ X / 300, random.normal(size=80)
    order, costs = layerwise.greedy(w, np.linalg.inv(H), np.zeros(80, int), np.array([80]))
    expected, expected_costs = obs_order(w, H)
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_allclose(costs, expected_costs, rtol=1e-6)
    assert np.sum(costs) == pytest.approx(w @ H @ w, rel=1e-9)  # removing all costs all
    monkeypatch.setattr(layerwise, "_DELAYED", 7)
    np.testing.assert_array_equal(
        layerwise.greedy(w, np.linalg.inv(H), np.zeros(80, int), np.array([80]))[0], expected
    )


def test_costs_add_up_to_the_layers_error():
    random = np.random.default_rng(9)
    for _ in range(100):
        W, H = random_layer(random, rows=1)
        _, costs = obs_order(W[0], H)
        for count in range(W.size + 1):
            _, new = obc(W, H, count=count, dampening=0)
            assert layer_error(W, new, H) == pytest.approx(sum(costs[:count]), rel=1e-6, abs=1e-9)


def test_rows_lose_as_a_heap_of_their_next_costs_says_in_1000_cases():
    random = np.random.default_rng(10)
    for _ in range(1000):
        costs = random.integers(0, 6, random.integers(1, 7, 2)).astype(float)  # with many equal ones
        count = int(random.integers(costs.size + 1))
        np.testing.assert_array_equal(layerwise._shares(costs, count), turns(costs.tolist(), count))


def test_runs_are_pruned_by_the_same_rule():
    random = np.random.default_rng(11)
    for _ in range(50):
        X, w = random.normal(size=(30, 8)) @ random.normal(size=(8, 8)), random.normal(size=(1, 8))
        H = X.T @ X / 30
        mask, new = obc(w, H, n_m=(2, 4), dampening=0)
        left, room, current = list(range(8)), [2, 2], w[0].copy()
        while sum(room):
            inverse = np.linalg.inv(H[np.ix_(left, left)])
            cost = {q: current[q] ** 2 / inverse[i, i] for i, q in enumerate(left) if room[q // 4]}
            q = min(cost, key=lambda one: cost[one])
            i = left.index(q)
            current[left] -= current[q] / inverse[i, i] * inverse[:, i]
            current[q] = 0
            left.pop(i)
            room[q // 4] -= 1
        np.testing.assert_array_equal(np.flatnonzero(mask), left)
        np.testing.assert_allclose(new[0], current, rtol=1e-5, atol=1e-8)


def test_weights_removed_before_are_made_up_for_and_the_rest_is_chosen_after():
    random = np.random.default_rng(12)
    for _ in range(100):
        W, H = random_layer(random, rows=3)
        first, _ = obc(W, H, count=W.size // 3, dampening=0)
        both, new = obc(W, H, count=2 * W.size // 3, keep=first, dampening=0)
        start = least_squares(W, H, first, dampening=0)
        once, _ = obc(W, H, count=2 * W.size // 3, dampening=0)
        np.testing.assert_array_equal(both, once)  # steps of one greedy order
        again, renewed = obc(start, H, count=2 * W.size // 3, keep=first, dampening=0)
        np.testing.assert_array_equal(again, both)
        np.testing.assert_allclose(renewed, new, rtol=1e-5, atol=1e-8)


# ---------------------------------------------------------------- sparsegpt


@pytest.mark.parametrize("dampening", [0, 0.01])
def test_it_equals_the_direct_way_in_300_cases(dampening):
    random = np.random.default_rng(13)
    for _ in range(300):
        W, H = random_layer(random)
        count, block = counted(random, W, H), int(random.integers(1, 20))
        mask, new = sparsegpt(W, H, count=count, dampening=dampening, block=block)
        expected_mask, expected = slow_sparsegpt(W, damped(H, dampening), count, block)
        np.testing.assert_array_equal(mask, expected_mask)
        np.testing.assert_allclose(new, np.where(mask, expected, 0), rtol=1e-6, atol=1e-8)
        assert np.abs(expected[~mask]).max(initial=0) < 1e-8


@pytest.mark.parametrize("block", [1, 4, 6, 16, 128])
def test_blocks_do_not_change_what_runs_come_to(block):
    random = np.random.default_rng(14)
    X, W = random.normal(size=(60, 16)) @ random.normal(size=(16, 16)), random.normal(size=(5, 16))
    H = X.T @ X / 60
    mask, new = sparsegpt(W, H, n_m=(2, 4), block=block)
    expected, inverses = W.copy(), [np.linalg.inv(damped(H, 0.01)[i:, i:]) for i in range(16)]
    for i in range(16):
        if i % 4 == 0:
            scores = np.stack([expected[:, j] ** 2 / inverses[j][0, 0] for j in range(i, i + 4)], 1)
            np.testing.assert_array_equal(mask[:, i : i + 4], scores.argsort(1).argsort(1) >= 2)
        lost = np.where(mask[:, i], 0, expected[:, i])
        expected[:, i:] -= np.outer(lost, inverses[i][0] / inverses[i][0, 0])
    np.testing.assert_allclose(new, expected, rtol=1e-6, atol=1e-9)


def test_a_blocks_share_is_its_size_whatever_costs_nothing():
    random = np.random.default_rng(15)
    W, H = random.normal(size=(4, 12)), np.diag([0, 0, 0, *range(1, 10)]).astype(float)
    mask, new = sparsegpt(W, H, count=12 + 18, block=6, dampening=0)
    assert not mask[:, :3].any()
    np.testing.assert_array_equal((~mask[:, 3:]).sum(), 18)
    assert (~mask[:, 3:6]).sum() == 6 and (~mask[:, 6:]).sum() == 12  # of 12 and 24 weights
    np.testing.assert_array_equal(new, np.where(mask, W, 0))  # inputs that do not depend on each other


# ---------------------------------------------------------------- wanda


def test_it_ranks_in_each_row_by_weight_times_norm_in_300_cases():
    random = np.random.default_rng(16)
    for _ in range(300):
        W, H = random_layer(random)
        sparsity = random.random()
        number = round(sparsity * len(H))
        mask, new = wanda(W, H, sparsity=sparsity)
        for w, kept in zip(np.abs(W) * np.sqrt(np.diag(H)), mask, strict=True):
            assert set(np.flatnonzero(~kept)) == set(np.argsort(w)[:number])
        np.testing.assert_array_equal(new, np.where(mask, W, 0))


def test_it_goes_on_from_earlier_masks():
    W = np.arange(1.0, 11).reshape(2, 5)
    keep = np.ones((2, 5), bool)
    keep[0, 4] = keep[1, 2] = False
    mask, _ = wanda(W, np.eye(5), sparsity=0.4, keep=keep)
    np.testing.assert_array_equal(mask, [[False, True, True, True, False], [False, True, False, True, True]])
    mask, _ = wanda(np.array([[3.0, 0]]), np.eye(2), sparsity=0.5, keep=np.array([[False, True]]))
    np.testing.assert_array_equal(mask, [[False, True]])  # though the other weight would cost nothing
    keep[0, 3] = False
    with pytest.raises(NnoptError) as error:
        wanda(W, np.eye(5), sparsity=0.2, keep=keep, name="dense_1/kernel")
    assert str(error.value) == (
        "wanda removes the same number in each row, and the previous masks removed 2 weights of one row of"
        " dense_1/kernel; received a target of 1. Pass a higher sparsity, or leave previous out."
    )


# ---------------------------------------------------------------- refusals


KEEP = np.array([[False, False, True, True], [True, True, True, True]])


@pytest.mark.parametrize("method", COUNTED)
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"count": 9}, "count must be a whole number, from 0 to 8; received 9."),
        ({"count": None}, "count must be a whole number, from 0 to 8; received None."),
        (
            {"count": 1, "keep": KEEP, "name": "dense_1/kernel"},
            "sparsity must not fall, and the previous masks removed 2 weights of dense_1/kernel; received a target"
            " of 1. Pass a higher sparsity, or leave previous out.",
        ),
        (
            {"count": 1, "dampening": float("nan")},
            "dampening must be a finite number, at least 0; received nan.",
        ),
        (
            {"n_m": (2, 3), "name": "dense_1/kernel"},
            "granularity '2:3' needs inputs in multiples of 3; received dense_1/kernel of shape (2, 4). Leave this"
            " layer out by names=.",
        ),
        (
            {"n_m": (3, 4), "keep": KEEP, "name": "dense_1/kernel"},
            "of every 4 inputs 3 must be left to keep; received fewer in the previous mask of 'dense_1/kernel'.",
        ),
        (
            {"count": 1, "H": np.ones((4, 4)), "dampening": 0, "name": "dense_1/kernel"},
            "calibration data must span the inputs of dense_1/kernel where dampening adds nothing to them; received"
            " rank 1 of 4 inputs. Pass dampening=0.01, or more calibration data.",
        ),
    ],
)
def test_what_is_refused(method, options, sentence):
    given = dict(options)
    H = given.pop("H", np.eye(4))
    with pytest.raises(NnoptError) as error:
        method(np.ones((2, 4)), H, **given)
    assert str(error.value) == sentence


def test_a_block_needs_a_column_and_wanda_a_sparsity():
    with pytest.raises(NnoptError) as error:
        sparsegpt(np.ones((2, 4)), np.eye(4), count=1, block=0)
    assert str(error.value) == "block must be a whole number, at least 1; received 0."
    with pytest.raises(NnoptError) as error:
        wanda(np.ones((2, 4)), np.eye(4))
    assert str(error.value) == "sparsity must be at least 0 and below 1; received None."


def test_dead_inputs_leave_whatever_the_order_of_the_masks_in_memory():
    random = np.random.default_rng(0)
    W, keep = random.normal(size=(4, 6)), random.random((4, 6)) > 0.3
    H = np.diag([1.0, 2.0, 0.0, 3.0, 0.0, 1.0])
    for method in (obc, sparsegpt):
        masks = [method(W, H, count=14, keep=np.array(keep, order=order))[0] for order in "CF"]
        assert (masks[0] == masks[1]).all() and (~masks[0]).sum() == 14
