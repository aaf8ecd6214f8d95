"""Fewer bits and smaller factors: quantization, sharing, coding, files. Chapter 18 teaches it."""

from nnopt_lib.compression.calibration import calibrate
from nnopt_lib.compression.checkpoints import load_compressed, save_compressed, size_report
from nnopt_lib.compression.coding import bits_per_symbol, decode, encode, entropy
from nnopt_lib.compression.positions import gaps, mask_from_gaps
from nnopt_lib.compression.quantization import Quantization, Quantized, quantize
from nnopt_lib.compression.quantized_models import quantize_dynamic, quantize_static, quantize_weights
from nnopt_lib.compression.sensitivity import sensitivity
from nnopt_lib.compression.sharing import Shared, share, share_weights, shared_now

__all__ = [
    "Quantization",
    "Quantized",
    "Shared",
    "bits_per_symbol",
    "calibrate",
    "decode",
    "encode",
    "entropy",
    "gaps",
    "load_compressed",
    "mask_from_gaps",
    "quantize",
    "quantize_dynamic",
    "quantize_static",
    "quantize_weights",
    "save_compressed",
    "sensitivity",
    "share",
    "share_weights",
    "shared_now",
    "size_report",
]
