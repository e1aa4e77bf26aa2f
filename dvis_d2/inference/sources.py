"""The inputs of `dvis predict`: image files of one page or several, folders, patterns, COCO files, videos, cameras."""

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..data.image_files import MAX_PIXELS
from ..data.image_io import ImageWindows, probe_image, to_image

STATE = ".predict"  # the folder of a run's records in its output
logger = logging.getLogger(__name__)
VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}


class Unreadable(Exception):
    """An input that cannot be read, or not to its end."""


class Frame(NamedTuple):
    image: np.ndarray | ImageWindows  # uint8 (H, W, 3) in RGB, as the network sees it
    pixels: np.ndarray | ImageWindows  # as stored
    total: int  # frames or pages of its source, as the header says; 0 if unknown
    fps: float = 0.0  # of a video


class Source(NamedTuple):
    """A file, or the camera of a number, whose outputs are called `name`."""

    path: str
    name: str
    image_id: int | None = None
    camera: int | None = None

    @property
    def is_video(self) -> bool:
        return self.camera is not None or Path(self.path).suffix.lower() in VIDEOS

    def frames(self, normalize: str = "auto") -> Iterator[Frame]:
        """Its frames or pages, read one by one; `normalize` as of :mod:`..data.image_io`."""
        try:
            yield from self._video_frames(normalize) if self.is_video else self._pages(normalize)
        except (OSError, ValueError) as error:
            raise Unreadable(str(error)) from error

    def _pages(self, normalize: str) -> Iterator[Frame]:
        total = probe_image(self.path).pages
        for page in range(total):
            yield Frame(*read_held(ImageWindows(self.path, "RGB", page=page, normalize=normalize)), total)

    def _video_frames(self, normalize: str) -> Iterator[Frame]:
        video = cv2.VideoCapture(self.path if self.camera is None else self.camera)
        total = max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0) if self.camera is None else 0
        fps, read = video.get(cv2.CAP_PROP_FPS) or 25.0, 0
        while (image := video.read()[1]) is not None:
            read += 1
            yield Frame(to_image(image[:, :, ::-1], "RGB", normalize=normalize), image, total, fps)
        if not read or read < 0.9 * total:  # a header may be a few frames wrong
            raise OSError(f"{self.path} ends after {read} of {total} frames: it is damaged, or there is no such camera")


def read_held(file: ImageWindows) -> tuple[np.ndarray | ImageWindows, np.ndarray | ImageWindows]:
    """The image and its pixels as stored, and the file is closed; itself, open, where they are too many to be held."""
    height, width = file.shape
    if height * width > MAX_PIXELS:
        return file, file
    with file:
        return file.read(0, height, 0, width), file.stored(0, height, 0, width)


def find_sources(inputs: Sequence[str]) -> tuple[list[Source], dict[str, int] | None]:
    """What paths of files and folders, and patterns, name, each file once; or what one COCO file lists, annotated or
    not, with the ids of its categories by name. FileNotFoundError if an input names nothing; ValueError for a COCO file
    beside others, and for one that is none."""
    files: dict[str, str] = {}
    Image.init()
    endings = {ending for ending, kind in Image.EXTENSION.items() if kind in Image.OPEN} | VIDEOS
    for given in map(os.path.expanduser, inputs):
        if os.path.isdir(given):
            found = _in_folder(given, endings)
        else:
            matching = filter(os.path.isfile, glob.glob(given, recursive=True))
            found = [given] if os.path.isfile(given) else sorted(matching)
        if not found:
            raise FileNotFoundError(f"there is no image {given}, and no file matches it")
        for path in found:
            files.setdefault(os.path.realpath(path), path)
    paths = list(files.values())
    if not any(path.lower().endswith(".json") for path in paths):
        return [*map(Source, paths, _distinct_names(paths))], None
    if len(paths) > 1:
        raise ValueError("a COCO file names all images: give it alone")
    return _read_coco(paths[0])


def _in_folder(folder: str, endings: Container[str]) -> list[str]:
    """Its images and videos. A warning counts those of the folders below, which may be masks; FileNotFoundError if it
    has none itself."""
    found: list[str] = []
    below: list[str] = []
    for place, folders, names in os.walk(folder):
        if STATE in folders and place != folder:  # an earlier output
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if name[0] != ".")
        images = [name for name in sorted(names) if name[0] != "." and Path(name).suffix.lower() in endings]
        (found if place == folder else below).extend(os.path.join(place, name) for name in images)
    advice = f"give '{folder}/**/*{Path(below[0]).suffix}', in quotes, to read them too" if below else "add some"
    if not found:
        raise FileNotFoundError(f"the folder {folder} holds no image, the folders in it {len(below)}\n{advice}")
    if below:
        logger.warning("%d images in folders below %s are left out; %s", len(below), folder, advice)
    return found


def _read_coco(path: str) -> tuple[list[Source], dict[str, int]]:
    from ..safe_io import read_json  # needs YAML, which an exported model does without

    try:
        data = read_json(path)
        class_names = [entry["name"] for entry in data["categories"]]
        category_ids, ids = ([_integer(entry["id"]) for entry in data[key]] for key in ("categories", "images"))
        names = [entry["file_name"] for entry in data["images"]]
        if not all(isinstance(name, str) and "\0" not in name for name in names + class_names):
            raise ValueError("a name is no text")
    except (KeyError, TypeError, ValueError) as error:
        what = f'{path} is no COCO file: it has no "images" (id, file_name) and "categories" (id, name)'
        raise ValueError(f"{what}\ncorrect what `dvis check` shows, or give the image files ({error!r})") from None
    if len(set(class_names)) < len(class_names):
        raise ValueError(f"{path} has two categories of one name\ngive them different names")
    root = Path(path).parent
    root = root / "images" if names and not (root / names[0]).exists() else root
    files = [os.path.normpath(root / name) for name in names]
    if outside := [file for file in files if not Path(file).is_relative_to(os.path.normpath(root))]:
        raise ValueError(f"{path} names {outside[0]}, outside of the folder of its images")
    return [*map(Source, files, _distinct_names(files), ids)], dict(zip(class_names, category_ids, strict=True))


def _integer(id_: Any) -> int:
    return int(str(id_).removesuffix(".0"))  # no fraction, no bool


def _distinct_names(paths: Sequence[str]) -> list[str]:
    """The stem of every file; of those that share one, the path below their common folder. None is another one's with
    the number of a page."""
    shared = Counter(Path(path).stem.casefold() for path in paths)
    top = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]) if paths else ""
    names: dict[str, str] = {}
    for path in paths:
        name = Path(path).stem
        name = re.sub(r"[\\/.]+", "_", os.path.relpath(path, top)) if shared[name.casefold()] > 1 else name
        while name.casefold() in names or re.sub(r"_\d{6}$", "", name.casefold()) in shared.keys() - {name.casefold()}:
            name += "_"
        names[name.casefold()] = name
    return list(names.values())
