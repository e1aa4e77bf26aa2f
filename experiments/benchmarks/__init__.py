"""The benchmarks of benchmark.py."""
