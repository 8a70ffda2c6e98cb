"""A Ray cluster of several nodes on this machine, whose nodes and workers can be found and killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "6",  # on busy cores not every answer comes in time
    "RAY_gcs_rpc_server_connect_timeout_s": "60",  # 5 are not enough on a busy machine
}


STARTED = "Ray runtime started"
AGAIN = 'while :; do "$@"; sleep 1; done'
"""What starts a node again: one that the head has not answered in 30 s, or that it has missed, ends by itself."""


class Cluster:
    """A head without CPUs, and nodes that say they have one CPU, one GPU and four TPU chips each.

    address: for `ray.init`.
    """

    def __init__(self, temporary: str) -> None:
        self._temporary = temporary
        self.address = f"127.0.0.1:{_free_port()}"
        self._logs: dict[int, Path] = {}
        port = self.address.rpartition(":")[2]
        head = ["--head", "--port", port, "--include-dashboard=false", "--temp-dir", temporary]
        self._head = self._start(*head, "--num-cpus=0", "--num-gpus=0")
        self._nodes: list[subprocess.Popen[bytes]] = []

    def wait(self, seconds: float = 300.0) -> None:
        """Until all that was started is there, which takes long on a busy machine. Raises RuntimeError."""
        until = time.monotonic() + seconds
        while late := [log for log in map(self._log, [self._head, *self._nodes]) if STARTED not in log]:
            if time.monotonic() > until:
                raise RuntimeError(f"a Ray cluster did not start in {seconds:g} s: {late[0][-4000:]}")
            time.sleep(0.1)

    def add_node(self) -> None:
        resources = ["--num-cpus=1", "--num-gpus=1", '--resources={"TPU": 4}']
        resources.append("--include-log-monitor=false")  # one for each machine, and the head has one
        self._nodes.append(self._start("--address", self.address, *resources))

    def kill_node(self, number: int) -> bool:
        """SIGKILL to the node's own process, as when its machine is taken away; False if it has not started yet. Its
        workers end because it is no more."""
        raylets = [child for child in _descendants(self._nodes[number].pid) if _name(child) == "raylet"]
        if not raylets:
            return False
        os.kill(raylets[0], signal.SIGKILL)
        self._end(self._nodes.pop(number))
        return True

    def workers(self, prefix: str) -> list[int]:
        """Processes of all nodes whose title begins so, such as "ray::MapWorker"."""
        found = [pid for node in self._nodes for pid in _descendants(node.pid)]
        return [pid for pid in found if _title(pid).startswith(prefix)]

    @property
    def nodes(self) -> int:
        return len(self._nodes)

    def close(self) -> None:
        for process in [*self._nodes, self._head]:
            self._end(process)

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        command += [f"--object-store-memory={80 << 20}"]
        environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        number = len(self._logs)
        log = Path(self._temporary, f"{number}.log")
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["sh", "-c", AGAIN, "sh", *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._logs[process.pid] = log
        return process

    def _log(self, process: subprocess.Popen[bytes]) -> str:
        return self._logs[process.pid].read_text(errors="replace")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """First what would start it again."""
        for pid in [process.pid, *_descendants(process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


@contextmanager
def ray_cluster(nodes: int) -> Iterator[Cluster]:
    """A cluster that ends with the block; while it runs, the environment is what its drivers need."""
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets want short names
    before = dict(os.environ)
    os.environ |= ENVIRONMENT
    cluster = Cluster(temporary)
    try:
        cluster.wait()
        for _ in range(nodes):  # each by itself: of two that start at once one may wait 30 s for its address (Ray 2.60)
            cluster.add_node()
            cluster.wait()
        yield cluster
    finally:
        cluster.close()
        os.environ.clear()
        os.environ |= before
        shutil.rmtree(temporary, ignore_errors=True)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in thread.read_text().split()]
    return found


def _descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from _descendants(child)


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
