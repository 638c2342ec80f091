"""All benchmarks with their defaults, then the tables of benchmarks/README.md: what `make bench` runs."""

import subprocess
import sys

from benchmarks import tables

if __name__ == "__main__":
    for name in tables.TABLES:
        # A process each, so that none inherits the memory or the caches of another.
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=True)
    tables.main()
