"""Speed against other libraries: each program is a command, `python -m benchmarks.NAME --help`."""
