"""What is told on stderr. No run ends because it cannot be: on a closed or full stderr it is lost."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress


def say(message: object) -> None:
    """Prints a line that begins with the program's name."""
    tell(f"trocr-jax: {message}")


def say_where() -> None:
    """Prints the traceback of the exception that is handled."""
    tell(traceback.format_exc().rstrip("\n"))


def tell(text: str) -> None:
    """Prints a line."""
    if sys.stderr is not None:  # `print` would take stdout
        with suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def give_up_stderr() -> None:
    """At the end of a program: what could not be written is lost, and is no exit status (120, from Python 3.13 on)."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = None


def printable(text: str) -> str:
    """Valid Unicode: bytes of a file name that are none become escapes (`\\udce9`)."""
    return text.encode("utf-8", "backslashreplace").decode()


def on_terminal() -> bool:
    """Whether somebody sees stderr as it is written."""
    return sys.stderr is not None and sys.stderr.isatty()
