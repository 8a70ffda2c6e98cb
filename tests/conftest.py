"""All tests run on the CPU, with one torch thread, no silent promotion of types or ranks and no network."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")  # of processes that tests start: none in the user's home
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jax
import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # what a shell starts in the background; its children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

MAPPINGS = Path("/proc/self/maps")  # of Linux, which by default gives a process 65,530: vm.max_map_count
MOST_MAPPINGS = 30_000

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Equal programs of different tests, workers and runs are compiled once.
jax.config.update("jax_compilation_cache_dir", str(Path(tempfile.gettempdir()) / f"trocr_jax-tests-{os.getuid()}"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(autouse=True, scope="module")
def room_for_programs() -> Iterator[None]:
    """Lets compiled programs go when a file of tests leaves many: a small model's takes 240 mappings of memory, and
    when a process has no more of them, XLA's next compilation ends it by SIGSEGV."""
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()


@pytest.fixture(scope="module")
def promotion_of_optax() -> Iterator[None]:
    """optax's own arithmetic promotes types and ranks; in the fixtures of a file that names it, too."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model with random weights, for tests of a file that only read it."""
    from tests.tiny import save_tiny  # behind the settings above

    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")
