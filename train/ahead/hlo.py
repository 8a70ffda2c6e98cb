"""What a compiled program does, read off its text: cycles and collectives, the bodies of loops as often as they run.

XLA's own analysis is not used: it counts the body of a loop once (jax 0.10).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "send")
BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "f8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16}
BITS |= {"s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128}

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)")
_ARRAY = re.compile(r"\b([a-z]+\d*)(?:e\d\w*)?\[([\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(\S+?(?: \{\S*\})?)(?=, \w+=|$)")
_CALLED = re.compile(r"(body|condition|calls|to_apply|branch_computations)=\{?%?([\w.\-]+(?:, ?%[\w.\-]+)*)")


@dataclass
class Work:
    """cycles, none if the compiler does not estimate them; how often each collective runs and the bytes a device puts
    in or takes out, the greater of the two; `groups`: which devices these are between, as the program writes it;
    `loops`: one turn of each loop whose number of turns the program does not know, which is in none of the other
    figures."""

    cycles: int | None
    count: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    groups: set[str] = field(default_factory=set)
    loops: list[Work] = field(default_factory=list)


@dataclass(frozen=True)
class _Instruction:
    shape: str
    opcode: str
    rest: str  # behind the opening parenthesis


def work(text: str) -> Work:
    """Of the `as_text()` of a compiled program."""
    program, entry = _parse(text)
    return _Walk(program, cycles='"estimated_cycles"' in text).of(entry)


class _Walk:
    def __init__(self, program: dict[str, dict[str, _Instruction]], *, cycles: bool) -> None:
        self._program, self._cycles = program, cycles

    def of(self, computation: str, *, fused: bool = False) -> Work:
        """`fused`: its cycles are those of the instruction that calls it."""
        total = Work(0 if self._cycles else None)
        for instruction in self._program[computation].values():
            self._add(total, instruction, self._program[computation], fused=fused)
        return total

    def _add(
        self, total: Work, instruction: _Instruction, beside: dict[str, _Instruction], *, fused: bool = False
    ) -> None:
        cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
        if total.cycles is not None and cycles and not fused:
            total.cycles += int(cycles[1])
        kind = instruction.opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            total.count[kind] += 1
            total.bytes[kind] += _payload(instruction, beside)
            total.groups |= set(_GROUPS.findall(instruction.rest)) or {"all"}
        called = _called(instruction.rest)
        if instruction.opcode == "while":
            (body,), (condition,) = called["body"], called["condition"]
            turns, turn = self._turns(instruction, condition), self.of(body)
            if turns is None:
                total.loops.append(turn)
            else:
                _sum(total, turn, turns)
        elif instruction.opcode == "conditional":
            branches = [self.of(name) for name in called["branch_computations"]]
            _sum(total, max(branches, key=lambda w: (w.cycles or 0, sum(w.bytes.values()))), 1)
        elif instruction.opcode in ("fusion", "call", "async-start"):
            for name in called["calls"] + called["to_apply"]:
                _sum(total, self.of(name, fused=fused or cycles is not None), 1)

    def _turns(self, loop: _Instruction, condition: str) -> int | None:
        """Of a loop that counts from zero to a constant."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        instructions = self._program[condition]
        *_, last = instructions.values()
        if last.opcode != "compare" or "direction=LT" not in last.rest:
            return None
        limit = instructions.get(_operands(last.rest)[-1])
        constant = re.match(r"(\d+)\)", limit.rest) if limit is not None and limit.opcode == "constant" else None
        return int(constant[1]) if constant else None


def _sum(total: Work, part: Work, times: int) -> None:
    if total.cycles is not None and part.cycles is not None:
        total.cycles += times * part.cycles
    for name in part.count:
        total.count[name] += times * part.count[name]
        total.bytes[name] += times * part.bytes[name]
    total.groups |= part.groups
    total.loops += part.loops


def _parse(text: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
    """{computation: {name: instruction}} and the name of the first to run."""
    program: dict[str, dict[str, _Instruction]] = {}
    entry = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            program[header[2]] = current = {}
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            current[found[1]] = _Instruction(found[2], found[3], found[4])
    return program, entry


def _called(rest: str) -> dict[str, list[str]]:
    called: dict[str, list[str]] = defaultdict(list)
    for role, names in _CALLED.findall(rest):
        called[role] += [name.strip().lstrip("%") for name in names.split(",")]
    return called


def _operands(rest: str) -> list[str]:
    return re.findall(r"%?([\w.\-]+)(?=[,)])", rest.partition(")")[0] + ")")


def _payload(instruction: _Instruction, beside: dict[str, _Instruction]) -> int:
    operands = sum(_size(beside[name].shape) for name in _operands(instruction.rest) if name in beside)
    result = _size(instruction.shape)
    if instruction.opcode.endswith("-start") and instruction.opcode != "all-reduce-start":
        result -= operands  # both are in the tuple that it returns
    return max(operands, result)


def _size(shape: str) -> int:
    """Bytes of the arrays in "(f32[2,3]{1,0}, bf16[4]{0})"."""
    sizes = (
        BITS.get(kind, 0) * math.prod(map(int, filter(None, axes.split(",")))) for kind, axes in _ARRAY.findall(shape)
    )
    return sum(sizes) // 8
