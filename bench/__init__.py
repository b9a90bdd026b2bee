"""Benchmarks of the mesh beside its peers. `python -m bench --help`."""
