"""What the page shows: a model's images, each run through the network once, and then grouped and judged by whatever
thresholds.

A *view* is what the network sees at once: an image, or, of one that is read in tiles, a window of a tile's size.
"""

import contextlib
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.structures import Instances

from .. import checkpoint
from ..config import packaged
from ..data.coco_file import CheckedCOCO
from ..data.cropped_masks import CroppedMasks
from ..data.image_io import ImageWindows
from ..data.scaling import resized, scaled_size, size_for_test
from ..inference.colors import label_colors
from ..inference.sources import Source
from ..inference.tiled_network import TiledInference
from ..modeling.grouping import Grouping, group_label_map
from ..tuning.predictions import ImageFeatures, group_image, predict_images, verify_image
from ..tuning.thresholds import (
    FILE_NAME,
    GROUPING_KEYS,
    apply_thresholds,
    current_thresholds,
    write_thresholds,
)
from .sliders import SCORE, checked, controls

MAX_SIDE = 2048  # pixels of the longest side at which masks are drawn for the page
MOST_SHOWN = 100  # proposals
VIEWS, GROUPINGS = 3, 4  # that are kept
FIRST_SCORE = 0.5  # the least score at first, as of `dvis predict`


class View:
    """One, with all that is known of it; `window` is y0, y1, x0, x1 in the stored image of `size`."""

    def __init__(self, picture: np.ndarray, window: tuple[int, int, int, int], size: tuple[int, int]):
        self.picture, self.window, self.size = picture, window, size  # uint8 (H, W, 3) in RGB
        shrink = min(1.0, MAX_SIDE / max(picture.shape[:2]))
        self.drawn = tuple(max(1, round(side * shrink)) for side in picture.shape[:2])  # the size of masks
        self.features: ImageFeatures
        self.groupings: OrderedDict[str, Grouping] = OrderedDict()
        self.verified: OrderedDict[str, Verified] = OrderedDict()
        self.found: tuple[dict[str, Any], Found] | None = None  # the last, with its thresholds


class Verified(NamedTuple):
    proposals: Instances
    masks: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]  # box and crop by source and row, once they are drawn


class Found(NamedTuple):
    """The objects of a view, best first."""

    proposals: Instances
    rows: torch.Tensor  # of the proposals
    classes: torch.Tensor
    scores: torch.Tensor
    masks: CroppedMasks


class Explorer:
    """A trained model and images. Its methods are called by one thread at a time."""

    def __init__(self, model: str, sources: Sequence[Source], *, device: str | None = None, opts: Sequence[str] = ()):
        """`model` and `opts` as of :func:`checkpoint.load_model`."""
        self.network: Any
        cfg, self.network, info = checkpoint.load_model(model, device=device, opts=opts)
        self.cfg = cfg
        self.class_names = list(info["class_names"]) or [f"class {k}" for k in range(cfg.MODEL.ROI_HEADS.NUM_CLASSES)]
        self.tiles = TiledInference(cfg, self.network, dict(info.get("statistics") or {}) or None)
        self.sources = list(sources)
        self.truth: CheckedCOCO | None = None
        self.lock = threading.Lock()
        self._views: OrderedDict[tuple[int, int, int], View] = OrderedDict()

    def start(self) -> dict[str, Any]:
        """What the page needs once."""
        values = current_thresholds(self.cfg) | {SCORE: FIRST_SCORE}
        names = [source.name for source in self.sources]
        own = {"images": names, "classes": self.class_names, "model": self.cfg.MODEL.WEIGHTS}
        own |= {"controls": controls(values), "save": self.save_path(), "saved": os.path.exists(self.save_path())}
        top = 1000.0  # so that no color is one that fades
        return own | {"scale": label_colors(np.linspace(1, top, 256), top).round().tolist()}

    def view(self, image: int, center: tuple[int, int] | None = None) -> View:
        """The view of an image, with the network's output; of one read in tiles that around `center`, x, y."""
        source = self.sources[image]
        with ImageWindows(source.path, "RGB", page=0, normalize=self.cfg.INPUT.NORMALIZE) as file:
            size = int(file.shape[0]), int(file.shape[1])
            scale = self.tiles.scale_of(size)
            spans = [(0, side) for side in size]
            if scale and self.tiles.is_large(size, scale):
                side = max(1, round(self.tiles.tile_size(scale)[0] / scale))
                middle = (center or (size[1] // 2, size[0] // 2))[::-1]
                starts = [int(np.clip(m - side // 2, 0, max(0, s - side))) for m, s in zip(middle, size, strict=True)]
                spans = [(start, min(start + side, s)) for start, s in zip(starts, size, strict=True)]
            key = (image, spans[0][0], spans[1][0])
            if key in self._views:
                self._views.move_to_end(key)
                return self._views[key]
            (y0, y1), (x0, x1) = spans
            view = View(file.read(y0, y1, x0, x1), (y0, y1, x0, x1), size)
        pixels = view.picture if self.cfg.INPUT.FORMAT == "RGB" else view.picture[:, :, ::-1]
        size = view.picture.shape[:2]
        wanted = scaled_size(size, scale) if scale else size_for_test(self.cfg, size)
        pixels = resized(pixels, wanted)
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        inputs = {"image": tensor, "image_id": image, "height": view.drawn[0], "width": view.drawn[1]}
        (view.features,) = predict_images(self.network, [[inputs]])
        self._views[key] = view
        _forget(self._views, VIEWS)
        return view

    def overview(self, image: int, side: int = 256) -> np.ndarray:
        """Of an image every so-manieth pixel, uint8 RGB."""
        with ImageWindows(self.sources[image].path, "RGB", page=0, normalize=self.cfg.INPUT.NORMALIZE) as file:
            height, width = file.shape
            step = -(-max(height, width) // side)
            return np.concatenate([file.read(y, y + 1, 0, width)[:, ::step] for y in range(0, height, step)])

    def label_map(self, view: View) -> np.ndarray:
        """float32 (h, w), after the ReLU, without padding."""
        stride = self.network.proposal_generator.stride
        rows, columns = (-(-side // stride) for side in view.features.image_size)
        return np.maximum(view.features.label_map[0, :rows, :columns].numpy(), 0)

    def settings(self, thresholds: Any) -> dict[str, Any]:
        """The thresholds that the page sent, checked. ValueError where they cannot be."""
        return checked(self.cfg, thresholds)

    def group(self, view: View, thresholds: Any) -> Grouping:
        """The view's levels and best proposals, `MOST_SHOWN` at most, by thresholds that the page sent. Of
        each the whole mask is made, which takes the time."""
        values = self.settings(thresholds)
        apply_thresholds(self.network, values)
        options = self.network.proposal_generator.grouping
        shown = options | {"max_proposals": min(options["max_proposals"], MOST_SHOWN)}
        valid = [self.label_map(view).shape]
        return group_label_map(view.features.label_map.to(self.network.device).relu(), valid=valid, **shown)[0]

    def _group(self, view: View, values: dict[str, Any]) -> Grouping:
        apply_thresholds(self.network, values)
        if (name := _name(values)) not in view.groupings:
            with self.tiles.caps(self.tiles.expected_objects(view.picture.shape[:2])):
                view.groupings[name] = group_image(self.network, view.features)
            _forget(view.groupings, GROUPINGS)
        return view.groupings[name]

    def find(self, view: View, thresholds: Any) -> Found:
        """The view's objects, as :meth:`Model.predict` finds them by these thresholds."""
        values = self.settings(thresholds)
        apply_thresholds(self.network, values)  # which :func:`explain` reads there
        if view.found and view.found[0] == values:
            return view.found[1]
        grouping, heads = self._group(view, values), self.network.roi_heads
        if (name := _name(values)) not in view.verified:
            view.verified[name] = Verified(verify_image(self.network, view.features, grouping), {})
            _forget(view.verified, GROUPINGS)
        proposals, drawn = view.verified[name]
        with self.tiles.caps(self.tiles.expected_objects(view.picture.shape[:2])):
            rows, classes, scores = heads.detect(proposals)
        source = heads.mask_source
        if new := [row for row in dict.fromkeys(rows.tolist()) if (source, row) not in drawn]:
            masks = heads.draw_masks(proposals, view.drawn, new)
            drawn.update(zip(((source, row) for row in new), zip(masks.boxes, masks.crops, strict=True), strict=True))
        pieces = [drawn[source, row] for row in rows.tolist()]
        kept = [k for k, (box, _) in enumerate(pieces) if box[2] > box[0]]
        boxes = np.array([pieces[k][0] for k in kept], dtype=np.int64).reshape(-1, 4)
        masks = CroppedMasks(view.drawn, boxes, [pieces[k][1] for k in kept])
        view.found = values, Found(proposals, rows[kept].cpu(), classes[kept].cpu(), scores[kept].cpu(), masks)
        return view.found[1]

    def add(self, path: str, name: str) -> int:
        """The number of one more image. What :class:`ImageWindows` raises where it is none."""
        with ImageWindows(path, "RGB", page=0, normalize=self.cfg.INPUT.NORMALIZE):
            self.sources.append(Source(path, name))
        return len(self.sources) - 1

    def save_path(self) -> str:
        """Of thresholds.yaml beside the weights; "" where these are a part of the package."""
        weights = Path(self.cfg.MODEL.WEIGHTS).resolve()
        return "" if weights.parent == packaged("models").resolve() else str(weights.with_name(FILE_NAME))

    def save(self, thresholds: Any) -> str:
        """Write the thresholds that differ from what the weights carry, but for the least score, which is a matter of
        looking; the path. ValueError for a packaged model."""
        if not (path := self.save_path()):
            advice = "copy its file to a folder of your own, and explore that"
            raise ValueError(f"{self.cfg.MODEL.WEIGHTS} is a part of the package; {advice}")
        values = {key: value for key, value in self.settings(thresholds).items() if key != SCORE}
        write_thresholds(path, values, comment="Set by eye, with dvis explore.")
        return path


def read_truth(path: str, class_names: Sequence[str]) -> CheckedCOCO | None:
    """The annotations of a COCO file; None where it has none. ValueError if its classes are not the model's, in the
    order of their ids."""
    with contextlib.redirect_stdout(io.StringIO()):  # progress
        truth = CheckedCOCO(path)
    names = [truth.cats[k]["name"] for k in sorted(truth.cats)]
    if not truth.anns:
        return None
    if names != list(class_names):
        known, found = checkpoint.shorten(class_names), checkpoint.shorten(names)
        raise ValueError(f"the model knows the classes {known}, {path} has {found}\ngive the image files instead")
    return truth


def _name(values: dict[str, Any]) -> str:
    """Of a grouping: the values that it depends on."""
    return repr([values[key] for key in GROUPING_KEYS])


def _forget(kept: OrderedDict, most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)
