"""Before any test imports torch: threads that wait must not spin, or a busy machine makes steps take minutes."""

import os

from bench.run.threads import CALM

for name, value in CALM.items():
    os.environ.setdefault(name, value)
