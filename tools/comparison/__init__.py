"""The parts of tools/compare.py. Those that load torch run in processes of their own, with one thread each."""
