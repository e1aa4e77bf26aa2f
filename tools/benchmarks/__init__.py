"""Subcommands of ``tools/benchmark.py``."""
