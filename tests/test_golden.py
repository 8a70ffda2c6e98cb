"""The published weights give the published numbers. Runs where weights and image lie in the local hub cache:

hf download microsoft/trocr-base-handwritten
hf download hf-internal-testing/fixtures_ocr --repo-type dataset
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

import trocr_jax

# logits [0, 0, :5] for the start token alone; from transformers' tests (base) and its conversion script (large)
GOLDEN = {
    "microsoft/trocr-base-handwritten": ("iam_picture.jpeg", [-1.4502, -4.6683, -0.5347, -2.9291, 9.1435]),
    "microsoft/trocr-base-printed": ("SROIE-receipt.jpeg", [-5.6832, -5.8361, 1.1500, -6.8975, 6.8576]),
    "microsoft/trocr-large-handwritten": ("iam_picture.jpeg", [-2.6437, -1.3129, -2.2596, -5.3455, 6.3539]),
    "microsoft/trocr-large-printed": ("SROIE-receipt.jpeg", [-6.0162, -7.0959, 4.4155, -5.1063, 7.0468]),
}


def cached(name: str, **options: Any) -> Path:
    """The folder of a repository in the local hub cache; skips the test if it is not there."""
    try:
        return Path(snapshot_download(name, local_files_only=True, **options))
    except LocalEntryNotFoundError:
        pytest.skip(f"{name} is not in the local hub cache")


@pytest.mark.parametrize("name", GOLDEN)
def test_first_logits_of_the_published_weights(name: str) -> None:
    file, expected = GOLDEN[name]
    cached(name)
    image = cached("hf-internal-testing/fixtures_ocr", repo_type="dataset") / file
    recognizer = trocr_jax.Recognizer.from_pretrained(name, dtype=jnp.float32)
    model, processor = recognizer.model, recognizer.image_processor
    start = jnp.full((1, 1), model.config.decoder_start_token_id, jnp.int32)
    logits = model(processor.normalize(processor.pixels(image)[None]), start)
    np.testing.assert_allclose(logits[0, 0, :5], expected, atol=1e-4)
