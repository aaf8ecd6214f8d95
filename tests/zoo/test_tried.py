"""What the book's table says of the networks that were tried is what the library makes of them now."""

import json

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.keras]

from tests.zoo import tried  # noqa: E402

ROWS = json.loads(tried.FILE.read_text(encoding="utf-8"))
SAMPLE = [
    *(("torch", name, "node") for name in ("resnet-18", "mobilenet v2", "shufflenet v2", "gru classifier")),
    *(("torch", "bert, small", granularity) for granularity in ("node", "head")),
    ("torch", "deit small", "head"),
    ("keras", "MobileNet", "node"),
]


def test_the_table_has_every_network_of_the_tests() -> None:
    assert [(row["framework"], row["network"], row["granularity"]) for row in ROWS] == tried.names()


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("key", SAMPLE, ids=" ".join)
def test_a_row_is_what_the_library_gives(key) -> None:
    published = next(row for row in ROWS if (row["framework"], row["network"], row["granularity"]) == key)
    measured = tried.row(*key)
    if "refused" in published:  # the sentence quotes an error of the framework's, which may word it otherwise
        published, measured = ({**one, "refused": one["refused"][:60]} for one in (published, measured))
    assert measured == published


def test_macs_in_keras_are_those_counted_by_hand() -> None:
    import keras
    from keras import layers

    x = images = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(x)  # 4·4 places, 3·3·3·4 each
    x = layers.SeparableConv2D(6, 3, padding="same")(x)  # 16 places, 3·3·4 and 4·6
    x = layers.DepthwiseConv2D(3)(x)  # 2·2 places, 3·3·6
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    assert tried.keras_macs(keras.Model(images, x)) == 16 * 108 + 16 * (36 + 24) + 4 * 54 + 30
