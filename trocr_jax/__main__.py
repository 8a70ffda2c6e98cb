"""`python -m trocr_jax`: the command line, where the `trocr-jax` program is not on the path."""

import sys

from trocr_jax.cli import main

sys.exit(main())
