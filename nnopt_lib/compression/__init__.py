"""Fewer bits and smaller factors: quantization, sharing, coding, files. Chapter 18 teaches it."""

from nnopt_lib.compression.calibration import calibrate
from nnopt_lib.compression.quantization import Quantization, Quantized, quantize
from nnopt_lib.compression.quantized_models import quantize_dynamic, quantize_static, quantize_weights

__all__ = [
    "Quantization",
    "Quantized",
    "calibrate",
    "quantize",
    "quantize_dynamic",
    "quantize_static",
    "quantize_weights",
]
