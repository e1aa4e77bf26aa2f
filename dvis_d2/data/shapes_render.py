"""How the shapes look: signed distances, colours, textures, painting. NumPy only.

Coordinates are pixels, (x, y); the centre of the first pixel is (0, 0). Colours are float RGB in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CLASS_NAMES = ("disc", "square", "triangle", "ring", "star")

MIN_CONTRAST = 0.33  # Euclidean RGB distance between an object's colours and the background's
RIM_WIDTH = 2.5  # px; objects darken towards their outline, so that identical copies that overlap stay separable
FILLS = ("plain", "stripes", "checks", "dots", "blotches")
BACKGROUNDS = ("gradient", "blotches", "stripes", "weave")


@dataclass(frozen=True)
class Texture:
    """A pattern that blends two RGB colours. `period` is in px, `angle` and `phase` in radians."""

    kind: str
    colors: np.ndarray  # float (2, 3)
    period: float
    angle: float
    phase: float


@dataclass(frozen=True)
class Appearance:
    """All that identical copies share. `diameter` (px) is that of the circumscribed circle."""

    class_id: int
    diameter: float
    angle: float
    texture: Texture


@dataclass(frozen=True)
class Bar:
    """A straight strip across the whole picture: the points with |x nx + y ny - offset| < width / 2."""

    normal: tuple[float, float]
    offset: float
    width: float
    texture: Texture

    def signed_distance(self, height: int, width: int) -> np.ndarray:
        """float32 (height, width): px, negative inside."""
        x, y = _grid(slice(0, height), slice(0, width))
        return np.abs(x * self.normal[0] + y * self.normal[1] - self.offset) - self.width / 2


def signed_distance(class_id: int, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Distance in px to the outline of an upright shape around (0, 0), negative inside.

    `radius` is that of the circumscribed circle. Outside, near corners, the value is a lower bound.
    """
    name = CLASS_NAMES[class_id]
    if name == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius * np.sqrt(0.5)
    if name == "triangle":
        side = np.sqrt(0.75)
        return np.maximum(np.maximum(side * x - 0.5 * y, -side * x - 0.5 * y), y) - radius / 2
    r = np.hypot(x, y)
    if name == "disc":
        return r - radius
    if name == "ring":
        return np.abs(r - 0.75 * radius) - 0.25 * radius
    sector = 2 * np.pi / 5  # star: fold the plane onto half a point, then one straight edge is left
    theta = np.abs(np.mod(np.arctan2(y, x) + sector / 2, sector) - sector / 2)
    notch = 0.5 * radius * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    edge = notch - np.array([radius, 0.0])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (r * np.cos(theta) - radius) * normal[0] + r * np.sin(theta) * normal[1]


def object_window(appearance: Appearance, center: tuple[float, float]) -> tuple[slice, slice, np.ndarray]:
    """Rows, columns (both may leave the picture) and the signed distance (px) of an object on that window."""
    radius = appearance.diameter / 2
    reach = int(np.ceil(radius)) + 2
    cx, cy = int(round(center[0])), int(round(center[1]))
    rows, cols = slice(cy - reach, cy + reach + 1), slice(cx - reach, cx + reach + 1)
    x, y = _object_frame(appearance, center, rows, cols)
    return rows, cols, signed_distance(appearance.class_id, x, y, radius)


def sample_background(rng: np.random.Generator, *, texture: bool, side: int) -> Texture:
    """A pair of similar colours and a pattern; a plain or gently graded one unless `texture`."""
    first = rng.uniform(0.1, 0.9, 3)
    strength = rng.uniform(0.08, 0.16) if texture else rng.uniform(0.0, 0.08)
    second = np.clip(first + strength * rng.choice([-1.0, 1.0]) + rng.uniform(-0.05, 0.05, 3), 0, 1)
    kind = str(rng.choice(BACKGROUNDS)) if texture else "gradient"
    period = side * rng.uniform(0.05, 0.2)
    return Texture(kind, np.stack([first, second]), period, rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi))


def sample_appearance(
    rng: np.random.Generator, *, diameters: tuple[float, float], background: Texture, class_ids: Sequence[int]
) -> Appearance:
    """A class out of `class_ids`, a size (uniform in `diameters`, px), a rotation, and colours that differ from the
    background's."""
    diameter = rng.uniform(*diameters)
    texture = Texture(
        str(rng.choice(FILLS)),
        contrasting_colors(rng, background.colors, MIN_CONTRAST),
        diameter * rng.uniform(0.2, 0.4),
        rng.uniform(0, 2 * np.pi),
        rng.uniform(0, 2 * np.pi),
    )
    return Appearance(class_ids[int(rng.integers(len(class_ids)))], diameter, rng.uniform(0, 2 * np.pi), texture)


def sample_bar(rng: np.random.Generator, *, through: tuple[float, float], width: float, background: Texture) -> Bar:
    """A bar of `width` px whose centre line passes through the point (x, y), in a random direction."""
    angle = rng.uniform(0, np.pi)
    normal = (float(np.cos(angle)), float(np.sin(angle)))
    colors = contrasting_colors(rng, background.colors, MIN_CONTRAST / 2)
    texture = Texture(str(rng.choice(("plain", "stripes"))), colors, 3 * width, angle + np.pi / 2, 0.0)
    return Bar(normal, through[0] * normal[0] + through[1] * normal[1], width, texture)


def contrasting_colors(rng: np.random.Generator, avoid: np.ndarray, contrast: float) -> np.ndarray:
    """float (2, 3): two shades of one colour, the farthest of up to 30 draws if none is `contrast` away."""
    best, best_distance = None, -1.0
    for _ in range(30):
        first = rng.uniform(0, 1, 3)
        second = np.clip(first + rng.choice([-1.0, 1.0]) * rng.uniform(0.12, 0.25), 0, 1)
        pair = np.stack([first, second])
        distance = float(np.linalg.norm(pair[:, None] - avoid[None], axis=-1).min())
        if distance > best_distance:
            best, best_distance = pair, distance
        if distance >= contrast:
            break
    return best


def render(
    rng: np.random.Generator,
    *,
    height: int,
    width: int,
    background: Texture,
    objects: list[tuple[Appearance, tuple[float, float]]],
    bars: list[Bar],
    noise: float,
) -> np.ndarray:
    """Paint background, objects in order, bars, and noise (standard deviation, of 1). uint8 (height, width,
    3)."""
    x, y = _grid(slice(0, height), slice(0, width))
    canvas = _fill(background, x, y, extent=max(height, width))
    for appearance, center in objects:
        rows, cols, distance = object_window(appearance, center)
        inside = clip_window(rows, cols, height, width)
        distance = distance[inside.local]
        x, y = _object_frame(appearance, center, inside.rows, inside.cols)
        color = _fill(appearance.texture, x, y, extent=appearance.diameter)
        color *= (0.6 + 0.4 * np.clip(-distance / RIM_WIDTH, 0, 1))[..., None]
        _blend(canvas[inside.rows, inside.cols], color, distance)
    for bar in bars:
        x, y = _grid(slice(0, height), slice(0, width))
        _blend(canvas, _fill(bar.texture, x, y, extent=max(height, width)), bar.signed_distance(height, width))
    canvas += noise * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True)
class ClippedWindow:
    """`rows`, `cols`: the part of a window that lies in the picture; `local`: the same part within the
    window."""

    rows: slice
    cols: slice
    local: tuple[slice, slice]


def clip_window(rows: slice, cols: slice, height: int, width: int) -> ClippedWindow:
    """Clip a window to a picture. A window that lies outside of it altogether becomes an empty one."""
    top, left = min(max(rows.start, 0), height), min(max(cols.start, 0), width)
    bottom, right = max(min(rows.stop, height), top), max(min(cols.stop, width), left)
    local = (slice(top - rows.start, bottom - rows.start), slice(left - cols.start, right - cols.start))
    return ClippedWindow(slice(top, bottom), slice(left, right), local)


def _grid(rows: slice, cols: slice) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
    x = np.arange(cols.start, cols.stop, dtype=np.float32)[None, :]
    return np.broadcast_arrays(x, y)


def _object_frame(
    appearance: Appearance, center: tuple[float, float], rows: slice, cols: slice
) -> tuple[np.ndarray, np.ndarray]:
    x, y = _grid(rows, cols)
    return _rotate(x - center[0], y - center[1], appearance.angle)


def _rotate(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def _blend(target: np.ndarray, color: np.ndarray, distance: np.ndarray) -> None:
    coverage = np.clip(0.5 - distance, 0, 1)[..., None].astype(np.float32)
    target += coverage * (color - target)


def _fill(texture: Texture, x: np.ndarray, y: np.ndarray, *, extent: float) -> np.ndarray:
    """float32 (..., 3): the texture at x, y; `extent` (px) is the length of a gradient."""
    u, v = _rotate(x, y, texture.angle)
    wave = np.float32(2 * np.pi / texture.period)
    if texture.kind in ("plain", "gradient"):
        weight = np.clip(u / np.float32(extent) + 0.5, 0, 1) * (0.3 if texture.kind == "plain" else 1.0)
    elif texture.kind == "stripes":
        weight = _step(np.sin(wave * u + texture.phase))
    elif texture.kind == "checks":
        weight = _step(np.sin(wave * u + texture.phase) * np.sin(wave * v))
    elif texture.kind == "dots":
        weight = _step(np.cos(wave * u) + np.cos(wave * v + texture.phase) - 0.9)
    elif texture.kind == "weave":
        weight = 0.5 + 0.25 * (np.sin(wave * u + texture.phase) + np.sin(wave * v))
    else:  # blotches: a few waves of unrelated direction and length look irregular and need no random field
        directions = texture.phase + np.array([0.0, 1.1, 2.3, 3.9])
        waves = wave * np.array([0.37, 0.61, 0.83, 1.3], dtype=np.float32)
        total = sum(np.sin(w * _rotate(u, v, d)[0] + 5 * d) for w, d in zip(waves, directions, strict=True))
        weight = 0.5 + 0.22 * total
    weight = np.clip(weight, 0, 1).astype(np.float32)[..., None]
    first, second = texture.colors.astype(np.float32)
    return first + weight * (second - first)


def _step(value: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + 2 * value, 0, 1)
