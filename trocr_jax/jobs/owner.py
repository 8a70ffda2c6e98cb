"""Who holds something in a job folder: a process, named so that others can tell whether it still lives."""

from __future__ import annotations

import os
import re
import socket
from functools import cache
from typing import NamedTuple

FIRST_NAMESPACE = "4026531836"
"""PROC_PID_INIT_INO of Linux (include/linux/proc_ns.h)."""


class Owner(NamedTuple):
    """A process. host: its name, with a part of the number that Linux gives each boot, since machines made from one
    image may have one name, and with the number of the namespace of processes if that is not the first, since a
    container may have the name of its host and sees only its own processes. started: the ticks since boot at which it
    began (Linux), which tell it from a later process with the same number; 0 where they are not known."""

    host: str
    pid: int
    started: int

    def __str__(self) -> str:
        return f"{self.host}.{self.pid}.{self.started}"

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """The owner that a name begins with; None if it was not written by one."""
        found = re.match(r"([\w-]+)\.(\d+)\.(\d+)", text)
        return cls(found[1], int(found[2]), int(found[3])) if found else None

    def has_died(self) -> bool:
        """Whether it is known to have ended. Of a process on another host nothing is known."""
        return self.host == me().host and self.started != _started(self.pid)


def me() -> Owner:
    """This process."""
    return _owner(os.getpid())


@cache
def _owner(pid: int) -> Owner:
    host = re.sub(r"[^\w-]", "-", socket.gethostname()) or "host"
    return Owner(host + _boot() + _namespace(), pid, _started(pid) or 0)


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"-{file.read(8)}"
    except OSError:
        return ""


def _namespace() -> str:
    try:
        found = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        return ""
    return "" if found == FIRST_NAMESPACE else f"-{found}"


def _started(pid: int) -> int | None:
    """None for a process that is not there."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except OSError:
        pass
    if os.path.exists("/proc/self/stat"):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return 0
