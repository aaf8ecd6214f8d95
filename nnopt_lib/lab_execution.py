"""The old path of `nnopt_lib.course.labs.execute`, for one release: configurations of classes name it.

By name, since nothing but the command imports `course`.
"""

import importlib
import sys

sys.modules[__name__] = importlib.import_module("nnopt_lib.course.labs.execute")
