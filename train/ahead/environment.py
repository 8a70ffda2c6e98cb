"""What the environment has to say before jax is imported: this file does not import it."""

from __future__ import annotations

import os

# libtpu looks for the machine it runs on, slowly and aloud, unless it is told that there is none.
NO_MACHINE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # it is held by one process at a time, for the sake of chips
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

# Without a device there is nothing to try kernels on, and the tiles of Triton's products are found by trying.
H200_FLAGS = "--xla_gpu_enable_triton_gemm=false --xla_gpu_autotune_level=0"


def prepare(topology: str) -> None:
    """Sets the environment that compiling for `topology` needs; before jax does anything."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if topology.startswith("h200"):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {H200_FLAGS}".strip()
    else:
        for name, value in NO_MACHINE.items():
            os.environ.setdefault(name, value)
