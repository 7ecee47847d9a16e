"""Components beside their peers: `python -m tests.benchmarks`, or `nox -s bench`."""
