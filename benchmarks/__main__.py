"""All benchmarks with their defaults, then the tables of benchmarks/README.md: what `make bench` runs."""

import subprocess
import sys

from benchmarks import tables

PROGRAMS = (
    ("pgd_speed",),
    ("active_set",),
    ("active_set", "--data", "cifar10"),
    ("training_speed",),
    ("speed_run",),
)

if __name__ == "__main__":
    for name, *options in PROGRAMS:
        # A process each, so that none inherits the memory or the caches of another.
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options, *sys.argv[1:]], check=True)
    tables.main()
