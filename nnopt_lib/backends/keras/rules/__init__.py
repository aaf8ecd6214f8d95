"""What Keras's layers and operations do with channels: one rule for each kind, by name.

A rule gets the reader and the call, and gives the labels of the result; None says that the channels which the
call reads cannot leave.
"""

# Imported for their rules.
from nnopt_lib.backends.keras.rules import elementwise, layers, moves, products

__all__ = ["elementwise", "layers", "moves", "products"]
