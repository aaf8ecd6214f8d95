"""Are weights after training the same, bit by bit, as another checkout of this repository gives them?

    python tests/same_weights.py ../other-checkout

Both sides train in a process of their own, on the same machine, with the same installed packages: PyTorch
models, Keras models and stacks of both, by three recipes. Bits differ between processors, so no hash is stored.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

RECIPES = {
    "sgd, momentum": {"epochs": 3, "learning_rate": 0.05, "momentum": 0.9, "nesterov": True},
    "adam, patience": {"epochs": 12, "optimizer": "adam", "learning_rate": 0.03, "patience": 2},
    "adamw, steps": {
        "steps": 70,
        "report_every": 9,
        "optimizer": "adamw",
        "weight_decay": 0.1,
        "shuffle": False,
    },
}


def digest(weights: dict, history: object) -> str:
    """A hash of all weights, and of the rows of a history, in which no bit may differ either."""
    total = hashlib.sha256()
    for name, value in weights.items():
        total.update(name.encode() + value.tobytes())
    rows = [dict(sorted(row.items())) for row in history.rows]  # type: ignore[attr-defined]
    total.update(json.dumps([rows, history.kept_row]).encode())  # type: ignore[attr-defined]
    return total.hexdigest()[:16]


def digests() -> dict[str, str]:
    """One hash for each recipe, kind of network and way of training, dense, masked and penalized."""
    import nnopt_lib as nnopt
    from nnopt_lib import scores

    features = nnopt.load_data("digits", examples=(400, 100, 100))
    images = nnopt.load_data("digits", examples=(400, 100, 100), flat=False)
    networks = {
        "mlp": (nnopt.mlp((32,), inputs=64, outputs=10), features),
        "resnet": (nnopt.resnet(1, (4, 8), input_shape=(1, 8, 8), outputs=10), images),
    }
    trained = {}
    for recipe_name, options in RECIPES.items():
        training = nnopt.Training(**options)
        for network, (spec, data) in networks.items():
            weights = [nnopt.get_weights(nnopt.build(spec, seed=seed)) for seed in (3, 4)]
            kernels = [{n: v for n, v in w.items() if n.endswith("/kernel")} for w in weights]
            masks = [nnopt.make_masks(scores.magnitude(k), sparsity=0.5) for k in kernels]
            for way, extra in {
                "dense": {},
                "masked": {"masks": masks},
                "gates": {"penalties": [nnopt.Penalty("l0", 1e-4)] * 2},
            }.items():
                name = f"{recipe_name}; {network}; {way}"
                stack = nnopt.fit_many(spec, data, training, seeds=[3, 4], device="cpu", **extra)
                for index in (0, 1):
                    trained[f"{name}; stack {index}"] = digest(stack.weights(index), stack.histories[index])
                one = {"masks": masks[0]} if "masks" in extra else {}
                one |= {"penalty": extra["penalties"][0]} if "penalties" in extra else {}
                for framework in ("torch", "keras"):
                    model = nnopt.build(spec, framework=framework, seed=3)
                    history = nnopt.fit(model, data, training, seed=3, device="cpu", **one)
                    trained[f"{name}; {framework}"] = digest(nnopt.get_weights(model), history)
    return trained


def of_checkout(folder: Path) -> dict[str, str]:
    """What `digests` gives with the library in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "NNOPT_HOME": str(folder)}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    library, trained = json.loads(done.stdout.splitlines()[-1])
    if not Path(library).is_relative_to(folder):  # an installed one won: both sides would be the same
        sys.exit(f"{folder} must be a checkout whose nnopt_lib is found first; received {library}.")
    return dict(trained)


def main(arguments: list[str]) -> int:
    """Print what differs; the exit status is 1 if anything does."""
    if not arguments:
        trained = digests()
        print(json.dumps([sys.modules["nnopt_lib"].__file__, trained]))
        return 0
    here, other = of_checkout(Path(__file__).resolve().parents[1]), of_checkout(Path(arguments[0]).resolve())
    differing = [name for name in here if here[name] != other.get(name)]
    for name in differing:
        print(f"differs: {name}")
    print(f"{len(here) - len(differing)} of {len(here)} trained networks and histories are equal bit by bit")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
