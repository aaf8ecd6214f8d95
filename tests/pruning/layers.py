"""Random layers for tests of pruning layer by layer, and slow, direct implementations beside the library's."""

import heapq

import numpy as np


def random_layer(random, *, most=16, rows=6, dead=False):
    """Weights and H of data that depend on each other more or less, of a full rank but for dead inputs."""
    while True:
        d, out = int(random.integers(2, most + 1)), int(random.integers(1, rows + 1))
        mixing = random.random()
        X = random.normal(size=(int(random.integers(d, 4 * d + 1)), d))
        X = X @ ((1 - mixing) * np.eye(d) + mixing * random.normal(size=(d, d)))
        X = np.maximum(X, 0) if random.integers(2) else X
        H = X.T @ X / len(X)
        if np.linalg.cond(H) > 1e6:  # the oracles invert
            continue
        if dead:
            gone = random.random(d) < 0.3
            H[gone] = H[:, gone] = 0
        return random.normal(size=(out, d)), H


def damped(H, dampening):
    return H + dampening * np.diag(H).mean() * np.eye(len(H))


def fitted(w, H, kept):
    """The best weights of one row on `kept`, by NumPy's least squares on a root of H."""
    values, vectors = np.linalg.eigh(H)
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T  # H = root^T root
    new = np.zeros_like(w)
    new[kept] = np.linalg.lstsq(root[:, kept], root @ w, rcond=None)[0]
    return new


def obs_order(w, H):
    """OBS by its definition: of all weights left the one of least cost leaves, the inverse is made anew."""
    left, order, costs, w = list(range(len(w))), [], [], w.copy()
    while left:
        inverse = np.linalg.inv(H[np.ix_(left, left)])
        cost = w[left] ** 2 / np.diag(inverse)
        q = len(left) - 1 - int(np.argmin(cost[::-1]))
        w[left] -= w[left[q]] / inverse[q, q] * inverse[:, q]
        order.append(left.pop(q))
        costs.append(cost[q])
    return order, costs


def turns(costs, count):
    """How many each row loses: a heap of the rows' next costs; at equal cost the later row."""
    heap = [(row[0], -number, 0) for number, row in enumerate(costs)]
    heapq.heapify(heap)
    lost = [0] * len(costs)
    for _ in range(count):
        _, number, step = heapq.heappop(heap)
        lost[-number] += 1
        if step + 1 < len(costs[-number]):
            heapq.heappush(heap, (costs[-number][step + 1], number, step + 1))
    return lost


def slow_obc(W, H, count):
    orders = [obs_order(w, H) for w in W]
    mask = np.ones(W.shape, bool)
    for row, number in enumerate(turns([costs for _, costs in orders], count)):
        mask[row, orders[row][0][:number]] = False
    return mask, np.array([fitted(w, H, kept) for w, kept in zip(W, mask, strict=True)])


def slow_sparsegpt(W, H, count, block):
    """Column by column, with the inverse of what is behind made anew; nothing is delayed or factored."""
    W, mask, d = W.copy(), np.ones(W.shape, bool), len(H)
    inverses = [np.linalg.inv(H[i:, i:]) for i in range(d)]
    for start in range(0, d, block):
        stop = min(start + block, d)
        number = round(count * stop / d) - round(count * start / d)
        scores = np.stack([W[:, i] ** 2 / inverses[i][0, 0] for i in range(start, stop)], 1)
        flat = mask[:, start:stop].copy().ravel()
        flat[np.argsort(scores, axis=None)[:number]] = False
        mask[:, start:stop] = flat.reshape(scores.shape)
        for i in range(start, stop):
            lost = np.where(mask[:, i], 0, W[:, i])
            W[:, i:] -= np.outer(lost, inverses[i][0] / inverses[i][0, 0])
    return mask, W
