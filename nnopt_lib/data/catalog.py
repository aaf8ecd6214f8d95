"""Every named data set once: what it is, whose, under which license, from where, and what it must contain."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from nnopt_lib.data.files import RemoteFile, find_local

GITHUB = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Entry:
    """A named set.

    Parameters:
        name: as `load_data` or its own function takes it; what: a phrase for the book's page.
        license: as its authors state it; source: key in the bibliography; home: a page for people.
        files: none for what is generated or comes with a package.
    """

    name: str
    what: str
    license: str
    source: str
    home: str
    files: tuple[RemoteFile, ...] = ()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that stand for the content of all files, known without reading one."""
        digest = hashlib.sha256("".join(f"{file.path} {file.sha256}\n" for file in self.files).encode())
        return digest.hexdigest()[:16]

    @property
    def is_local(self) -> bool:
        """Whether all files lie on this machine, or none is needed; nothing is read or downloaded."""
        return all(find_local(file) or (file.instead and find_local(file.instead)) for file in self.files)


def _idx_files(folder: str, mirrors: tuple[str, ...], hashes: Mapping[str, str]) -> tuple[RemoteFile, ...]:
    """The four IDX files of a set in MNIST's form."""
    return tuple(
        RemoteFile(f"{folder}/{name}", sha256, tuple(f"{mirror}{name}.gz" for mirror in mirrors))
        for name, sha256 in hashes.items()
    )


MNIST_FILES = _idx_files(
    "mnist",
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)
FASHION_FILES = _idx_files(
    "fashion-mnist",
    (
        f"{GITHUB}/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)
SHAKESPEARE_FILES = (
    RemoteFile(
        "text/tinyshakespeare.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        (f"{GITHUB}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
    ),
)
BANKING_FILES = tuple(
    RemoteFile(
        f"banking77/banking77-{part}.csv",
        sha256,
        (f"{GITHUB}/PolyAI-LDN/task-specific-datasets/master/banking_data/{part}.csv",),
    )
    for part, sha256 in {
        "train": "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
        "test": "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
    }.items()
)
STS_FILES = tuple(
    RemoteFile(
        f"sts-benchmark/stsb-en-{part}.csv",
        sha256,
        (f"{GITHUB}/PhilipMay/stsb-multi-mt/main/data/stsb-en-{part}.csv",),
    )
    for part, sha256 in {
        "train": "e1e84fec60bbb598735552f54a35f4949904a484750fd2cb11e2720e49f63da6",
        "dev": "d29586e96558c4eb52cf5ea5d14e9c24d3bf0e44f111b017caba43a5adc33226",
        "test": "11523b625219e94e9ca05d2816b5f02cac1614c5894fe657376fa0806378d053",
    }.items()
)
NAS_FILES = (
    RemoteFile(
        "nas-bench-macro/nas-bench-macro_cifar10.json",
        "686dee8363cc21cca8c1f321ad5749454f2d9b9ca5972682e137e539bc522297",
        (f"{GITHUB}/xiusu/NAS-Bench-Macro/master/data/nas-bench-macro_cifar10.json",),
    ),
)
MINILM_FILES = tuple(
    RemoteFile(
        f"minilm-l6-v2/{name}",
        sha256,
        (f"https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/main/{name}",),
    )
    for name, sha256 in {
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    }.items()
)
# The authors publish a pickled checkpoint. It is never unpickled: its bytes are checked, and the three
# kernels stand at known offsets in them (nnopt_lib.data.other).
WOODFISHER_FILES = (
    RemoteFile(
        "woodfisher-mlp/mnist_25_epoch_93.97.ckpt",
        "56083559fe28b22bf9fac71134322d7c4fe55ea5f7d6eba30b4c300783900f12",
        (
            f"{GITHUB}/IST-DASLab/WoodFisher/d4b1a968947d9850ebf6b67935165e9453495962"
            "/checkpoints/mnist_25_epoch_93.97.ckpt",
        ),
        instead=RemoteFile(
            "woodfisher-mlp/weights.safetensors",
            "9499cfeab6fbc9c6cc8bcb8da941a145653f29bab5cfb2aee4efb44227147138",
            (),
        ),
    ),
)

CATALOG = {
    entry.name: entry
    for entry in (
        Entry(
            "digits",
            "1,797 images of 8×8 pixels, ten digits",
            "CC BY 4.0, in scikit-learn",
            "alpaydin1998optical",
            "https://archive.ics.uci.edu/dataset/80",
        ),
        Entry(
            "mnist1d",
            "4,000 + 1,000 signals of 40 samples, ten classes; generated",
            "Apache-2.0, in the package mnist1d",
            "greydanus2024scaling",
            "https://github.com/greydanus/mnist1d",
        ),
        Entry(
            "mnist",
            "60,000 + 10,000 images of 28×28 pixels, ten digits",
            "CC BY-SA 3.0",
            "lecun1998gradient",
            "http://yann.lecun.com/exdb/mnist/",
            MNIST_FILES,
        ),
        Entry(
            "fashion-mnist",
            "60,000 + 10,000 images of 28×28 pixels, ten kinds of clothing",
            "MIT",
            "xiao2017fashion",
            "https://github.com/zalandoresearch/fashion-mnist",
            FASHION_FILES,
        ),
        Entry(
            "mnist-sample",
            "5,000 + 1,000 images of MNIST, ten classes alike; in this repository",
            "CC BY-SA 3.0",
            "lecun1998gradient",
            "http://yann.lecun.com/exdb/mnist/",
        ),
        Entry(
            "fashion-mnist-sample",
            "5,000 + 1,000 images of Fashion-MNIST, ten classes alike; in this repository",
            "MIT",
            "xiao2017fashion",
            "https://github.com/zalandoresearch/fashion-mnist",
        ),
        *(
            Entry(
                f"monks-{number}",
                f"{train} of 432 robots with six attributes to train on, all 432 to test; {what}; generated",
                "CC BY 4.0",
                "thrun1991monk",
                "https://archive.ics.uci.edu/dataset/70",
            )
            for number, train, what in (
                (1, 124, "head and body alike, or a red jacket"),
                (2, 169, "exactly two attributes have their first value"),
                (3, 122, "a rule on jacket, holding and body; six training labels are wrong"),
            )
        ),
        Entry(
            "tinyshakespeare",
            "1.1 million characters of plays",
            "text in the public domain",
            "karpathy2015unreasonable",
            "https://github.com/karpathy/char-rnn",
            SHAKESPEARE_FILES,
        ),
        Entry(
            "banking77",
            "10,003 + 3,080 questions to a bank, 77 intents",
            "CC BY 4.0",
            "casanueva2020efficient",
            "https://github.com/PolyAI-LDN/task-specific-datasets",
            BANKING_FILES,
        ),
        Entry(
            "sts-benchmark",
            "5,749 + 1,500 + 1,379 pairs of sentences, how alike they are from 0 to 5",
            "mixed, by source of the sentences; see its home",
            "cer2017semeval",
            "https://ixa2.si.ehu.eus/stswiki/index.php/STSbenchmark",
            STS_FILES,
        ),
        Entry(
            "nas-bench-macro",
            "6,561 networks on CIFAR-10 with three test accuracies each, 3,969 of them different",
            "Apache-2.0",
            "su2021prioritized",
            "https://github.com/xiusu/NAS-Bench-Macro",
            NAS_FILES,
        ),
        Entry(
            "minilm-l6-v2",
            "weights and vocabulary of a sentence encoder with six Transformer layers",
            "Apache-2.0",
            "wang2020minilm",
            "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
            MINILM_FILES,
        ),
        Entry(
            "woodfisher-mlp",
            "the trained weights of a network 784-40-20-10 on MNIST, without biases",
            "none stated",
            "singh2020woodfisher",
            "https://github.com/IST-DASLab/WoodFisher",
            WOODFISHER_FILES,
        ),
    )
}


def whereabouts(name: str) -> str:
    """One sentence for a notebook: whether the named set lies on this machine, and what is shown where not.

    Example:
        >>> whereabouts("mnist-sample")
        'mnist-sample is on this machine.'
    """
    if CATALOG[name].is_local:
        return f"{name} is on this machine."
    return (
        f"{name} is not on this machine: what rests on it is shown as published. "
        "It is downloaded only where that is computed anew."
    )
