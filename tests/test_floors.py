"""The library is built in floors, and an import may only go down (docs/architecture.md).

A room is a module, a folder, or a module with its side files (`image.py` and `image_file.py`). Two rooms of one floor
may import each other only inside the same folder (`decoding/`). `errors` is the ground: everything may import it.
The two roofs, `trocr_jax/__init__.py` and `trocr_jax/__main__.py`, may import everything; nothing imports them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = [
    {
        "errors",
        "say",
        "config",
        "image",
        "tokenizer",
        "metrics",
        "confidence",
        "calibration",
        "word_boxes",
        "kernels",
        "decoding.types",
        "decoding.loop",
        "decoding.pytree",
        "decoding.checks",
        "decoding.config_huggingface",
        "decoding.arpa",
    },
    {
        "attention",
        "datasets",
        "decoding.processors",
        "decoding.filters",
        "decoding.constraints",
        "decoding.automaton",
        "decoding.token_arcs",
        "decoding.dfa",
        "decoding.regex",
        "decoding.lexicon",
        "decoding.ngram",
        "decoding.ngram_tree",
        "decoding.fusion",
        "decoding.beam_state",
    },
    {
        "encoder",
        "evaluated",
        "decoder",
        "decoding.sample",
        "decoding.beam",
        "decoding.diverse",
        "decoding.config",
        "decoding.order",
        "decoding",
    },
    {"model", "cross_attention"},
    {"generation", "sharding", "checkpoint"},
    {"recognizer"},
    {"jobs", "evaluation", "report"},
    {"cli"},
    {"__init__", "__main__"},
]
ROOF = len(FLOORS) - 1
SIDE_FILES = {
    "presets": "config",
    "quantization": "model",
    "model_layout": "model",
}  # those that are not named after their room
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports(source: str) -> Iterator[tuple[str, int]]:
    """Every module that `source` may import, at any depth of the file, with its line. `from a import b` gives `a.b`
    too: b may be a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are written in full"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def room(module: str) -> str:
    """The room of a dotted name under trocr_jax: its longest prefix that the table of floors names."""
    parts = module.split(".")[1:]
    if parts and is_module(parts[0]):
        parts[0] = SIDE_FILES.get(parts[0], parts[0])
        if parts[0] not in FLOOR and not (ROOT / "trocr_jax" / parts[0]).is_dir():
            parts[0] = parts[0].split("_")[0]  # image_file stands in the room image
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in FLOOR:
            return name
    if parts and is_module(parts[0]):
        raise LookupError(f"{module} stands on no floor: add its room to docs/architecture.md and to this test")
    return "__init__"  # `import trocr_jax`, or a name of the roof: `from trocr_jax import Recognizer`


def is_module(name: str) -> bool:
    return (ROOT / "trocr_jax" / name).is_dir() or (ROOT / "trocr_jax" / f"{name}.py").exists()


def violations(module: str, source: str) -> list[str]:
    """What `source`, the text of the dotted `module`, imports against the rule."""
    here, found = room(module), []
    for name, line in imports(source):
        if name.split(".")[0] != "trocr_jax":
            continue
        there = room(name)
        same_folder = here.split(".")[0] == there.split(".")[0] and FLOOR[here] == FLOOR[there] < ROOF
        if FLOOR[there] >= FLOOR[here] and not same_folder and there != "errors":
            found.append(f"{module}:{line} (floor {FLOOR[here]}) imports {name} (floor {FLOOR[there]})")
    return found


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def top_level_imports(path: Path) -> dict[str, int]:
    return {name.split(".")[0]: line for name, line in imports(path.read_text(encoding="utf-8"))}


def importers(*names: str, among: list[Path], allowed: tuple[str, ...] = ()) -> list[str]:
    """Files `among` these that import one of the packages `names`; `allowed` are glob patterns from the root."""
    found = []
    for path in among:
        relative = path.relative_to(ROOT)
        if not any(relative.match(pattern) for pattern in allowed):
            lines = top_level_imports(path)
            found += [f"{relative}:{lines[name]} imports {name}" for name in names if name in lines]
    return found


def test_imports_only_go_down():
    sources = files("trocr_jax")
    assert len(sources) > 5
    found = [v for path in sources for v in violations(dotted(path), path.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("trocr_jax.config", "from trocr_jax.model import TrOCR"),
        ("trocr_jax.config", "def f():\n    import trocr_jax.model"),
        ("trocr_jax.encoder", "from trocr_jax.decoder import Decoder"),  # same floor, other room
        ("trocr_jax.generation", "from trocr_jax import checkpoint"),
        ("trocr_jax.recognizer", "from trocr_jax import generation, Recognizer"),
        ("trocr_jax.decoding.loop", "from trocr_jax.decoding import sample"),
        ("trocr_jax.decoding.beam", "from trocr_jax import model"),
        ("trocr_jax.cli", "import trocr_jax"),
        ("trocr_jax.errors", "from trocr_jax.config import TrOCRConfig"),
    ],
)
def test_an_import_that_goes_up_is_found(module, source):
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("trocr_jax.checkpoint.native", "from trocr_jax.checkpoint.manifest import verify"),  # one folder
        ("trocr_jax.config", "from trocr_jax.errors import ConfigError"),
        ("trocr_jax.generation", "from trocr_jax.decoding import sample\nfrom trocr_jax.model import TrOCR"),
        ("trocr_jax.__init__", "from trocr_jax.recognizer import Recognizer\nfrom trocr_jax import cli"),
        ("trocr_jax.model", "import jax\nfrom trocr_jax.config import TrOCRConfig"),
    ],
)
def test_an_import_that_goes_down_is_allowed(module, source):
    assert violations(module, source) == []


def test_the_documentation_has_the_same_floors():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.+) \|$", page, flags=re.M)
    assert [int(number) for number, _ in rows] == list(range(ROOF))
    for number, text in rows:
        rooms = {name.strip("/").replace("/", ".") for name in re.findall(r"`([^`]+)`", text)} - set(SIDE_FILES)
        assert rooms == FLOORS[int(number)] - {"decoding"}  # the folder's own __init__


def test_decoding_knows_no_model():
    known = {"trocr_jax.decoding", "trocr_jax.errors"}
    for path in files("trocr_jax/decoding"):
        for name, line in imports(path.read_text(encoding="utf-8")):
            ours = ".".join(name.split(".")[:2])
            assert not ours.startswith("trocr_jax") or ours in known, f"{path.name}:{line} imports {name}"


def test_train_and_convert_stand_apart():
    assert importers("train", "convert", "scripts", "benchmarks", "tests", among=files("trocr_jax")) == []
    assert importers("convert", "tests", among=files("train")) == []
    assert importers("train", "tests", among=files("convert")) == []


def test_torch_is_only_an_oracle():
    allowed = ("convert/verify*.py", "tests/*.py", "tests/*/*.py", "scripts/*.py", "benchmarks/*.py")
    everything = files("trocr_jax", "train", "convert", "scripts", "benchmarks", "tests")
    assert importers("torch", "torchvision", among=everything, allowed=allowed) == []


def test_tensorflow_is_nowhere():
    everything = files("trocr_jax", "train", "convert", "scripts", "benchmarks", "tests")
    assert importers("tensorflow", "tensorflow_text", "tf_keras", among=everything) == []
