"""Pixels, normalisation and settings against the PIL image processors of transformers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.images import noise, raises
from trocr_jax.errors import CheckpointError, ConfigError, ImageError
from trocr_jax.image import ImageProcessor, as_pixels

# --- the pixels of transformers


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 300), (300, 1), (2, 3), (37, 211), (384, 384), (384, 100), (64, 1800), (700, 900)]
)
def test_pixels_and_normalisation_equal_transformers_bit_for_bit(size, resample):
    image = Image.fromarray(noise(*size, 3, seed=size[1]))
    ours = ImageProcessor(height=384, width=384, resample=resample)
    theirs = ViTImageProcessorPil(size={"height": 384, "width": 384}, resample=resample)
    unscaled = theirs(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    pixels = ours.pixels(image)
    assert pixels.dtype == unscaled.dtype == np.uint8
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), unscaled)
    expected = theirs(image)["pixel_values"][0]
    normalised = np.asarray(jax.jit(ours.normalize)(pixels[None]))[0]
    assert normalised.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(normalised.transpose(2, 0, 1), expected)


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("target", [(32, 512), (7, 3)])
def test_every_filter_and_a_rectangular_target_equal_transformers(resample, target):
    image = Image.fromarray(noise(41, 333, 3))
    size = {"height": target[0], "width": target[1]}
    config = {"image_processor_type": "ViTImageProcessor", "size": size, "resample": resample}
    theirs = ViTImageProcessorPil.from_dict(config)
    expected = theirs(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    np.testing.assert_array_equal(ImageProcessor.from_dict(config).pixels(image).transpose(2, 0, 1), expected)
    assert ImageProcessor.from_dict(theirs.to_dict()) == ImageProcessor.from_dict(config)  # a member of PIL.Resampling


@pytest.mark.parametrize("crop", [(224, 224), (225, 100), (256, 256), (301, 257), (300, 91), (91, 300)])
def test_the_center_crop_of_deit_equals_transformers(crop):
    config = {"image_processor_type": "DeiTImageProcessor", "crop_size": {"height": crop[0], "width": crop[1]}}
    image = Image.fromarray(noise(50, 200, 3))
    ours, theirs = ImageProcessor.from_dict(config), DeiTImageProcessorPil.from_dict(config)
    expected = theirs(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    pixels = ours.pixels(image)
    assert ours.size == crop
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), expected)


# --- normalisation


NORMALISATIONS = [
    {},
    {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)},
    {"rescale_factor": 1 / 127.5, "image_mean": (1.0, 1.0, 1.0), "image_std": (1.0, 1.0, 1.0)},
    {"do_normalize": False},
    {"do_rescale": False, "image_mean": (127.5, 127.0, 3.3), "image_std": (127.5, 60.0, 7.0)},
]


@pytest.mark.parametrize("options", NORMALISATIONS)
@pytest.mark.parametrize("compiled", [True, False])
def test_normalize_equals_transformers_on_every_value_of_every_channel(options, compiled):
    pixels = np.stack([np.roll(np.arange(256, dtype=np.uint8), shift) for shift in (0, 1, 77)], -1).reshape(16, 16, 3)
    ours = ImageProcessor(height=16, width=16, **options)
    config = {key: list(x) if isinstance(x, tuple) else x for key, x in options.items()}
    theirs = ViTImageProcessorPil.from_dict({"size": {"height": 16, "width": 16}, **config})
    expected = theirs(Image.fromarray(pixels))["pixel_values"][0].transpose(1, 2, 0)
    normalize = jax.jit(ImageProcessor.normalize, static_argnums=0) if compiled else ImageProcessor.normalize
    normalised = np.asarray(normalize(ours, pixels[None]))[0]
    assert normalised.dtype == np.float32
    np.testing.assert_array_equal(normalised, expected)


@pytest.mark.parametrize("options", NORMALISATIONS)
def test_what_a_tpu_computes_is_what_others_look_up(options):
    processor, pixels = ImageProcessor(**options), np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 16, 16, 3)
    exact = np.asarray(processor._looked_up(pixels))
    np.testing.assert_allclose(processor._computed(pixels), exact, rtol=0, atol=1e-6 * np.abs(exact).max())


def test_normalize_stays_exact_inside_a_larger_compiled_function():
    processor, pixels = ImageProcessor(), noise(2, 8, 64, 3)
    fused = jax.jit(lambda x: processor.normalize(x) * jnp.float32(3) + jnp.float32(1))(pixels)
    exact = np.asarray(processor.normalize(pixels))
    contracted = (exact.astype(np.float64) * 3 + 1).astype(np.float32)  # a fused multiply-add rounds once
    assert ((np.asarray(fused) == exact * np.float32(3) + np.float32(1)) | (np.asarray(fused) == contracted)).all()


def test_a_processor_is_a_static_argument_that_compiles_once():
    calls = []

    def normalize(processor, pixels):
        calls.append(processor)
        return processor.normalize(pixels)

    compiled = jax.jit(normalize, static_argnums=0)
    for _ in range(2):
        compiled(ImageProcessor.from_dict({"size": 8, "image_mean": [0.1, 0.2, 0.3]}), noise(1, 8, 8, 3))
    assert len(calls) == 1


@pytest.mark.parametrize("pixels", [np.zeros((1, 4, 4, 3), np.float32), noise(1, 3, 4, 4), np.uint8(3)])
def test_normalize_refuses_what_is_not_uint8_with_channels_last(pixels):
    with pytest.raises(ImageError, match="uint8 pixels"):
        ImageProcessor().normalize(pixels)


# --- keeping the aspect ratio


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 400), st.sampled_from([2, 3]))
def test_kept_aspect_ratio_is_a_plain_resize_on_white(height, width, resample):
    image = Image.fromarray(noise(height, width, 3))
    pixels = ImageProcessor(height=40, width=160, resample=resample, keep_aspect_ratio=True).pixels(image)
    scaled = min(max(int(np.rint(width * 40 / height)), 1), 160)
    expected = np.asarray(image.resize((scaled, 40), Image.Resampling(resample)))
    np.testing.assert_array_equal(pixels[:, :scaled], expected)
    assert pixels.shape == (40, 160, 3)
    assert (pixels[:, scaled:] == 255).all()


# --- one channel


@pytest.mark.parametrize("options", [{}, {"keep_aspect_ratio": True}, {"crop_size": (20, 90)}, {"do_resize": False}])
@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("mode", ["1", "L"])
def test_one_channel_is_resized_as_three(mode, resample, options):
    height, width = (37, 211) if not options.get("do_resize", True) else (32, 100)
    processor = ImageProcessor(height=height, width=width, resample=resample, **options)
    image = Image.fromarray(noise(37, 211)).convert(mode)
    np.testing.assert_array_equal(processor.pixels(image), processor.pixels(image.convert("RGB")))


# --- arrays that were normalised elsewhere


def test_as_pixels_takes_what_transformers_gives():
    image = Image.fromarray(noise(20, 30, 3))
    theirs = ViTImageProcessorPil(size={"height": 24, "width": 32})([image, image], return_tensors="np")["pixel_values"]
    ours = ImageProcessor(height=24, width=32)
    expected = np.asarray(ours.normalize(np.stack([ours.pixels(image)] * 2)))
    for array in (theirs, list(theirs), jnp.asarray(theirs), expected, jnp.asarray(expected)):
        pixels = as_pixels(array)
        assert pixels.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(pixels), expected)
    assert as_pixels(theirs.astype(np.float64)).dtype == np.float32
    assert as_pixels(jnp.asarray(theirs, jnp.bfloat16)).dtype == np.float32
    np.testing.assert_array_equal(np.asarray(jax.jit(as_pixels)(theirs)), expected)


def test_as_pixels_takes_a_torch_tensor():
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(0).normal(size=(2, 3, 8, 16)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(as_pixels(torch.from_numpy(array))), array.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    "shape", [(2, 3, 8, 3), (1, 3, 3, 3), (3, 8, 16), (8, 16, 3), (2, 1, 8, 16), (2, 8, 16, 4), ()]
)
def test_as_pixels_refuses_other_shapes_and_says_which_it_takes(shape):
    with pytest.raises(ImageError, match=r"\[B, 3, H, W\] or \[B, H, W, 3\]"):
        as_pixels(np.zeros(shape, np.float32))


def test_as_pixels_refuses_integers():
    with pytest.raises(ImageError, match="uint8"):
        as_pixels(np.zeros((2, 3, 8, 16), np.uint8))


# --- preprocessor_config.json


PUBLISHED = {  # as on disk for the base and large checkpoints
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ViTFeatureExtractor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": 384,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ImageProcessor(height=384, width=384)),
        ({"size": {"height": 32, "width": 512}}, ImageProcessor(height=32, width=512)),
        ({"size": [32, 512]}, ImageProcessor(height=32, width=512)),
        ({"resample": 3, "do_center_crop": False}, ImageProcessor(height=384, width=384, resample=3)),
        ({"resample": None}, ImageProcessor(height=384, width=384, resample=2)),
        ({"image_processor_type": "ViTImageProcessorFast"}, ImageProcessor(height=384, width=384)),
        ({"image_processor_type": "ViTImageProcessorPil"}, ImageProcessor(height=384, width=384)),
        (
            {"feature_extractor_type": "DeiTFeatureExtractor", "do_center_crop": False, "resample": 3},
            ImageProcessor(height=384, width=384, resample=3),
        ),
        (
            {"feature_extractor_type": "DeiTFeatureExtractor", "crop_size": 380, "resample": None},
            ImageProcessor(height=384, width=384, resample=3, crop_size=(380, 380)),
        ),
        ({"do_pad": False, "do_convert_rgb": None, "_processor_class": "x"}, ImageProcessor(height=384, width=384)),
        (
            {"image_mean": 0.25, "do_normalize": False},
            ImageProcessor(384, 384, do_normalize=False, image_mean=(0.25,) * 3),
        ),
        ({"size": 40, "keep_aspect_ratio": True}, ImageProcessor(height=40, width=40, keep_aspect_ratio=True)),
    ],
)
def test_from_dict(changes, expected):
    assert ImageProcessor.from_dict({**PUBLISHED, **changes}) == expected


KINDS = [ViTImageProcessorPil, DeiTImageProcessorPil, BeitImageProcessorPil]


@pytest.mark.parametrize("kind", KINDS)
def test_missing_fields_take_the_defaults_of_transformers(kind):
    theirs = kind()
    image = Image.fromarray(noise(30, 100, 3))
    ours = ImageProcessor.from_dict({"image_processor_type": kind.__name__.removesuffix("Pil")})
    assert ImageProcessor.from_dict(theirs.to_dict()) == ours
    normalised = np.asarray(ours.normalize(ours.pixels(image)[None]))[0]
    np.testing.assert_array_equal(normalised.transpose(2, 0, 1), theirs(image)["pixel_values"][0])


@pytest.mark.parametrize("step", ["do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_is_null_does_not_run(kind, step):
    values = {"size": {"height": 30, "width": 50}, "crop_size": {"height": 20, "width": 40}, "image_mean": [0.4] * 3}
    theirs = kind.from_dict({**values, step: None})
    image = Image.fromarray(noise(30, 50, 3))
    ours = ImageProcessor.from_dict({**values, step: None, "image_processor_type": kind.__name__})
    normalised = np.asarray(ours.normalize(ours.pixels(image)[None]))[0]
    np.testing.assert_array_equal(normalised.transpose(2, 0, 1), theirs(image)["pixel_values"][0])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"size": {"shortest_edge": 384}}, "shortest_edge"),
        ({"size": {"height": 384}}, "size"),
        ({"size": 0}, "size"),
        ({"size": -3}, "size"),
        ({"size": 10**9}, "size"),
        ({"size": "384"}, "size"),
        ({"size": 384.0}, "size"),
        ({"size": True}, "size"),
        ({"size": 40, "default_to_square": False}, "size of 40 with default_to_square false"),
        ({"size": [1, 2, 3]}, "size"),
        ({"resample": 9}, "resample"),
        ({"resample": "bicubic"}, "resample"),
        ({"resample": True}, "resample"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std"),
        ({"image_std": [0.5, 0.5, "x"]}, "image_std"),
        ({"image_mean": float("nan")}, "image_mean"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"rescale_factor": 10**400}, "rescale_factor"),
        ({"do_resize": "yes"}, "do_resize"),
        ({"do_pad": True}, "do_pad"),
        ({"image_processor_type": "BeitImageProcessor", "do_reduce_labels": True}, "do_reduce_labels"),
        ({"do_thumbnail": True}, "do_thumbnail"),
        ({"image_processor_type": "DonutImageProcessor"}, "DonutImageProcessor"),
        ({"image_processor_type": ["ViT"]}, "ViT"),
        ({"keep_aspect_ratio": True, "do_resize": False}, "keep_aspect_ratio"),
        ({"do_center_crop": True, "crop_size": None}, "crop_size"),
    ],
)
def test_from_dict_names_what_it_refuses(changes, key):
    with pytest.raises(ConfigError, match=key) as caught:
        ImageProcessor.from_dict({**PUBLISHED, **changes}, source="model/preprocessor_config.json")
    assert str(caught.value).startswith("model/preprocessor_config.json: ")


@pytest.mark.parametrize(
    "processor",
    [
        ImageProcessor(height=384, width=384, resample=3),
        ImageProcessor(height=40, width=96, keep_aspect_ratio=True, image_mean=(0.1, 0.2, 0.3)),
        ImageProcessor(height=40, width=96, crop_size=(32, 90), do_normalize=False, rescale_factor=1 / 127.5),
    ],
)
def test_a_saved_processor_is_read_back_and_works_in_transformers(processor, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor.to_dict()))
    assert ImageProcessor.from_folder(tmp_path) == processor
    assert ImageProcessor.from_folder(str(tmp_path)) == processor
    theirs = (DeiTImageProcessorPil if processor.crop_size else ViTImageProcessorPil).from_pretrained(tmp_path)
    if not processor.keep_aspect_ratio:
        image = Image.new("L", (50, 20), 77)  # grey: transformers reads it only with do_convert_rgb
        ImageDraw.Draw(image).text((3, 3), "abc", fill=0)
        normalised = np.asarray(processor.normalize(processor.pixels(image)[None]))[0]
        np.testing.assert_array_equal(normalised.transpose(2, 0, 1), theirs(image)["pixel_values"][0])


def test_folders_written_by_transformers(tmp_path):
    from transformers import TrOCRProcessor

    from trocr_jax.tokenizer import character_tokenizer

    theirs = ViTImageProcessorPil(size={"height": 48, "width": 64}, resample=3)
    theirs.save_pretrained(tmp_path / "plain")
    TrOCRProcessor(theirs, character_tokenizer("ab")).save_pretrained(tmp_path / "nested")
    assert (tmp_path / "nested/processor_config.json").exists()
    for folder in ("plain", "nested"):
        assert ImageProcessor.from_folder(tmp_path / folder) == ImageProcessor(height=48, width=64, resample=3)
    # The nested form wins, as in transformers; a processor_config.json without images does not count.
    (tmp_path / "nested/preprocessor_config.json").write_text('{"size": 9}')
    assert ImageProcessor.from_folder(tmp_path / "nested").height == 48
    (tmp_path / "nested/processor_config.json").write_text('{"processor_class": "TrOCRProcessor"}')
    assert ImageProcessor.from_folder(tmp_path / "nested").height == 9


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        ImageProcessor.from_folder(tmp_path)
    for content in (b"{", b"[1]", b"\xff\xfe", b"[" * 100_000):
        (tmp_path / "preprocessor_config.json").write_bytes(content)
        with pytest.raises(ConfigError, match=r"preprocessor_config\.json"):
            ImageProcessor.from_folder(tmp_path)


def test_without_resizing_the_size_must_fit():
    processor = ImageProcessor(height=20, width=30, do_resize=False)
    values = noise(20, 30, 3)
    np.testing.assert_array_equal(processor.pixels(values), values)
    assert "resize it to 20 x 30" in raises(noise(21, 30, 3), "do_resize is false", processor)


def test_a_very_narrow_image_keeps_a_column():
    processor = ImageProcessor(height=8, width=16, keep_aspect_ratio=True)
    pixels = processor.pixels(Image.new("RGB", (1, 400), "black"))
    assert pixels.shape == (8, 16, 3)
    assert not pixels[:, 0].any()
    assert (pixels[:, 1:] == 255).all()
