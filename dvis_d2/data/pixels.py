"""Pixel values of every type to 8 bits.

Values of more than 8 bits have no common white: a 12-bit camera writes 0 to 4095 into 16 bits, where a microscope's
image may end at 300. They are stretched, each image by itself, from its 0.1 to its 99.9 percentile: dead and hot
pixels do not count, and an object of a thousandth of the image does. INPUT.NORMALIZE says of which images:

- "auto": those of more than 8 bits; 8-bit pixels stay, whatever type holds them (0..255, k / 255 or 257 k)
- "percentile": all
- "none": none; 16 bits are divided by 257, floats of 0..1 multiplied by 255, others but 8-bit pixels are refused
"""

from typing import NamedTuple

import numpy as np

from .image_files import ImageError

PERCENTILES = (0.1, 99.9)
NOISE_RANGE = 16  # standard deviations of the noise that 0..255 hold at least: an empty image is not blown up
SAMPLE = 2**20  # pixels that the percentiles are taken of, in whole rows


class Conversion(NamedTuple):
    """`low` becomes 0, `high` 255; linear between, clipped outside."""

    channels: int | slice  # those of (h, w, 3 or 4) that hold the picture
    low: float
    high: float

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (h, w) or (h, w, 3) of (h, w) or (h, w, 3 or 4). ImageError where they are NaN or infinite."""
        values = pixels[..., self.channels] if pixels.ndim == 3 else pixels
        if values.dtype == np.uint8 and (self.low, self.high) == (0, 255):
            return values
        _check_finite(values)
        few = values.dtype in (np.uint8, np.uint16)  # to be looked up
        levels = (np.arange(65536) if few else values).astype(float)
        scaled = np.rint(np.clip((levels - self.low) / (self.high - self.low) * 255, 0, 255)).astype(np.uint8)
        return scaled[values] if few else scaled


def fit_conversion(sample: np.ndarray, normalize: str) -> Conversion:
    """The conversion of an image, by a sample of its rows, (h, w) or (h, w, 3 or 4) of any real type, and
    INPUT.NORMALIZE. ImageError where the values have no sure meaning."""
    if sample.dtype.kind not in "buif":
        raise ImageError(f"has {sample.dtype} values, which are no pixels: save what is to be seen as TIFF or PNG")
    channels: int | slice = slice(3)
    if sample.ndim == 3 and sample.shape[2] == 4 and (sample[..., :3] == sample[0, 0, :3]).all():
        channels = 3 if (sample[..., 3] != sample[0, 0, 3]).any() else channels  # one color, drawn by the alpha channel
    values = sample[..., channels] if sample.ndim == 3 else sample
    _check_finite(values)
    plain = _range_of_8_bits(values)
    if plain and (normalize != "percentile" or values.dtype == bool):
        return Conversion(channels, *plain)
    if normalize != "none":
        return Conversion(channels, *_stretched(values.astype(np.float64)))
    if values.dtype == np.uint16:
        return Conversion(channels, 0, 65535)
    least, most = values.min(), values.max()
    if values.dtype.kind != "f" or least < 0 or most > 1:
        advice = "set INPUT.NORMALIZE to auto, or save the image with 8 or 16 bits"
        raise ImageError(f"has {values.dtype} values from {least} to {most}, which is no known range: {advice}")
    return Conversion(channels, 0, 1)


def _range_of_8_bits(values: np.ndarray) -> tuple[float, float] | None:
    """(black, white) of pixels of 8 bits, whatever type holds them (0..255, k / 255 or 257 k); None of others."""
    if values.dtype in (bool, np.uint8):
        return 0, 1 if values.dtype == bool else 255
    unit = 257.0 if values.dtype == np.uint16 else 1.0
    if values.dtype.kind == "f" and values.max() <= 1:
        unit = 1 / 255
    levels = values / unit
    if levels.min() < 0 or not 63.9 < levels.max() < 255.1:  # lower: too dark to be meant
        return None
    return (0, 255 * unit) if np.abs(levels - np.rint(levels)).max() < 0.01 else None


def _stretched(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, PERCENTILES).tolist()
    if low == high:  # no noise, hardly an object
        low, high = float(values.min()), float(values.max())
    steps, spread = np.abs(np.diff(values, axis=1)), high - low
    noise = np.median(steps).item() / 0.954 if steps.size else 0  # of normal a and b, |a - b|'s median is 0.954 sigma
    high = low + min(max(spread, NOISE_RANGE * noise), 3 * spread)  # 3: texture is no noise, and must not get black
    return low, high if high > low else np.inf  # one value: black


def _check_finite(values: np.ndarray) -> None:
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and np.ptp(values) < np.inf):
        raise ImageError("has pixels that are NaN or infinite: replace them, say by 0 (np.nan_to_num)")
