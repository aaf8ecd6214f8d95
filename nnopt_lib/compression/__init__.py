"""Fewer bits and smaller factors: quantization, sharing, coding, files. Chapter 18 teaches it."""
