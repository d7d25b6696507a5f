"""Before any test imports torch: threads that wait must not spin, or a busy machine makes steps take minutes."""

import os

from bench.run.job import CALM_THREADS

for name, value in CALM_THREADS.items():
    os.environ.setdefault(name, value)
