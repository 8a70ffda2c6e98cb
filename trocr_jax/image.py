"""Line images: any picture file, PIL image or array, to the uint8 pixels that a checkpoint expects.

Decoding and resizing happen on the host in uint8 and equal the PIL image processors of transformers bit for bit;
rescaling and normalisation happen on the device.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from trocr_jax.errors import CheckpointError, ConfigError, ImageError
from trocr_jax.image_file import MAX_PIXELS, ImageSource, describe, open_picture, open_rgb

if TYPE_CHECKING:
    import jax

MAX_SIDE = 16_384


@dataclass(frozen=True)
class ImageProcessor:
    """Turns images into pixels [H, W, 3] as `preprocessor_config.json` says. Hashable: a static argument for jit.

    Attributes:
        height, width: size of the resized image.
        resample: PIL's number of the resize filter (2 bilinear, 3 bicubic).
        do_resize, do_rescale, do_normalize: which steps run; pixels are (x * rescale_factor - mean) / std.
        crop_size: (height, width) cut out of the middle after the resize, black where it sticks out; None for no crop.
        keep_aspect_ratio: scale to `height`, at most `width` wide, and fill the right with white.
        max_pixels: images whose header announces more pixels are refused before they are decoded.
    """

    height: int = 224
    width: int = 224
    resample: int = 2
    do_resize: bool = True
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    crop_size: tuple[int, int] | None = None
    keep_aspect_ratio: bool = False
    max_pixels: int = MAX_PIXELS

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the pixels that come out."""
        return self.crop_size or (self.height, self.width)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str]) -> ImageProcessor:
        """Read `processor_config.json` (nested, as transformers 5 writes it) or else `preprocessor_config.json`.

        Raises CheckpointError if the folder has neither, ConfigError if one cannot be used.
        """
        nested, plain = Path(folder) / "processor_config.json", Path(folder) / "preprocessor_config.json"
        if nested.is_file() and "image_processor" in (values := _read_json(nested)):
            return cls.from_dict(values["image_processor"], source=str(nested))
        if plain.is_file():
            return cls.from_dict(_read_json(plain), source=str(plain))
        raise CheckpointError(
            f"{folder}: no preprocessor_config.json and no processor_config.json with an 'image_processor'; "
            "copy the one that was published with the model into this folder"
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "preprocessor_config.json") -> ImageProcessor:
        """Read the fields of transformers' ViT, DeiT and BEiT image processors, as its versions 4 and 5 spell them.

        Missing fields take the defaults of the class the file names; a step that is null does not run. Raises
        ConfigError naming `source` and the field.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{source}: the image processor must be a JSON object, not {type(values).__name__}")
        given = {key: value for key, value in values.items() if value is not None}
        given |= {key: False for key in _STEPS if key in values and values[key] is None}
        kind = given.get("image_processor_type", given.get("feature_extractor_type", "ViTImageProcessor"))
        family = str(kind)
        for suffix in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
            family = family.removesuffix(suffix)
        if family not in _DEFAULTS:
            raise ConfigError(f"{source}: image processor {kind!r} is not supported; ViT, DeiT and BEiT processors are")
        for key, value in given.items():
            if key.startswith("do_") and value and key not in _STEPS:
                raise ConfigError(f"{source}: {key} is not supported; remove it or set it to false")
        field = {**_DEFAULTS[family], **given}
        flags = {key: _flag(field, key, source) for key in (*_STEPS[:4], "keep_aspect_ratio")}
        if given.get("default_to_square") is False and isinstance(field["size"], int):
            raise ConfigError(
                f"{source}: a size of {field['size']} with default_to_square false is not supported; give the height "
                'and width that the model was trained with, as in {"height": 384, "width": 384}'
            )
        height, width = _height_width(field["size"], "size", source)
        crop_size = _height_width(field["crop_size"], "crop_size", source) if flags.pop("do_center_crop") else None
        if flags["keep_aspect_ratio"] and (crop_size or not flags["do_resize"]):
            raise ConfigError(f"{source}: keep_aspect_ratio needs do_resize and no do_center_crop")
        resample = field["resample"]
        if isinstance(resample, bool) or not isinstance(resample, int) or resample not in range(6):
            raise ConfigError(f"{source}: resample must be PIL's number of a filter, 0 to 5, not {resample!r}")
        if (rescale_factor := _number(field["rescale_factor"], "rescale_factor", source)) == 0:
            raise ConfigError(f"{source}: rescale_factor must not be zero")
        image_mean, image_std = (_per_channel(field[key], key, source) for key in ("image_mean", "image_std"))
        if 0 in image_std:
            raise ConfigError(f"{source}: image_std must not be zero")
        return cls(
            height=height,
            width=width,
            resample=int(resample),
            rescale_factor=rescale_factor,
            image_mean=image_mean,
            image_std=image_std,
            crop_size=crop_size,
            **flags,
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields of `preprocessor_config.json`, readable by transformers 4 and 5 and by `from_dict`."""
        values: dict[str, Any] = {
            "image_processor_type": "DeiTImageProcessor" if self.crop_size else "ViTImageProcessor",
            "do_convert_rgb": True,
            "do_resize": self.do_resize,
            "size": {"height": self.height, "width": self.width},
            "resample": self.resample,
            "do_rescale": self.do_rescale,
            "rescale_factor": self.rescale_factor,
            "do_normalize": self.do_normalize,
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
        }
        if self.crop_size:
            values |= {"do_center_crop": True, "crop_size": {"height": self.crop_size[0], "width": self.crop_size[1]}}
        if self.keep_aspect_ratio:
            values["keep_aspect_ratio"] = True
        return values

    def open(self, source: ImageSource) -> Image.Image:
        """Decode one image to mode RGB, upright, on white, full size: `image_file.open_rgb` with this pixel cap."""
        return open_rgb(source, max_pixels=self.max_pixels)

    def pixels(self, source: ImageSource) -> np.ndarray:
        """Decode, resize and crop one image: uint8 [H, W, 3], for `normalize`. Takes and raises what `open` does.

        Equal to transformers' PIL processor on the RGB image before it rescales. With `keep_aspect_ratio` the image is
        resized to (height, w) with w = round(image width * height / image height), clipped to 1..width, and stands at
        the left of a white [height, width].
        """
        return self.fit(open_picture(source, max_pixels=self.max_pixels), describe(source))

    def fit(self, image: Image.Image, name: str) -> np.ndarray:
        """Resize and crop a picture of mode RGB, or of mode L for three equal channels, as `pixels` does. name: of the
        picture, for the error."""
        width = self.width
        if self.keep_aspect_ratio:
            width = max(1, min(round(image.width * self.height / image.height), width))
        if self.do_resize or self.keep_aspect_ratio:
            image = image.resize((width, self.height), Image.Resampling(self.resample))
        values = np.asarray(image)  # [H, w, 3] or, of one channel, [H, w]: filters treat channels alike
        height, width = values.shape[:2]
        pixels = np.empty((height, self.width if self.keep_aspect_ratio else width, 3), np.uint8)
        pixels[:, width:] = 255
        if values.ndim == 3:
            pixels[:, :width] = values
        else:
            for channel in range(3):  # in a quarter of the time of all at once
                pixels[:, :width, channel] = values
        if self.crop_size:
            pixels = _center_crop(pixels, *self.crop_size)
        if pixels.shape[:2] != self.size:
            raise ImageError(
                f"{name}: is {pixels.shape[0]} x {pixels.shape[1]} (height x width) and this model's image "
                f"processor does not resize (do_resize is false); resize it to {self.size[0]} x {self.size[1]} first"
            )
        return pixels

    def normalize(self, pixels: jax.Array | np.ndarray) -> jax.Array:
        """Rescale and normalise uint8 [..., 3] to f32 [..., 3]: bit-identical to transformers' PIL processor, on a TPU
        within 1e-6 of the largest value.

        Each of the 256 values of a channel is looked up in a table computed in NumPy: as arithmetic, XLA would be free
        to contract and reorder it, and the subtraction magnifies a last-bit difference near the mean. A TPU computes it
        all the same: to look pixels up would take it a third of the encoder's time (benchmarks/README.md).
        Works inside and outside jit. Raises ImageError unless the array is uint8 with 3 channels last.
        """
        if pixels.dtype != np.uint8 or pixels.ndim == 0 or pixels.shape[-1] != 3:
            raise ImageError(f"normalize takes uint8 pixels [..., 3], not {pixels.dtype} {list(pixels.shape)}")
        import jax  # here, so that a process that only decodes images starts without jax

        return jax.lax.platform_dependent(pixels, tpu=self._computed, default=self._looked_up)

    def _looked_up(self, pixels: jax.Array | np.ndarray) -> jax.Array:
        import jax.numpy as jnp

        channel = jnp.arange(0, 768, 256, dtype=jnp.int32).reshape((1,) * (pixels.ndim - 1) + (3,))
        return jnp.asarray(self._table()).at[jnp.asarray(pixels, jnp.int32) + channel].get(mode="promise_in_bounds")

    def _computed(self, pixels: jax.Array | np.ndarray) -> jax.Array:
        import jax.numpy as jnp

        table = self._table().reshape(3, 256).astype(np.float64)
        slope = (table[:, 255] - table[:, 0]) / 255  # of each channel, whose table is a straight line
        shape = (1,) * (pixels.ndim - 1) + (3,)
        scaled = jnp.asarray(pixels, jnp.float32) * slope.astype(np.float32).reshape(shape)
        return scaled + table[:, 0].astype(np.float32).reshape(shape)

    def _table(self) -> np.ndarray:
        """f32 [3 * 256]: the normalised value of each uint8 value of each channel, with transformers' roundings."""
        values = np.arange(256, dtype=np.float32)
        if self.do_rescale:
            values = (values.astype(np.float64) * self.rescale_factor).astype(np.float32)
        table = np.broadcast_to(values, (3, 256))
        if self.do_normalize:
            mean, std = (np.array(x, np.float32)[:, None] for x in (self.image_mean, self.image_std))
            table = (table - mean) / std
        return np.ascontiguousarray(table).reshape(-1)


def as_pixels(array: Any) -> jax.Array | np.ndarray:
    """Accept normalised floats [B, 3, H, W] (transformers' TrOCRProcessor) or [B, H, W, 3] as f32 [B, H, W, 3].

    Raises ImageError for any other shape, for shapes that could be either, and for dtypes that are not floating.
    """
    import jax
    import jax.numpy as jnp

    pixels = array if isinstance(array, jax.Array) else np.asarray(array)
    accepted = "accepted are normalised floats [B, 3, H, W] or [B, H, W, 3]"
    if not jnp.issubdtype(pixels.dtype, jnp.floating):
        raise ImageError(f"pixels are {pixels.dtype}; {accepted} (pass single images to the Recognizer instead)")
    first, last = pixels.ndim == 4 and pixels.shape[1] == 3, pixels.ndim == 4 and pixels.shape[3] == 3
    if first == last:
        reason = "could have its channels first or last" if first else "is not a batch of RGB images"
        raise ImageError(f"shape {list(pixels.shape)} {reason}; {accepted}")
    return (pixels.transpose(0, 2, 3, 1) if first else pixels).astype(np.float32)


_STEPS = ("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb")
# Class defaults of transformers 5.23: models/{vit,deit,beit}/image_processing_pil_{vit,deit,beit}.py
_COMMON = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "image_mean": 0.5,
    "image_std": 0.5,
    "keep_aspect_ratio": False,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {**_COMMON, "size": 224, "resample": 2, "do_center_crop": False, "crop_size": None},
    "DeiT": {**_COMMON, "size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
    "Beit": {**_COMMON, "size": 224, "resample": 3, "do_center_crop": False, "crop_size": 224},
}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error}); copy the published file again") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a JSON object, not {type(values).__name__}")
    return values


def _flag(field: Mapping[str, Any], key: str, source: str) -> bool:
    if not isinstance(field[key], bool):
        raise ConfigError(f"{source}: {key} must be true or false, not {field[key]!r}")
    return field[key]


def _number(value: Any, key: str, source: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not abs(value) <= sys.float_info.max:  # an int may be too large for a float
        raise ConfigError(f"{source}: {key} must be a finite number, not {value!r}")
    return float(value)


def _per_channel(value: Any, key: str, source: str) -> tuple[float, float, float]:
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3:
        raise ConfigError(f"{source}: {key} must be one number or three, not {value!r}")
    red, green, blue = (_number(x, key, source) for x in values)
    return red, green, blue


def _height_width(value: Any, key: str, source: str) -> tuple[int, int]:
    if isinstance(value, Mapping):
        if set(value) != {"height", "width"}:
            raise ConfigError(
                f"{source}: {key} must give 'height' and 'width'; {sorted(map(str, value))} is not supported"
            )
        value = (value["height"], value["width"])
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or any(type(side) is not int or not 1 <= side <= MAX_SIDE for side in pair):
        raise ConfigError(f"{source}: {key} must be a height and a width from 1 to {MAX_SIDE}, not {value!r}")
    return pair


def _center_crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H, W, 3] to [height, width, 3], zeros outside; as transformers.image_transforms.center_crop rounds."""
    for axis, side in ((0, height), (1, width)):
        before = -(-max(side - pixels.shape[axis], 0) // 2)
        top = (pixels.shape[axis] - side) // 2 + before
        pad = [(0, 0)] * 3
        pad[axis] = (before, max(side - pixels.shape[axis], 0) - before)
        pixels = np.pad(pixels, pad).take(np.arange(max(top, 0), top + side), axis=axis)
    return pixels
