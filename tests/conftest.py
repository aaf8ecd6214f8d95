import os

os.environ.setdefault("NNOPT_PROGRESS", "0")  # no progress bars among the tests' output
