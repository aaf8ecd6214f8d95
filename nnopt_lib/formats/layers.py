"""Models whose layers compute from stored weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnopt_lib.checks import check_choice, refuse
from nnopt_lib.formats.storage import FORMATS, store
from nnopt_lib.frameworks import framework_of, stored_layers

KERNELS = ("auto", "matmul", "gather")


def convert(
    model: Any,
    format: str,
    *,
    layers: Sequence[str] | None = None,
    kernel: str = "auto",
    block: tuple[int, int] = (16, 16),
    n: int = 2,
    m: int = 4,
) -> Any:
    """A copy of a pruned torch model whose layers compute from stored weights; it gives the same outputs.

    Parameters:
        model: a `torch.nn.Module`, with zeros where it is pruned. It stays as it is.
        format: one of `FORMATS`, as `store` has them. ``"dense"`` is multiplied the same way around.
        layers: names of Linear, Conv1d and Conv2d layers, or of their kernels as masks have them; all of
            them if it is None.
        kernel: how CSR, n:m and constant fan-in are multiplied. ``"matmul"``: by torch's sparse product
            (MKL on a CPU). ``"gather"``: for each output, the inputs it reads are picked and summed, by
            `embedding_bag` for more than one example. ``"auto"``: gather from 32 examples (for convolutions,
            positions) on, below that matmul. Both take either format: what they hold is the same but for
            row starts.
        block, n, m: as in `store`.

    A layer reads (..., in) or (batch, in, *positions) as before; convolutions are unfolded first. Stored
    weights are buffers: the copy is for inference, they are not trained, and no gradient goes to them. Its
    `state_dict` is what is stored, and loads into a copy converted from the same masks. `deepcopy` works.

    Refused: Keras models; a layer whose shape or zeros do not fit the format (`store`), with several groups,
    or of another type than float32; names of no such layer. Chapter 16 teaches it.

    Example:
        >>> import nnopt_lib as nnopt
        >>> model = nnopt.build(nnopt.mlp((32,), inputs=64, outputs=10))
        >>> _ = nnopt.prune(model, sparsity=0.9, scope="layer")
        >>> convert(model, "csr").dense_1
        StoredLinear(
          (matrix): SparseMatrix(32 x 64, csr)
        )
    """
    if framework_of(model) == "keras":
        refuse(
            "a model to convert must be a torch.nn.Module",
            "a Keras model",
            "Build its description by build(describe(model)), and copy_weights into that.",
        )
    check_choice("format", format, FORMATS)
    check_choice("kernel", kernel, KERNELS)
    if kernel != "auto" and format in ("dense", "bsr"):
        refuse("kernel is chosen for csr, n:m and constant_fan_in", f"{kernel!r} for {format}")
    if isinstance(layers, str):
        refuse("layers must be a list of names", f"the string {layers!r}", f"Pass [{layers!r}].")
    return stored_layers().converted(
        model, layers, kernel, lambda weights, name: store(weights, format, block=block, n=n, m=m, layer=name)
    )
