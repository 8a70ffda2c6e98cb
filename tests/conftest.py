"""All tests run on the CPU, with one torch thread, no silent promotion of types or ranks and no network."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")  # of processes that tests start: none in the user's home
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Equal programs of different tests, workers and runs are compiled once.
jax.config.update("jax_compilation_cache_dir", str(Path(tempfile.gettempdir()) / f"trocr_jax-tests-{os.getuid()}"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
