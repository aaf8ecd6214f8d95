"""What PyTorch's functions do with channels: one rule for each kind of function, by name.

A rule gets the reader and the call, and gives the labels of the result; None says that the channels which the
call reads cannot leave.
"""

from nnopt_lib.backends.torch.rules import elementwise, layers, moves, norms, products, spatial
from nnopt_lib.backends.torch.rules.reader import RULES, Reader, is_zero, taught

__all__ = [
    "RULES",
    "Reader",
    "elementwise",
    "is_zero",
    "layers",
    "moves",
    "norms",
    "products",
    "spatial",
    "taught",
]
