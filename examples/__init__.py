"""Programs that run by themselves, for instance `python -m examples.quickstart`."""
