"""The code in README.md and docs/from-transformers.md runs, and both columns of the latter give the same results.

The published names stand for small checkpoints with random weights, in a hub cache made for the test.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from transformers import (
    TrOCRConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessorPil,
)

from trocr_jax.tokenizer import character_tokenizer

ROOT = Path(__file__).resolve().parent.parent
ALPHABET = " abcdefghijklmnopqrstuvwxyz"
TEXT = {
    "transformers": "processor.batch_decode(model.generate(pixel_values), skip_special_tokens=True)[0]",
    "trocr_jax": "recognizer([image])[0].text",
}
# Section: the variable that both columns leave behind, or an expression for each
COMPARED: dict[str, str | dict[str, str]] = {
    "Read an image": "generated_text",
    "Processor, generate, batch_decode one by one": "texts",
    "Keep using TrOCRProcessor": "generated_text",
    "Logits of the first token": "logits",
    "Loss with labels": "loss",
    "A fine-tuned model in a local folder": TEXT,
    "A name on the hub, at a revision": TEXT,
}
RUN = """
import json, sys, types
import numpy, requests
requests.get = lambda *_, **__: types.SimpleNamespace(raw=open("line.png", "rb"))
names, results = {}, []
for code, expression in json.load(open(sys.argv[1])):
    exec(code, names)
    value = eval(expression, names)
    value = value.detach().numpy() if hasattr(value, "detach") else value
    results.append(value if isinstance(value, str | list) else numpy.asarray(value).tolist())
json.dump(results, open(sys.argv[2], "w"))
"""


def blocks(text: str) -> list[tuple[str, str, str]]:
    """(section, side, code) of every Python block; the side is the label in front of the block, trocr_jax if none."""
    found = []
    for section in re.split(r"^## ", text, flags=re.M)[1:]:
        title = section.split("\n")[0]
        for before, code in re.findall(r"(.*?)^```python\n(.*?)^```", section, flags=re.M | re.S):
            label = re.search(r"^(transformers|trocr_jax)\b[^\n]*:\n+\Z", before, flags=re.M)
            found.append((title, label[1] if label else "trocr_jax", code))
    return found


def write_checkpoint(folder: Path, seed: int) -> None:
    """A random model that reads something else in every image, as `save_pretrained` writes it."""
    folder.mkdir(parents=True)
    tokenizer = character_tokenizer(ALPHABET)
    torch.manual_seed(seed)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "initializer_range": 0.3}
    encoder = ViTConfig(hidden_size=32, image_size=32, patch_size=8, qkv_bias=False, **sizes)
    decoder = TrOCRConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        max_position_embeddings=160,
        init_std=0.3,
        dropout=0.0,
        tie_word_embeddings=False,  # a tied random model repeats one token
        cross_attention_hidden_size=32,
        decoder_start_token_id=2,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 1, 2
    config.tie_word_embeddings = False
    model = VisionEncoderDecoderModel(config)
    model.generation_config.update(max_length=129, decoder_start_token_id=2, pad_token_id=1, eos_token_id=2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mean = [0.5, 0.5, 0.5]
    ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=mean, image_std=mean).save_pretrained(folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with an image, a fine-tuned model and a hub cache of one model with two revisions."""
    place = tmp_path_factory.mktemp("docs")
    hub = place / "huggingface" / "hub" / "models--microsoft--trocr-base-handwritten"
    for seed, reference in enumerate(["main", "refs/pr/3"]):
        commit = f"{seed:040x}"
        (hub / "refs" / reference).parent.mkdir(parents=True, exist_ok=True)
        (hub / "refs" / reference).write_text(commit)
        write_checkpoint(hub / "snapshots" / commit, seed)
    write_checkpoint(place / "my-trocr", 2)
    image = Image.new("RGB", (200, 40), "white")
    ImageDraw.Draw(image).text((5, 5), "hello world", fill="black", font_size=24)
    image.save(place / "line.png")
    return place


def run(place: Path, side: str, page: list[tuple[str, str, str]]) -> dict[str, Any]:
    """What the code of one side leaves behind in each section."""
    titles = [title for title, where, _ in page if where == side]
    jobs = []
    for title, where, code in page:
        if where == side:
            compared = COMPARED[title]
            jobs.append((code, compared if isinstance(compared, str) else compared[side]))
    todo, done = place / f"{side}.todo.json", place / f"{side}.done.json"
    todo.write_text(json.dumps(jobs))
    environment = {**os.environ, "HF_HOME": str(place / "huggingface"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RUN, str(todo), str(done)]
    finished = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, f"{side}:\n{finished.stderr[-3000:]}"
    return dict(zip(titles, json.loads(done.read_text()), strict=True))


def test_both_columns_agree(place: Path):
    page = blocks((ROOT / "docs/from-transformers.md").read_text(encoding="utf-8"))
    assert {title for title, _, _ in page} == set(COMPARED)
    theirs, ours = run(place, "transformers", page), run(place, "trocr_jax", page)
    assert set(theirs) == set(COMPARED) - {"Keep using TrOCRProcessor"}
    assert set(ours) == set(COMPARED)
    for title in theirs:
        if np.asarray(theirs[title]).dtype.kind == "U":  # texts
            assert ours[title] == theirs[title], title
        else:
            np.testing.assert_allclose(ours[title], theirs[title], atol=1e-4, err_msg=title)
    assert ours["Keep using TrOCRProcessor"] == ours["Read an image"]
    read = [ours[title] for title in ("Read an image", "A fine-tuned model in a local folder")]
    read.append(ours["A name on the hub, at a revision"])
    assert len(set(read)) == 3, "three checkpoints, three texts"


def test_readme_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(ROOT)
    ((_, _, code),) = blocks((ROOT / "README.md").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert names["memory"].ndim == 3
    assert names["out"].token_ids.shape == (1, 1, 40)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "benchmarks/README.md",
        "docs/architecture.md",
        "docs/decoding.md",
        "docs/jobs.md",
        "docs/evaluation.md",
    ],
)
def test_links_lead_somewhere(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert "://" in target or ((ROOT / page).parent / target).exists(), f"{page}: {target}"
