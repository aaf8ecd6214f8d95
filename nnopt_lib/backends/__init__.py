"""One folder per framework, the same file names in both; `nnopt_lib.frameworks` loads them by name."""
