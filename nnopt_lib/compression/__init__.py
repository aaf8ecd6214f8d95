"""Fewer bits and smaller factors: quantization, sharing, coding, files. Chapter 18 teaches it."""

from nnopt_lib.compression.quantization import Quantization, Quantized, quantize

__all__ = ["Quantization", "Quantized", "quantize"]
