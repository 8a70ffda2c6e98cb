"""The training application of a clone: `python -m train RECIPE`."""
