"""A planned job: its units, what has been read of them, and how a unit is committed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from trocr_jax.errors import JobError
from trocr_jax.jobs.files import is_url
from trocr_jax.jobs.fingerprint import sha256
from trocr_jax.jobs.planning import Plan, Unit, read_inputs, read_plan, read_units
from trocr_jax.jobs.rows import Counts, Row, decode, encode
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.store import Store, open_store

PARTS, PARTIAL, LEASES, ATTEMPTS, EVENTS, SUCCESS = "parts", "partial", "leases", "attempts", "events", "_SUCCESS"

_PART = re.compile(r"([0-9]{8,})\.jsonl")
_PIECE = re.compile(r"([0-9]{8,})-([0-9]{6,})-([0-9]{6,})\.jsonl")
_MEND = "delete what there is of it and run the job again, which reads its lines once more (`jobs verify` names all)"


class Task(NamedTuple):
    """Lines of a unit to read in one go, by their numbers in it: nearly always all of them."""

    unit: int
    lines: Sequence[int]

    @classmethod
    def stretch(cls, unit: int, first: int, count: int) -> Task:
        return cls(unit, range(first, first + count))


def unit_name(unit: int) -> str:
    return f"{unit:08}"


def part_name(unit: int) -> str:
    return f"{PARTS}/{unit_name(unit)}.jsonl"


class Job:
    """A job folder that has a plan.

    Attributes: store; plan; units; checksums, by which `part` looks whether a part has changed, if there are any. Any
    number of processes may have the same job open.
    """

    def __init__(self, store: Store, plan: Plan) -> None:
        self.store, self.plan = store, plan
        self.units: list[Unit] = read_units(store, plan)
        self.checksums: Mapping[str, str] | None = None

    @classmethod
    def open(cls, folder: str) -> Job:
        """Raises JobError if there is no job."""
        store = open_store(folder)
        plan = read_plan(store)
        if plan is None:
            raise JobError(f"{folder}: holds no job (no plan.json); plan it with `trocr-jax jobs run`")
        return cls(store, plan)

    def whole(self, unit: int) -> Task:
        return Task.stretch(unit, 0, self.units[unit].lines)

    def inputs(self, task: Task) -> list[Input]:
        """Raises JobError if they are not those that were planned."""
        inputs = read_inputs(self.store, self.plan, self.units[task.unit])
        return [inputs[i] for i in task.lines]

    def done(self) -> set[int]:
        """Units that are committed."""
        stems = (_PART.fullmatch(name) for name in self.store.names(PARTS))
        return {unit for stem in stems if stem and (unit := int(stem[1])) < len(self.units)}

    def is_done(self, unit: int) -> bool:
        return self.store.exists(part_name(unit))

    def commit(self, task: Task, rows: Sequence[Row]) -> bool:
        """Writes the rows of a task, whole or not at all, and says whether it did: a second commit of the same task, by
        whomever, changes nothing.

        Rows of a part of a unit are kept aside until all of it has been read.
        """
        content = encode(rows)
        if task == self.whole(task.unit):
            return self.store.create(part_name(task.unit), content)
        written = not self.is_done(task.unit) and self.store.create(_partial_name(task), content)
        self.assemble(task.unit)
        return written

    def assemble(self, unit: int) -> bool:
        """Makes the part of a unit of its pieces, if they are all there; says whether it is committed.

        Pieces may overlap: whoever read one may have died before it could say so, and then its halves are read too.
        """
        pieces = self.partial(unit)
        if not self.is_done(unit):
            longest = {piece.lines[0]: piece for piece in sorted(pieces, key=lambda piece: len(piece.lines))}
            chosen: list[Task] = []
            line = 0
            while line < self.units[unit].lines:
                if line not in longest:
                    return False
                chosen.append(longest[line])
                line += len(chosen[-1].lines)
            try:
                self.store.create(part_name(unit), b"".join(self.store.read(_partial_name(piece)) for piece in chosen))
            except FileNotFoundError:  # another process that reads the unit has done it this moment
                if not self.is_done(unit):
                    raise
        for piece in pieces:
            self.store.remove(_partial_name(piece))
        return True

    def amend(self, task: Task, rows: Sequence[Row]) -> None:
        """Puts rows that were read again in the place of those that a committed unit has."""
        part = self.rows(task.unit)
        for line, row in zip(task.lines, rows, strict=True):
            part[line] = row
        self.store.replace(part_name(task.unit), encode(part), durable=True)

    def partial(self, unit: int) -> list[Task]:
        """The stretches of a unit that have been read apart from one another, in order."""
        pieces = (_PIECE.fullmatch(name) for name in self.store.names(PARTIAL))
        return [Task.stretch(unit, int(of[2]), int(of[3])) for of in pieces if of and int(of[1]) == unit]

    def read_part(self, unit: int) -> bytes:
        """Raises FileNotFoundError for a unit that is not committed."""
        return self.store.read(part_name(unit))

    def part(self, unit: int) -> bytes:
        """`read_part` for those who need it. Raises JobError that names a part which is not there, cannot be read, or
        does not hold the lines of its unit; OSError where that says nothing of the part."""
        try:
            part = self.read_part(unit)
        except OSError as error:
            no_answer = is_url(self.store.root) and not isinstance(error, FileNotFoundError)
            if no_answer or isinstance(error, PermissionError):
                raise
            raise JobError(f"{self._name(unit)}: cannot be read ({error.strerror or error}); {_MEND}") from error
        lines, why = self.units[unit].lines, ""
        if part.count(b"\n") != lines or not part.endswith(b"\n"):
            why = f"it does not have the {lines} lines of its unit"
        elif self.checksums is not None and self.checksums.get(part_name(unit)) != sha256(part):
            why = "it has changed since the job was completed"
        if why:
            raise JobError(f"{self._name(unit)}: is damaged ({why}); {_MEND}")
        return part

    def rows(self, unit: int) -> list[Row]:
        """The rows of a committed unit. Raises JobError that names a part which is not there or damaged."""
        part = self.part(unit)
        try:
            return decode(part)
        except ValueError as error:
            raise JobError(f"{self._name(unit)}: is damaged ({error}); {_MEND}") from error

    def _name(self, unit: int) -> str:
        return f"{self.store.root}/{part_name(unit)}"


def _partial_name(task: Task) -> str:
    return f"{PARTIAL}/{unit_name(task.unit)}-{task.lines[0]:06}-{len(task.lines):06}.jsonl"


def read_success(store: Store) -> dict[str, Any] | None:
    """What _SUCCESS says: counts and checksums of a complete job; None for one that is not."""
    try:
        found = orjson.loads(store.read(SUCCESS))
        if not isinstance(found, dict) or not isinstance(found.get("sha256"), dict):
            raise ValueError("it has no checksums")
        Counts.of(found)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        raise JobError(f"{store.root}/{SUCCESS}: is damaged ({error}); delete it and run the job again") from error
    return found
