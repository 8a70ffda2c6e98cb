"""Line i of the renderer is, bit for bit, the line that it has always been. `python -m tests.test_render_golden` writes
the file anew, after a change that is meant to change lines: runs in progress are then lost."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from PIL import features

from tests.test_render import SMALL_CORPUS, create
from train.data.fonts import Face, Family, drawn_characters, find_faces
from train.data.line import Line
from train.data.render import Renderer
from train.data.sources import Synthetic

FILE = Path(__file__).parent / "golden_lines.json"
FONTS = Path(matplotlib.__file__).parent / "mpl-data/fonts/ttf"  # the same faces wherever the tests run
COUNT, MAX_CHARS = 16, 40
STYLES = ("printed", "handwriting", "colour", "receipt", "scene")


needs_raqm = pytest.mark.skipif(not features.check("raqm"), reason="Pillow's libraqm finds no FriBiDi here")


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """What the file says; skips the tests where other versions of the libraries that draw are installed."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    if found["drawn with"] != libraries():
        pytest.skip(f"the lines of {FILE.name} were drawn with {found['drawn with']}, here is {libraries()}")
    return found


@pytest.mark.parametrize("style", STYLES)
def test_lines_in_faces_of_matplotlib_are_those_of_the_file(style: str, golden: dict[str, Any]) -> None:
    assert digests(bundled(style)) == golden["bundled"][style]


def test_lines_in_installed_faces_are_those_of_the_file(golden: dict[str, Any]) -> None:
    printed = create("train")
    found = fingerprint(printed)
    if changed := [name for name, digest_ in golden["installed with"].items() if found[name] != digest_]:
        pytest.skip(f"other {' and other '.join(changed)} are installed than those of {FILE.name}")
    assert {style: digests(in_style(printed, style)) for style in STYLES} == golden["installed"]


@needs_raqm
def test_styles_say_texts_of_their_own() -> None:
    """Where two are mixed, a line of one is not that of the other in other colours."""
    texts = {style: {bundled(style).line(index).text for index in range(4)} for style in STYLES}
    assert all(texts["printed"].isdisjoint(said) for style, said in texts.items() if style != "printed")
    assert texts["colour"].isdisjoint(texts["handwriting"])


@needs_raqm
def test_the_file_notices_a_pixel() -> None:
    line = bundled("printed").line(0, max_chars=MAX_CHARS)
    image = line.image.copy()
    image[0, 0] ^= 1
    assert digest(Line(image, line.text)) != digest(line) == digests(bundled("printed"))[0]


def bundled(style: str) -> Renderer:
    kinds = {"Sans": "sans", "Serif": "serif", "SansMono": "mono"}
    files = [path for path in sorted(FONTS.glob("DejaVuS*.ttf")) if "Display" not in path.stem]
    paths = {path: kinds[path.stem.split("-")[0].removeprefix("DejaVu")] for path in files}
    faces = tuple(Face(str(p), Family(p.stem, "", kind), 1.0, drawn_characters(p)) for p, kind in paths.items())
    weights = tuple(float(i + 1) for i in range(len(faces)))
    return Renderer("train", 7, faces, weights, SMALL_CORPUS, style)  # type: ignore[arg-type]  # plain str


def digests(renderer: Renderer) -> list[str]:
    return [digest(renderer.line(index, max_chars=MAX_CHARS)) for index in range(COUNT)]


def digest(line: Line) -> str:
    head = json.dumps([line.text, list(line.image.shape), str(line.image.dtype)])
    return hashlib.sha256(head.encode() + line.image.tobytes()).hexdigest()[:16]


def libraries() -> dict[str, str | None]:
    return {name: features.version(name) for name in ("pil", "freetype2", "raqm", "harfbuzz")}


def in_style(printed: Renderer, style: str) -> Renderer:
    """`Renderer.create` of another style, with the texts that were read for this one."""
    faces = find_faces("train", style=style)  # type: ignore[arg-type]  # plain str
    weights = tuple(accumulate(face.weight for face in faces))
    return replace(printed, faces=faces, cumulative_weights=weights, style=style)  # type: ignore[arg-type]


def fingerprint(printed: Renderer) -> dict[str, str]:
    """Of what is installed: the printed faces, the others, and the texts."""
    found = Synthetic(printed, MAX_CHARS).fingerprint()
    others = replace(in_style(printed, "scene"), corpus=SMALL_CORPUS)
    return {"faces": found["faces"], "text": found["text"], "other faces": Synthetic(others, 1).fingerprint()["faces"]}


def main() -> None:
    printed = Renderer.create(seed=3)
    found = {
        "drawn with": libraries(),
        "bundled": {style: digests(bundled(style)) for style in STYLES},
        "installed with": fingerprint(printed),
        "installed": {style: digests(in_style(printed, style)) for style in STYLES},
    }
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
