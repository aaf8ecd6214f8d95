"""What products of two tensors do with channels in Keras: matrix products, einsum, attention and its heads."""

from __future__ import annotations
