"""Kernels of our own for accelerators, where what XLA makes of the same products is far from what the hardware allows.
Each has a plain twin, which it equals but for rounding; `generation_plan` chooses."""
