"""The driver's connection to a Ray cluster."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from trocr_jax.errors import JobError
from trocr_jax.jobs.stop import Stop, Stopped

ANSWER_SECONDS = 20.0
"""Seconds in which somebody has to listen at the address of a cluster."""
TRIES = "3"
"""Connections that Ray tries to a head that listens and says nothing, of 41 s each (Ray 2.60). It would try 20."""
_TRIES = "RAY_gcs_server_port_wait_time_s"  # so Ray calls them


@contextmanager
def connected(address: str | None = None, stop: Stop | None = None) -> Iterator[None]:
    """A connection to a Ray cluster: the one that this process has, or else one for the time of the block.

    address: host:port or auto; RAY_ADDRESS if None, and a cluster on this machine for the time of the block if there is
    none either. Raises JobError if no cluster answers: after 20 s if nobody listens, after two minutes if a head
    listens that does not get round to answering. Raises Stopped as `stop.cut` does, and on SIGTERM, while Ray connects.
    """
    if ray.is_initialized():
        yield
        return
    stop = Stop() if stop is None else stop
    handler = signal.getsignal(signal.SIGTERM)
    given = address or os.environ.get("RAY_ADDRESS") or "local"
    if given.startswith("ray://"):
        named = "RAY_ADDRESS" if address is None else "--ray-address"
        raise JobError(
            f"{named} {given}: a job cannot be driven through Ray Client; on a machine of the cluster give "
            "host:port of its head (6379, if it was not told another) or auto, or submit the command as a Ray job"
        )
    try:
        with stop.cut():
            if given == "local":
                with _in_groups_of_their_own():
                    ray.init(given, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
            else:
                _wait_for(given)
                with _limited_tries():
                    ray.init(given, log_to_driver=False, logging_level=logging.WARNING)
    except (SystemExit, Stopped) as exit:  # SystemExit: so Ray's own handler of SIGTERM ends what it was doing
        signal.alarm(0)  # abseil's handler, which Ray also has, would abort the process by it after 3 s (Ray 2.60)
        stop.request()
        raise Stopped from exit
    except Exception as error:  # also Exception itself, of a node that did not start in time
        where = "on this machine" if given == "local" else f"at {given}"
        raise JobError(f"no Ray cluster {where}: {str(error).strip().splitlines()[-1]}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own there
    try:
        yield
    finally:
        ray.shutdown()


def _wait_for(address: str) -> None:
    """Raises OSError if nobody listens there."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return  # such as auto, which Ray has to understand
    until = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise OSError(
                    f"{error}, for {ANSWER_SECONDS:g} s; check the address, and that `ray start --head` runs there"
                ) from error
        time.sleep(0.5)


@contextmanager
def _in_groups_of_their_own() -> Iterator[None]:
    """Processes that are started meanwhile: a SIGTERM to the whole group of this one, as `timeout` and systemd send it,
    would end the cluster under the job that stops."""
    start = subprocess.Popen.__init__

    def start_apart(self: Any, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **{"process_group": 0, **options})

    subprocess.Popen.__init__ = start_apart  # type: ignore[method-assign]
    try:
        yield
    finally:
        subprocess.Popen.__init__ = start  # type: ignore[method-assign]


@contextmanager
def _limited_tries() -> Iterator[None]:
    before = os.environ.get(_TRIES)
    os.environ.setdefault(_TRIES, TRIES)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TRIES]
