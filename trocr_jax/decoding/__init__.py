"""Searches over a `StepFn`. Nothing here knows the model."""

from trocr_jax.decoding import constraints as constraints
from trocr_jax.decoding import filters as filters
from trocr_jax.decoding import fusion as fusion
from trocr_jax.decoding import processors as processors
from trocr_jax.decoding.beam import beam_search as beam_search
from trocr_jax.decoding.config import DecodeConfig as DecodeConfig
from trocr_jax.decoding.diverse import diverse_beam_search as diverse_beam_search
from trocr_jax.decoding.loop import run as run
from trocr_jax.decoding.loop import states as states
from trocr_jax.decoding.processors import chain as chain
from trocr_jax.decoding.sample import categorical as categorical
from trocr_jax.decoding.sample import greedy as greedy
from trocr_jax.decoding.sample import sample as sample
from trocr_jax.decoding.types import Context as Context
from trocr_jax.decoding.types import Decoded as Decoded
from trocr_jax.decoding.types import Processor as Processor
from trocr_jax.decoding.types import Search as Search
from trocr_jax.decoding.types import Special as Special
from trocr_jax.decoding.types import StepFn as StepFn
