"""Coders at work, by constriction: indices of counted symbols, bits with chances, numbers of equal length."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from nnopt_lib.checks import refuse

KINDS = 2**20  # different symbols: constriction divides one into 2**24 parts


def refuse_bytes(received: str) -> NoReturn:
    """Refuse what is read: it was not written so."""
    refuse("coded symbols must be bytes that encode wrote, all of them", received)


def coded(indices: np.ndarray, counts: np.ndarray, coder: str) -> tuple[bytes, int]:
    """Symbols, as indices of their counts, in bytes; and the bits that are used of them."""
    import constriction

    if coder == "fixed":
        width = max(len(counts) - 1, 0).bit_length()
        return packed(indices, width), len(indices) * width
    if len(counts) < 2:  # nothing to tell
        return b"", 0
    if len(counts) > KINDS:
        refuse(f"{coder} codes at most {KINDS} different symbols", len(counts), "Pass coder='fixed'.")
    if coder == "ans":
        stack = constriction.stream.stack.AnsCoder()
        stack.encode_reverse(indices.astype(np.int32), _model(counts))
        # Words are of four bytes, and the last one is never 0: zeros at its end can be put back.
        return stack.get_compressed().astype("<u4").tobytes().rstrip(b"\0"), stack.num_valid_bits()
    tree = constriction.symbol.huffman.EncoderHuffmanTree(np.asarray(counts, np.float64))
    queue = constriction.symbol.QueueEncoder()
    for index in indices.tolist():
        queue.encode_symbol(index, tree)
    words, bits = queue.get_compressed_and_bitrate()
    return words.astype("<u4").tobytes()[: (bits + 7) // 8], bits


def decoded(data: bytes, counts: np.ndarray, total: int, coder: str) -> np.ndarray:
    """Indices of `counts`, int64 (total,); refused where they do not occur so often, or bytes are left."""
    import constriction

    if len(counts) < 2:
        if data:
            refuse_bytes(f"{len(data)} bytes behind the last symbol")
        return np.zeros(total, np.int64)
    if len(counts) > KINDS:
        refuse_bytes(f"a table of {len(counts)} symbols")
    words = _words(data)
    try:
        if coder == "ans":
            stack = constriction.stream.stack.AnsCoder(words)
            indices = stack.decode(_model(counts), total)
            left = not stack.is_empty()
        else:
            left = len(data) != (_huffman_bits(counts) + 7) // 8
            tree = constriction.symbol.huffman.DecoderHuffmanTree(counts.astype(np.float64))
            queue = constriction.symbol.QueueDecoder(words)
            indices = np.array([] if left else [queue.decode_symbol(tree) for _ in range(total)], np.int64)
    except ValueError as error:
        refuse_bytes(str(error).rstrip("."))
    if left or not np.array_equal(np.bincount(indices, minlength=len(counts)), counts):
        refuse_bytes(f"{len(data)} bytes in which symbols occur otherwise than the table says")
    return indices.astype(np.int64)


def _huffman_bits(counts: np.ndarray) -> int:
    """The length of the code of symbols that occur so often."""
    import constriction

    tree = constriction.symbol.huffman.EncoderHuffmanTree(counts.astype(np.float64))
    bits = 0
    for index, count in enumerate(counts.tolist()):
        queue = constriction.symbol.QueueEncoder()
        queue.encode_symbol(index, tree)
        bits += count * queue.get_compressed_and_bitrate()[1]
    return int(bits)


def encode_bits(bits: np.ndarray, chances: np.ndarray) -> bytes:
    """Flat bits, each coded by how likely it is to be 1."""
    import constriction

    stack, model = constriction.stream.stack.AnsCoder(), constriction.stream.model.Bernoulli(perfect=False)
    stack.encode_reverse(bits.astype(np.int32), model, chances)
    return stack.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


def decode_bits(data: bytes, chances: np.ndarray) -> np.ndarray:
    """The bits, bool, that `encode_bits` was given with the same chances."""
    import constriction

    model, words = constriction.stream.model.Bernoulli(perfect=False), _words(data)
    try:
        stack = constriction.stream.stack.AnsCoder(words)
        bits = stack.decode(model, chances).astype(bool)
    except ValueError as error:
        refuse_bytes(str(error).rstrip("."))
    if not stack.is_empty():
        refuse_bytes("bytes behind the last symbol")
    return bits


def _words(data: bytes) -> np.ndarray:
    return np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)


def _model(counts: np.ndarray) -> Any:
    import constriction

    return constriction.stream.model.Categorical(np.asarray(counts, np.float64), perfect=False)


def packed(numbers: np.ndarray, width: int) -> bytes:
    """The lowest `width` bits of each number, one behind the other."""
    shifts = np.arange(width)[::-1]
    return np.packbits((numbers[:, None] >> shifts & 1).astype(bool)).tobytes()


def unpacked(data: bytes, count: int, width: int) -> np.ndarray:
    """The numbers, int64, that `packed` was given."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=count * width).reshape(count, width)
    return bits.astype(np.int64) @ (1 << np.arange(width, dtype=np.int64)[::-1])
