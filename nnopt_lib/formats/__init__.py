"""How sparse weights are stored, exported and run, and what that costs. Chapter 16 teaches it."""

from nnopt_lib.formats.layers import convert
from nnopt_lib.formats.storage import FORMATS, Stored, break_even_sparsity, bytes_of, store

__all__ = ["FORMATS", "Stored", "break_even_sparsity", "bytes_of", "convert", "store"]
