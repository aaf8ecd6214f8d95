"""How sparse weights are stored, exported and run, and what that costs. Chapter 16 teaches it."""

from nnopt_lib.formats.compare import compare_formats, faster_from
from nnopt_lib.formats.export import Exported, export_onnx
from nnopt_lib.formats.layers import convert
from nnopt_lib.formats.runners import runners
from nnopt_lib.formats.storage import FORMATS, Stored, break_even_sparsity, bytes_of, store

__all__ = [
    "FORMATS",
    "Exported",
    "Stored",
    "break_even_sparsity",
    "bytes_of",
    "compare_formats",
    "convert",
    "export_onnx",
    "faster_from",
    "runners",
    "store",
]
