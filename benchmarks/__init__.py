"""Speed on this machine: ``python -m benchmarks.NAME --json FILE``, one module a benchmark."""
