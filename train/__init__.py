"""The training application of a clone: `python -m train run RECIPE`."""
