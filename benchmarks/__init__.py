"""Measures sweeps beside the least that they could cost; see benchmarks/README.md."""
