"""What is known of data sets before they are read: their fingerprints, as constants of the code."""

# What `Data.fingerprint` gives for the options that the course uses, so that stored rows are found without
# reading anything; options as `_changed` writes them. Whoever adds a use adds its line.
FINGERPRINTS = {
    "digits": "a62df7a28d33f6ff",
    "digits validation=0": "a1d2231a0f8980a2",
    "digits flat=False": "3991a161719ef125",
    "mnist1d": "afe399af1ac0e5b1",
    "mnist1d validation=0": "b700610289959645",
    "mnist1d flat=False validation=0": "2e2a04b07bbfd52e",
    "mnist1d flat=False": "31a23f4b873dd778",
    "mnist": "e662cda6fe2b61b6",
    "mnist validation=0": "71544767206fe6d9",
    "mnist flat=False validation=0": "8465f31490098840",
    "mnist flat=False pool=2 examples=(10000, 2000, 10000)": "764cf4153022ca3d",
    "mnist-sample": "e45c0e6ba12b2dea",
    "mnist-sample validation=0": "caca091b107473a8",
    "mnist-sample flat=False validation=0": "de7001ffc7eb37d1",
    "mnist-sample flat=False pool=2 examples=(1000, 500, 1000)": "33ad2edc6017ad99",
    "fashion-mnist": "7a9f92a55b7c3184",
    "fashion-mnist-sample": "edac20191945794b",
    "monks-1": "13cf21a6ba27bc66",
    "monks-2": "79ed3a8bde46ed50",
    "monks-3": "19345eddc24676d8",
}
# The same for the further draws of MNIST-1D and splits of digits, numbered from 1, that seeds take.
DRAWS = {
    "mnist1d": """
        4c90d2bb735136fe 549e00be4a9162ae 5b0fd277a44140a7 f9aaf695522e68db 001ddfe03a0dcfe1
        31861135299c215c 7752cc4392f003e6 a70f79f84fd0648c 3ee38548aa85009c 748b670d063f16d2
        2294fedc0daebf88 226590a9c65b8720 e28b49b674d084d9 4c1ab62b336de90f db8b3587700e08a7
        d0a28c031bd9d049 c2831dfbbcc4e57b e9ca2badd0ca7f3a 40c3c9f242b373bd
    """,
    "mnist1d validation=0": """
        7c770273e3a953a6 dbc711fc33674024 ae3184156ad5f79f 2e008c5304f35941 f2b598593273cc73
        38d01706199edade 18773008daeac2a4 e5e4ea09e0fcf7d3 b51e4901625bf7b1 3ff97b0f99d98def
        66eea9a500ba84a8 c4218bc4e77012b1 65862ef8f0e3f1eb 1904fcedf29642f7 21bdfec81204ba05
        f35b2c7dc4a7fcf1 07571f0740b98179 6cf4b2865ffdf14d 15e7566b13300c8e
    """,
    "mnist1d flat=False": """
        bea6c0b513a1b8ea dfbe09fe9ee41ab1 319c67ad189b3f0f f087e38728a8e946 c0e82179a5de7ad1
        fdf9c791d2642694 839f2ef6f5f5f64d 255b2a6468650844 2f9fb8a24084ed4b
    """,
    "mnist1d flat=False validation=0": """
        ca3edf83fc54a067 1b021248ab05a948 66a1049c6eae58c9 09a5d1d3f8ad4973 0089a970a1ea0009
        fdb6dbb0ecaab0f9 e3a3b59fd57afff7 18b9f14432a34bbf e5d7c8c171b7db38
    """,
}
SPLITS = {
    "digits": """
        d670449d747fd8d1 35ebc636a52d9a2a 9c55beb482213575 63ce44ade983a223 f791a95f99f75b0f
        a9d926d94e317ab9 68bdc2e9f2076005 8f84874aff00e554 045b651e6a76420d
    """,
    "digits validation=0": """
        1ef61009083001c1 344ad318a482220d b8965ddea352292f b2fc10dd20f24863 cf448fe661b8fe12
        c63df93ff3c8ffae a039c1114bc80b26 ed62cbe0d304715f a3662e1b637f79c1
    """,
    "digits flat=False": """
        aa308388d602acd5 4e88af492032072d 3b682d91c7a37f91 6817b42e5928a79a 555b060ac3baec3e
        41f4a431457b70a3 624969af729406e8 52983388b03ed40c 030639838df0385e
    """,
}
FINGERPRINTS |= {
    f"{options} {what}={number}": fingerprint
    for what, texts in (("draw", DRAWS), ("split_seed", SPLITS))
    for options, text in texts.items()
    for number, fingerprint in enumerate(text.split(), start=1)
}
