"""Whether the image files of a data set are where, and what, its annotations say."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from tqdm import tqdm

from .annotations import to_mask
from .image_files import TURNS
from .image_io import probe_image, read_image

MAX_MASKS = 20  # of an image with an orientation, whose pixels are compared with them


def find_root(json_file: str | os.PathLike, image_root: str | os.PathLike | None, names: Sequence[str]) -> Path:
    """What file names are relative to: the folder that is given, or the one above it, or, where none is (None), that of
    the JSON or "images" in it; the first of them that holds one of the first `names`."""
    if image_root is None:
        folders = [Path(json_file).parent, Path(json_file).parent / "images"]
    else:
        folders = [Path(image_root), Path(image_root).parent]
    return next((f for name in names[:10] for f in folders if os.path.isfile(f / name)), folders[0])


def leads_out(root: str | os.PathLike, name: str) -> bool:
    """Whether a file name is not below the folder, as it is written: links are followed."""
    folder = os.path.abspath(root)
    return os.path.commonpath([folder, os.path.abspath(os.path.join(folder, name))]) != folder


def check_image_files(
    images: list[dict], annotations: list[dict], root: Path, max_headers: int | None, progress: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(the image, its problems as in :func:`.mask_checks.examine_mask`) for the files of images that have an id, a size
    and a name; of `max_headers` (None: all), evenly spread, the header is read and the end looked at."""
    existing, masks = [], defaultdict(list)
    for annotation in annotations:
        masks[str(annotation.get("image_id"))].append(annotation.get("segmentation"))
    for image in images:
        name = image["file_name"]
        if (out := leads_out(root, name)) or not os.path.isfile(root / name):
            kind = "image files outside of the image folder" if out else f"image files that are not in {root}"
            yield _label(image), {kind: _elsewhere(root, name) or True}
        else:
            existing.append(image)
    chosen = existing[:: max(1, -(-len(existing) // (max_headers or len(existing) or 1)))]
    with ThreadPoolExecutor(8) as pool:  # most of the time is waiting for files
        found = pool.map(lambda image: _examine(root, image, masks[str(image["id"])][:MAX_MASKS]), chosen)
        for image, problems in zip(chosen, tqdm(found, "images", len(chosen), disable=not progress), strict=True):
            yield _label(image), problems


def _elsewhere(root: Path, name: str) -> str:
    """Under which name of other systems or tools a missing file is there."""
    path = name.replace("\\", "/")
    for other in (path, unquote(name), os.path.basename(path), unquote(os.path.basename(path))):
        if other != name and not leads_out(root, other) and os.path.isfile(root / other):
            return f'is there as "{other}"'
    return ""


def _examine(root: Path, image: dict, segmentations: list) -> dict[str, Any]:
    path, size = root / image["file_name"], (image["width"], image["height"])
    try:
        info = probe_image(path)
        found, is_turned = (info.width, info.height), info.orientation in TURNS
        on_stored = is_turned and found == size and _fits_stored_pixels(path, info.orientation, segmentations)
    except (OSError, ValueError) as error:
        return {"image files that cannot be read": f"({error})"}
    detail = f"is {found[0]} x {found[1]}, annotated as {size[0]} x {size[1]}"
    if info.stored_size == size:
        detail += f", as before it is turned by its orientation, {info.orientation}"
    return {
        "images of another size than the annotations say": found != size and detail,
        "images whose masks seem to lie on the pixels before they are turned": on_stored,
        "images of several pages or frames": info.pages > 1 and f"has {info.pages}",
        "images of more than 8 bits": info.dtype not in ("uint8", "bool") and f"is {info.dtype}",
    }


def _fits_stored_pixels(path: Path, orientation: int, segmentations: list) -> bool:
    """Whether the outlines of the masks lie on stronger edges of the picture as stored than of the upright one."""
    upright = read_image(path).astype(np.float32).mean(axis=2)
    transpose, flip_y, flip_x = TURNS[orientation]
    stored = upright[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    stored = stored.T if transpose else stored
    strength = np.zeros(2)
    for segmentation in segmentations:
        with contextlib.suppress(TypeError, ValueError):  # a broken mask has its own message
            edges = [np.diff(to_mask(segmentation, upright.shape, ""), axis=i) for i in (0, 1)]
            for k, picture in enumerate((upright, stored)):
                if picture.shape == upright.shape:
                    strength[k] += sum(np.abs(np.diff(picture, axis=i))[edges[i]].sum() for i in (0, 1))
    return bool(strength[1] > 1.5 * strength[0])


def _label(image: dict) -> str:
    return f"image {image['id']} ({image['file_name']})"
