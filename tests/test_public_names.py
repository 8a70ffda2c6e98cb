"""The names that the README promises are there, whatever was imported before."""

from __future__ import annotations

import subprocess
import sys

import trocr_jax


def test_every_public_name_exists():
    for name in trocr_jax.__all__:
        assert getattr(trocr_jax, name) is not None


def test_names_do_not_depend_on_the_order_of_imports():
    # a module trocr_jax.generate would take the place of the function: importing a module sets it on its package
    code = "import trocr_jax.recognizer, trocr_jax.generation; assert callable(trocr_jax.generate)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_importing_the_library_is_quick():
    code = "import sys, trocr_jax; assert not {'jax', 'flax', 'transformers', 'PIL'} & set(sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
