"""Measurements, each figure beside its peer in the same run: `python -m benchmarks [NAME …] [--quick]`."""

import os

# One thread for all alike: read by BLAS and OpenMP when they are loaded, after this.
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
