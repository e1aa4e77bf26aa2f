"""The parts of compare.py. Those that load torch run in processes of their own, with one thread each."""
