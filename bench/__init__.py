"""The benchmark of fastbatch: ``python -m bench --help``, and README.md beside this."""
