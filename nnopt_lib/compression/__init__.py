"""Fewer bits and smaller factors: quantization, sharing, coding, files. Chapter 18 teaches it."""

from nnopt_lib.compression.quantization import Quantization, Quantized, quantize
from nnopt_lib.compression.sensitivity import sensitivity

__all__ = ["Quantization", "Quantized", "quantize", "sensitivity"]
