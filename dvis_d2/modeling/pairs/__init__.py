"""Pairs of pixels: the sums behind the permutation-invariant loss of ../losses.py (eqs. 4-5). Needs torch alone."""
