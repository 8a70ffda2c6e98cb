"""Weights from one format to another, and a comparison with PyTorch. An application of a clone: `python -m convert`."""
