"""The plan of a job: which lines, in which units, and everything that has to be the same wherever they are read.

Three files in the job folder, none of which ever changes:
    plan.json                        the configuration, counts, and the names and checksums of the other two
    plan/inputs-<checksum>.jsonl     a line for each input: [id, place], or [id] where the place is the id
    plan/units-<checksum>.jsonl      a line for each unit: [first byte, bytes, lines, checksum] of its inputs
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from array import array
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import orjson

from trocr_jax.errors import JobError, SourceError
from trocr_jax.jobs.fingerprint import differences, dumps, loads, sha256, short
from trocr_jax.jobs.owner import me
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.stop import Stop
from trocr_jax.jobs.store import LocalStore, Store
from trocr_jax.say import printable

PLAN = "plan.json"
VERSION = 1
_CHUNK = 1 << 20  # bytes of inputs that are held before they are written


class Unit(NamedTuple):
    """A stretch of the list of inputs. checksum: 16 hexadecimal digits of the sha256 of its bytes."""

    start: int
    length: int
    lines: int
    checksum: str


@dataclass(frozen=True)
class Plan:
    """configuration: JSON values. inputs, units: names of the files. lines, unit_count: how many."""

    configuration: Mapping[str, Any]
    fingerprint: str
    inputs: str
    units: str
    units_sha256: str
    lines: int
    unit_count: int
    created: str
    version: int = VERSION


def read_plan(store: Store) -> Plan | None:
    """The plan of a job folder; None if there is none. Raises JobError for one that cannot be read."""
    try:
        values = loads(store.read(PLAN))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise JobError(f"{store.root}/{PLAN}: is damaged ({error})") from error
    if not isinstance(values, dict) or values.get("version") != VERSION:
        raise JobError(f"{store.root}/{PLAN}: was not written by this version of trocr-jax; use the one that wrote it")
    try:
        return Plan(**values)
    except TypeError as error:
        raise JobError(f"{store.root}/{PLAN}: is damaged ({error})") from error


def read_units(store: Store, plan: Plan) -> list[Unit]:
    """Raises JobError if the file is not the one that was planned."""
    try:
        content = store.read(plan.units)
    except FileNotFoundError:
        why = "is missing, so the job cannot go on; plan it in another folder"
        raise JobError(f"{store.root}/{plan.units}: {why}") from None
    if sha256(content) != plan.units_sha256:
        raise JobError(f"{store.root}/{plan.units}: is damaged; its checksum is not that of the plan")
    return [Unit(*orjson.loads(line)) for line in content.splitlines()]


def read_inputs(store: Store, plan: Plan, unit: Unit) -> list[Input]:
    """The inputs of a unit. Raises JobError if they are not those that were planned."""
    try:
        content = store.read_range(plan.inputs, unit.start, unit.length)
    except FileNotFoundError:
        content = b""
    if sha256(content)[:16] != unit.checksum:
        raise JobError(
            f"{store.root}/{plan.inputs}: is missing or damaged at byte {unit.start}; plan it in another folder"
        )
    return [Input(found[0], found[-1]) for found in map(loads, content.splitlines())]


def check_same(plan: Plan, configuration: Mapping[str, Any], folder: str) -> None:
    """Raises JobError that shows each difference to the plan."""
    # as it comes back from JSON: tuples are lists
    asked = loads(dumps(configuration))
    if found := list(differences(plan.configuration, asked)):
        shown = "\n  ".join(found)
        raise JobError(
            f"{folder}: was planned with another configuration:\n  {shown}\n"
            "Give the same options and software, or another folder."
        )


def make_plan(
    store: Store,
    configuration: Mapping[str, Any],
    inputs: Iterable[Input],
    unit_size: int,
    stop: Stop | None = None,
) -> Plan:
    """Lists the inputs once and writes the plan, or reads the one that another process has written meanwhile.

    Memory: 8 bytes an input. Raises SourceError if there are none, or two with the same id; Stopped as `stop.apart`
    does until they are listed.
    """
    stop = Stop() if stop is None else stop
    with ExitStack() as opened:
        if isinstance(store, LocalStore):
            listed = store.temporary()
        else:
            listed = Path(opened.enter_context(tempfile.TemporaryDirectory()), "inputs")
        try:
            with open(listed, "wb", buffering=_CHUNK) as file:  # closed before a thread that is left behind goes on
                units, whole, ids = stop.apart(lambda: _list(file, inputs, unit_size))
            if (plan := read_plan(store)) is not None:  # of whoever was quicker
                return plan
            if not ids:
                raise SourceError("the source has no lines; check its name and contents")
            _check_ids(listed, ids)
            name = f"plan/inputs-{whole[:16]}.jsonl"
            store.upload(name, listed)
        finally:
            listed.unlink(missing_ok=True)
    index = b"".join(orjson.dumps(list(unit), option=orjson.OPT_APPEND_NEWLINE) for unit in units)
    checksum = sha256(index)
    plan = Plan(
        configuration=configuration,
        fingerprint=short(configuration),
        inputs=name,
        units=f"plan/units-{checksum[:16]}.jsonl",
        units_sha256=checksum,
        lines=len(ids),
        unit_count=len(units),
        created=f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} by {me()}",
    )
    store.create(plan.units, index)
    store.create(PLAN, dumps(asdict(plan), orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    found = read_plan(store)
    assert found is not None
    return found


def _list(file: IO[bytes], inputs: Iterable[Input], unit_size: int) -> tuple[list[Unit], str, array[int]]:
    """Writes the list; returns the units, the checksum of the whole, and a hash of every id."""
    units: list[Unit] = []
    ids = array("q")
    whole = hashlib.sha256()
    lines: list[bytes] = []
    start = 0

    def close() -> int:
        content = b"".join(lines)
        file.write(content)
        whole.update(content)
        units.append(Unit(start, len(content), len(lines), sha256(content)[:16]))
        lines.clear()
        return start + len(content)

    for id, place in inputs:
        lines.append(dumps([id] if place == id else [id, place], orjson.OPT_APPEND_NEWLINE))
        ids.append(hash(id if id.isascii() else printable(id)))
        if len(lines) == unit_size:
            start = close()
    if lines:
        close()
    return units, whole.hexdigest(), ids


def _check_ids(listed: Path, ids: array[int]) -> None:
    """Equal hashes are looked at again: two different ids may share one."""
    hashes = np.frombuffer(ids, np.int64)
    ordered = np.sort(hashes)
    twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    del ordered
    if not twice:
        return
    seen: dict[str, int] = {}
    with open(listed, "rb") as file:
        for number, (line, hashed) in enumerate(zip(file, ids, strict=True), 1):
            if hashed in twice:
                id = printable(loads(line)[0])
                if id in seen:
                    raise SourceError(
                        f"{id}: is the id of inputs {seen[id]} and {number}; an id names one line of the output, "
                        "so leave one of them out, or give others; a manifest can give ids of their own (--id-column)"
                    )
                seen[id] = number
