"""Cross-attention beside transformers', and the boxes made of it."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

import trocr_jax
from scripts.word_boxes import overlaps
from tests.images import held_out
from tests.small_models import FAMILIES, save_transformers, transformers_model
from tests.tiny import HEIGHT, WIDTH, tiny_config, tiny_model
from trocr_jax import recognizer_attention
from trocr_jax.confidence import token_spans
from trocr_jax.cross_attention import cross_attention
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import DecodeError, ImageError
from trocr_jax.image import ImageProcessor
from trocr_jax.recognizer import Recognizer
from trocr_jax.word_boxes import CrossAttention, character_boxes, ink_columns, word_boxes


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_equal_transformers(family, tmp_path):
    config = FAMILIES[family]
    model = trocr_jax.checkpoint.load(save_transformers(family, tmp_path))
    rng = np.random.default_rng(0)
    height, width = config.encoder.image_size
    pixels = rng.uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
    tokens = rng.integers(3, config.decoder.vocab_size, (2, 60)).astype(np.int32)
    tokens[:, 0] = config.decoder_start_token_id
    theirs = transformers_model(family)
    theirs.set_attn_implementation("eager")  # the fast ones return no weights
    with torch.no_grad():
        expected = theirs(
            pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
            decoder_input_ids=torch.from_numpy(tokens.astype(np.int64)),
            output_attentions=True,
        ).cross_attentions
    found = jax.jit(lambda m, ids, x: cross_attention(m.decoder, ids, m.encode(x)))(model, tokens, pixels)
    assert len(found) == len(expected) == config.decoder.num_layers
    for ours, other in zip(found, expected, strict=True):
        assert ours.shape == tuple(other.shape)
        np.testing.assert_allclose(np.asarray(ours), other.numpy(), rtol=0, atol=1e-5)
        assert np.asarray(ours).std() > 1e-3  # not all alike


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.from_pretrained("tiny-printed")


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


LINES = [f"samples/line_{i}.png" for i in (1, 2, 3, 4, 5)]


def test_a_recognition_has_the_attention_of_its_own_tokens(recognizer):
    """In batches of mixed lengths, with images between them that cannot be read."""
    images = [LINES[0], ImageError("gone"), LINES[1], "no such file.png", *LINES[2:]]
    decode = DecodeConfig(max_new_tokens=64)
    outcomes = list(recognizer.read(images, decode, 2, attention=True))
    assert [isinstance(o, ImageError) for o in outcomes] == [False, True, False, True, False, False, False]
    encode = jax.jit(recognizer.model.encode)
    attend = jax.jit(partial(cross_attention, recognizer.model.decoder))
    for path, result in zip(LINES, [o for o in outcomes if not isinstance(o, ImageError)], strict=True):
        size, looked = size_of(path), result.attention
        assert (looked.width, looked.height) == size
        assert looked.weights.shape == (2, 3, len(result.token_ids), 97)
        np.testing.assert_allclose(looked.weights.sum(-1), 1, atol=1e-5)
        pixels = recognizer.image_processor.normalize(recognizer.image_processor.pixels(path)[None])
        length = len(result.token_ids)
        ids = np.zeros((1, 64), np.int32)  # what stands behind the tokens changes nothing
        ids[0, :length] = recognizer.model.config.decoder_start_token_id, *result.token_ids[:-1]
        alone = np.stack([np.asarray(w[0]) for w in attend(jnp.asarray(ids), encode(pixels))])
        np.testing.assert_allclose(looked.weights, alone[:, :, :length], atol=1e-5)
        assert looked.maps().shape == (len(result.token_ids), 1, 96)
        assert [box.text for box in result.word_boxes] == result.text.split()
        assert "".join(box.text for box in result.character_boxes) == result.text
        for boxes in (result.word_boxes, result.character_boxes):
            lefts, rights = [b.left for b in boxes], [b.right for b in boxes]
            assert lefts == sorted(lefts)
            assert all(0 <= a <= b <= size[0] for a, b in zip(lefts, rights, strict=True))
            assert all(box.top == 0 and box.bottom == size[1] for box in boxes)


def test_nothing_changes_without_the_attention(recognizer):
    plain, attended = recognizer(LINES[:2]), recognizer(LINES[:2], attention=True)
    assert plain == attended
    assert plain[0].attention is None
    with pytest.raises(DecodeError, match="attention=True"):
        _ = plain[0].word_boxes


def test_a_batch_is_looked_at_in_parts(recognizer, monkeypatch):
    whole = recognizer(LINES, attention=True)
    monkeypatch.setattr(recognizer_attention, "MOST_BYTES", 400_000)  # of two images
    parts = recognizer(LINES, attention=True)
    assert parts == whole
    for one, other in zip(parts, whole, strict=True):
        np.testing.assert_allclose(one.attention.weights, other.attention.weights, atol=1e-5)
        np.testing.assert_array_equal(one.attention.ink, other.attention.ink)
        assert (one.attention.width, one.attention.span) == (other.attention.width, other.attention.span)


def test_a_text_may_have_as_many_tokens_as_the_model_has_positions():
    config = tiny_config()
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, max_position_embeddings=12))
    pixels, processor = np.zeros((HEIGHT, WIDTH, 3), np.uint8), ImageProcessor(height=HEIGHT, width=WIDTH)
    (found,) = recognizer_attention.attentions(
        tiny_model(config=config), [pixels], [[4] * 12], [(80, 20)], dtype=jnp.float32, image_processor=processor
    )
    assert found.weights.shape == (1, 2, 12, config.encoder.memory_length)


@pytest.mark.parametrize(
    "options",
    [
        {"height": 40, "width": 480, "keep_aspect_ratio": True},
        {"height": 40, "width": 120, "keep_aspect_ratio": True},
        {"height": 64, "width": 96},
        {"height": 64, "width": 96, "crop_size": (48, 72)},
        {"height": 64, "width": 96, "crop_size": (72, 120)},
        {"do_resize": False, "crop_size": (48, 200)},
    ],
)
def test_columns_of_pixels_are_found_again_in_the_image(options):
    """Of an image 300 wide with a red bar from 100 to 160, whatever becomes of its size."""
    image, processor = Image.new("RGB", (300, 60), "white"), ImageProcessor(**options)
    image.paste("red", (100, 0, 160, 60))
    pixels = processor.pixels(image).astype(np.int32)
    columns = pixels.shape[1]
    edges = np.linspace(*recognizer_attention._span(300, 60, columns, processor), columns + 1)
    red = np.flatnonzero(pixels[20, :, 0] - pixels[20, :, 1] > 128)
    np.testing.assert_allclose([edges[red[0]], edges[red[-1] + 1]], [100, 160], atol=300 / processor.width)


@pytest.mark.parametrize("attention", [False, True])
def test_an_image_of_another_size_is_named(recognizer, attention):
    other = dataclasses.replace(recognizer.image_processor, do_resize=False, keep_aspect_ratio=False)
    strict = Recognizer(recognizer.model, recognizer.tokenizer, other)
    (error,) = strict.read(LINES[0], attention=attention)
    assert str(error).startswith(f"{LINES[0]}: is ")


def test_pixels_have_boxes_too(recognizer):
    processor = recognizer.image_processor
    pixels = np.asarray(processor.normalize(processor.pixels(LINES[0])[None]))
    (result,) = recognizer(pixels, attention=True)
    assert result.attention.width == 960
    (image,) = recognizer(LINES[0], attention=True)
    scale = size_of(LINES[0])[1] / 40
    for ours, other in zip(result.word_boxes, image.word_boxes, strict=True):
        assert abs(ours.left * scale - other.left) < 3
        assert abs(ours.right * scale - other.right) < 3


def looking_at(
    columns: list[float], *, grid: tuple[int, int] = (2, 20), ink: np.ndarray | None = None
) -> CrossAttention:
    """Two layers of two heads over a special token and a grid: one head looks at these columns, the other anywhere."""
    rng, (rows, width) = np.random.default_rng(0), grid
    weights = np.zeros((2, 2, len(columns), 1 + rows * width), np.float32)
    for t, column in enumerate(columns):
        near = np.exp(-((np.arange(width) + 0.5 - column) ** 2))
        weights[:, 0, t, 1:] = np.tile(near / near.sum() / rows, rows)
        weights[:, 1, t, 1 + rng.integers(rows * width)] = 1
    ink = np.ones(200, np.float32) if ink is None else ink
    return CrossAttention(weights, 1, grid, ink, width=400, height=50, span=(0.0, 400.0))


def test_places_are_those_of_the_heads_that_read_along_the_line():
    np.testing.assert_allclose(looking_at([2.5, 6, 9, 14]).places(), [50, 120, 180, 280], atol=1)
    assert looking_at([5, 3, 8]).places().tolist() == sorted(looking_at([5, 3, 8]).places())


def test_boxes_meet_half_way_between_tokens_and_snap_to_gaps_in_the_ink():
    text, tokens = "ab c", token_spans("ab c", [b"a", b"b", b" ", b"c", None])
    assert tokens == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 4)]
    attention = looking_at([4, 8, 12, 16, 19])
    found = [(round(b.left), round(b.right)) for b in character_boxes(text, tokens, attention)]
    assert found == [(0, 100), (100, 200), (200, 280), (280, 400)]  # ink up to both edges of the image
    ink = np.ones(200, np.float32)
    ink[95:140] = ink[:20] = ink[185:] = 0  # columns are two pixels wide
    words = word_boxes(text, tokens, looking_at([4, 8, 12, 16, 19], ink=ink))
    assert [(b.text, b.left, b.right) for b in words] == [("ab", 40, 190), ("c", 280, 370)]
    assert [b.left for b in character_boxes(text, tokens, looking_at([4, 8, 12, 16, 19], ink=ink))] == pytest.approx(
        [40, 115, 190, 280]
    )


def test_a_token_of_several_characters_is_divided_evenly_and_nothing_is_boxed_where_nothing_is_read():
    found = character_boxes("abcd", [(0, 4), (4, 4)], looking_at([10, 18]))
    assert [round(b.right - b.left) for b in found] == [100] * 4
    assert character_boxes("", [(0, 0)], looking_at([10])) == word_boxes("", [(0, 0)], looking_at([10])) == []
    assert token_spans("é b", [b"\xc3", b"\xa9 ", b"b"]) == [(0, 1), (1, 2), (2, 3)]


def test_ink_is_dark_on_light_or_light_on_dark():
    pixels = np.full((20, 30, 3), 240, np.uint8)
    pixels[5:15, 10:13] = 20
    for image in (pixels, 255 - pixels):
        ink = ink_columns(image)
        assert set(np.flatnonzero(ink > 0.5)) == {10, 11, 12}
    assert ink_columns(np.full((20, 30, 3), 99, np.uint8)).max() == 0


def test_boxes_of_rendered_words_are_where_the_renderer_put_them(recognizer):
    found = overlaps(recognizer, held_out(5), 16)
    assert len(found.words) > 50
    assert np.mean(found.words) >= 0.7
    assert np.mean(found.words_by_attention) >= 0.7


ABC = "ab c", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 4)]
PLACES = [4.0, 8.0, 12.0, 16.0, 19.0]


def ink_with(*blanks: tuple[int, int], value: float = 0.0) -> np.ndarray:
    ink = np.ones(200, np.float32)
    for start, stop in blanks:
        ink[start:stop] = value
    return ink


def test_heads_that_hardly_go_back_read_along_the_line():
    weights = np.zeros((1, 4, 3, 100), np.float32)
    reading, others = [(10, 50, 89), (20, 90, 89)], [(90, 10, 50), (70, 70, 70)]  # one goes back for 1 of 71 columns
    for head, columns in enumerate(reading + others):
        weights[0, head, range(3), columns] = 1
    attention = CrossAttention(weights, 0, (1, 100), np.ones(100, np.float32), 100, 10, (0.0, 100.0))
    np.testing.assert_allclose(attention.places(), [15.5, 70.5, 89.5])


def test_a_space_in_front_is_boxed_from_left_to_right():
    boxes = character_boxes(" ab", [(0, 1), (1, 2), (2, 3), (3, 3)], looking_at([4, 8, 12, 19]))
    assert all(box.left <= box.right for box in boxes)


def test_tokens_that_look_at_one_place_share_the_word():
    boxes = character_boxes("ab", [(0, 1), (1, 2), (2, 2)], looking_at([10, 10, 10]))
    middle = (boxes[0].left + boxes[1].right) / 2
    assert [boxes[0].right, boxes[1].left] == pytest.approx([middle, middle])


def test_words_meet_in_the_widest_gap():
    words = word_boxes(*ABC, looking_at(PLACES, ink=ink_with((100, 105), (110, 130))))
    assert (words[0].right, words[1].left) == (220, 260)


def test_paper_at_the_edge_of_an_image_may_be_narrow():
    first, last = word_boxes(*ABC, looking_at(PLACES, ink=ink_with((0, 3), (95, 140), (197, 200))))
    assert (first.left, last.right) == (6, 394)


def test_a_line_begins_near_its_first_character():
    attention = looking_at([15, 17, 19], ink=ink_with((0, 10)))  # something else stands to the left of it
    (word,) = word_boxes("ab", [(0, 1), (1, 2), (2, 2)], attention)
    assert word.left == pytest.approx(280, abs=1)


def test_ink_is_compared_with_the_usual_of_the_image():
    attention = looking_at(PLACES, ink=ink_with((95, 140), value=0.1))
    expected = word_boxes(*ABC, attention)
    assert (expected[0].right, expected[1].left) == (190, 280)
    ink = np.zeros(2000, np.float32)
    ink[:200] = attention.ink  # and padded: nothing is beyond the image
    padded = dataclasses.replace(looking_at(PLACES, grid=(2, 200), ink=ink), span=(0.0, 4000.0))
    assert word_boxes(*ABC, padded) == expected
    faint = ink_with((0, 200), value=0.3)
    faint[95:140], faint[50] = 0.1, 1.0  # letters of thin strokes, beside a bar
    words = word_boxes(*ABC, looking_at(PLACES, ink=faint))
    assert words[0].right != 190
    assert words[1].left != 280
