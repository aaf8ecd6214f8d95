"""Fingerprints that stand in the code name what they are of; that they are right is tested with `load_data`."""

import re

from nnopt_lib.data.classification import SOURCES
from nnopt_lib.data.fingerprints import DRAWS, FINGERPRINTS, SPLITS


def test_every_fingerprint_is_one_and_belongs_to_a_known_set():
    assert all(re.fullmatch(r"[0-9a-f]{16}", fingerprint) for fingerprint in FINGERPRINTS.values())
    assert {key.split()[0] for key in FINGERPRINTS} <= set(SOURCES)
    assert len(set(FINGERPRINTS.values())) == len(FINGERPRINTS)


def test_draws_and_splits_are_numbered_from_one():
    for what, texts in (("draw", DRAWS), ("split_seed", SPLITS)):
        for options, text in texts.items():
            for number, fingerprint in enumerate(text.split(), start=1):
                assert FINGERPRINTS[f"{options} {what}={number}"] == fingerprint
