"""Searches over a `StepFn`. Nothing here knows the model."""

from trocr_jax.decoding.sample import greedy as greedy
from trocr_jax.decoding.sample import sample as sample
from trocr_jax.decoding.types import DecodeConfig as DecodeConfig
from trocr_jax.decoding.types import Decoded as Decoded
from trocr_jax.decoding.types import Special as Special
from trocr_jax.decoding.types import StepFn as StepFn
