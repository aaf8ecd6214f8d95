"""Files in MNIST's own format, small, and what reading them must give."""

import struct

import numpy as np

IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def check_small(data, arrays):
    assert (data.x_train.shape, data.x_test.shape) == ((180, 784), (50, 784))
    np.testing.assert_array_equal(data.x_test * 255, arrays[2].reshape(50, -1))
    assert np.array_equal(data.y_test, arrays[3])
    assert len(data.x_validation) == 20
