"""How the shapes look: signed distances, colors (float RGB in [0, 1]), textures, painting."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CLASS_NAMES = ("disc", "square", "triangle", "ring", "star")
MIN_CONTRAST = 0.33  # Euclidean RGB distance between an object's colors and the background's
RIM_WIDTH = 2.5  # px; objects darken towards their outline, so that identical copies that overlap stay separable
FILLS = ("plain", "stripes", "checks", "dots", "blotches")
BACKGROUNDS = ("gradient", "blotches", "stripes", "weave")

Point = tuple[float, float]
Window = tuple[slice, slice]  # rows, columns


class Texture(NamedTuple):
    """A pattern that blends two colors. Angles are in radians."""

    kind: str
    colors: np.ndarray  # float (2, 3)
    period: float  # px
    angle: float
    phase: float


class Appearance(NamedTuple):
    """All that identical copies share."""

    class_id: int
    diameter: float  # px, of the circumscribed circle
    angle: float
    texture: Texture


class Placed(NamedTuple):
    appearance: Appearance
    center: Point
    window: Window  # around it, inside the picture
    distance: np.ndarray  # signed, px, there


class Bar(NamedTuple):
    """A straight strip across the whole picture: the points with |x nx + y ny - offset| < width / 2."""

    normal: Point
    offset: float
    width: float
    texture: Texture

    def signed_distance(self, height: int, width: int) -> np.ndarray:
        """float32 (height, width): px, negative inside."""
        y, x = np.mgrid[:height, :width].astype(np.float32)
        return np.abs(x * self.normal[0] + y * self.normal[1] - self.offset) - self.width / 2


def signed_distance(class_id: int, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Distance in px to the outline of an upright shape around (0, 0), negative inside; outside a lower bound."""
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
    edge = 0.5 * radius * np.array([np.cos(sector / 2), np.sin(sector / 2)]) - np.array([radius, 0.0])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (r * np.cos(theta) - radius) * normal[0] + r * np.sin(theta) * normal[1]


def place(appearance: Appearance, center: Point, size: tuple[int, int]) -> tuple[Placed, int]:
    """An object whose center is in a picture of `size` (height, width), and its area (px), outside of the picture too.
    A margin of 1 px or more is around it."""
    reach = int(np.ceil(appearance.diameter / 2)) + 2
    y, x = (int(round(coordinate)) - reach for coordinate in reversed(center))
    frame = _object_frame(appearance, center, (slice(y, y + 2 * reach + 1), slice(x, x + 2 * reach + 1)))
    distance = signed_distance(appearance.class_id, *frame, appearance.diameter / 2)
    inside = distance[max(-y, 0) : size[0] - y, max(-x, 0) : size[1] - x]
    window = slice(max(y, 0), max(y, 0) + inside.shape[0]), slice(max(x, 0), max(x, 0) + inside.shape[1])
    return Placed(appearance, center, window, inside), int(np.count_nonzero(distance < 0))


def sample_background(rng: np.random.Generator, *, texture: bool, side: int) -> Texture:
    """Two similar colors and a pattern, a gradient unless `texture`. `side` is in px."""
    first = rng.uniform(0.1, 0.9, 3)
    strength = rng.uniform(0.08, 0.16) if texture else rng.uniform(0.0, 0.08)
    second = np.clip(first + strength * rng.choice([-1.0, 1.0]) + rng.uniform(-0.05, 0.05, 3), 0, 1)
    kind = str(rng.choice(BACKGROUNDS)) if texture else "gradient"
    return Texture(
        kind, np.stack([first, second]), side * rng.uniform(0.05, 0.2), *rng.uniform(0, 2 * np.pi, 2).tolist()
    )


def sample_appearance(rng: np.random.Generator, diameters: Point, classes: Sequence[int], avoid: Texture) -> Appearance:
    """`avoid` is the background, from whose colors the object's differ."""
    diameter, kind = rng.uniform(*diameters), str(rng.choice(FILLS))
    colors = _contrasting_colors(rng, avoid.colors, MIN_CONTRAST)
    texture = Texture(kind, colors, diameter * rng.uniform(0.2, 0.4), *rng.uniform(0, 2 * np.pi, 2).tolist())
    return Appearance(classes[int(rng.integers(len(classes)))], diameter, rng.uniform(0, 2 * np.pi), texture)


def sample_bar(rng: np.random.Generator, through: Point, width: float, avoid: Texture) -> Bar:
    """A bar of `width` px whose center line passes through a point, in a random direction."""
    angle = rng.uniform(0, np.pi)
    normal = (float(np.cos(angle)), float(np.sin(angle)))
    colors = _contrasting_colors(rng, avoid.colors, MIN_CONTRAST / 2)
    texture = Texture(str(rng.choice(("plain", "stripes"))), colors, 3 * width, angle + np.pi / 2, 0.0)
    return Bar(normal, through[0] * normal[0] + through[1] * normal[1], width, texture)


def render(
    rng: np.random.Generator,
    background: Texture,
    objects: list[Placed],
    bars: list[Bar],
    size: tuple[int, int],
    noise: float,
) -> np.ndarray:
    """Paint background, objects in order, bars, and noise (standard deviation, of 1). uint8 (*size, 3)."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    canvas = _fill(background, x, y, max(size))
    for appearance, center, window, distance in objects:
        color = _fill(appearance.texture, *_object_frame(appearance, center, window), appearance.diameter)
        color *= (0.6 + 0.4 * np.clip(-distance / RIM_WIDTH, 0, 1))[..., None]
        _blend(canvas[window], color, distance)
    for bar in bars:
        _blend(canvas, _fill(bar.texture, x, y, max(size)), bar.signed_distance(*size))
    canvas += noise * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.rint(np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def _contrasting_colors(rng: np.random.Generator, avoid: np.ndarray, contrast: float) -> np.ndarray:
    """float (2, 3): two shades of one color, the farthest of up to 30 draws if none is `contrast` away."""
    draws: list[tuple[float, np.ndarray]] = []
    while len(draws) < 30 and not (draws and draws[-1][0] >= contrast):
        first = rng.uniform(0, 1, 3)
        second = np.clip(first + rng.choice([-1.0, 1.0]) * rng.uniform(0.12, 0.25), 0, 1)
        pair = np.stack([first, second])
        draws.append((float(np.linalg.norm(pair[:, None] - avoid[None], axis=-1).min()), pair))
    return max(draws, key=lambda draw: draw[0])[1]


def _object_frame(appearance: Appearance, center: Point, window: Window) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[window].astype(np.float32)
    return _rotate(x - center[0], y - center[1], appearance.angle)


def _rotate(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def _blend(target: np.ndarray, color: np.ndarray, distance: np.ndarray) -> None:
    coverage = np.clip(0.5 - distance, 0, 1)[..., None].astype(np.float32)
    target += coverage * (color - target)


def _fill(texture: Texture, x: np.ndarray, y: np.ndarray, extent: float) -> np.ndarray:
    """float32 (..., 3): the texture at x, y; `extent` (px) is the length of a gradient."""
    u, v = _rotate(x, y, texture.angle)
    wave, phase = np.float32(2 * np.pi / texture.period), texture.phase
    if texture.kind == "blotches":  # a few waves of unrelated direction and length look irregular
        directions = phase + np.array([0.0, 1.1, 2.3, 3.9])
        waves = wave * np.array([0.37, 0.61, 0.83, 1.3], dtype=np.float32)
        total = sum(np.sin(w * _rotate(u, v, d)[0] + 5 * d) for w, d in zip(waves, directions, strict=True))
        weight = 0.5 + 0.22 * total
    elif texture.kind == "dots":
        weight = 0.5 + 2 * (np.cos(wave * u) + np.cos(wave * v + phase) - 0.9)
    elif texture.kind in ("plain", "gradient"):
        weight = np.clip(u / np.float32(extent) + 0.5, 0, 1) * (0.3 if texture.kind == "plain" else 1.0)
    else:
        along, across = np.sin(wave * u + phase), np.sin(wave * v)
        weights = {"stripes": 2 * along, "checks": 2 * (along * across), "weave": 0.25 * (along + across)}
        weight = 0.5 + weights[texture.kind]
    first, second = texture.colors.astype(np.float32)
    return first + np.clip(weight, 0, 1).astype(np.float32)[..., None] * (second - first)
