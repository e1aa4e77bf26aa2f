"""PASCAL VOC 2012 and SBD for instance segmentation. Nothing is read before a data set is asked for.

Below `$DETECTRON2_DATASETS` (default `./datasets`):

    VOC2012/ or VOCdevkit/VOC2012/            the trainval archive of VOC 2012
        JPEGImages, SegmentationObject, SegmentationClass, ImageSets/Segmentation, ImageSets/Main
    sbd/ or benchmark_RELEASE/dataset/        the Semantic Boundaries Dataset
        img, inst, train.txt, val.txt
"""

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import CLASS_NAMES

from .dataset_errors import DatasetError
from .image_io import probe_image
from .validation import UNPACK_AGAIN, Report

VOC, SBD = "PASCAL VOC 2012 (whose ImageSets/Main also divides SBD)", "SBD"
FOLDERS = {VOC: ("VOC2012", "VOCdevkit/VOC2012"), SBD: ("sbd", "benchmark_RELEASE/dataset")}
FILES = {
    VOC: {
        "file_name": "JPEGImages/{}.jpg",
        "instance_label_file": "SegmentationObject/{}.png",
        "class_label_file": "SegmentationClass/{}.png",
    },
    SBD: {"file_name": "img/{}.jpg", "instance_label_file": "inst/{}.mat"},
}


def register_pascal(root: str | os.PathLike) -> None:
    """Register the data sets of :data:`SPLITS` below `root`. A name that is registered already is left alone."""
    for name in SPLITS:
        if name not in DatasetCatalog:
            DatasetCatalog.register(name, partial(load_pascal, name, root))
            MetadataCatalog.get(name).set(thing_classes=list(CLASS_NAMES), evaluator_type="pascal_instance")


def load_pascal(name: str, root: str | os.PathLike) -> list[dict]:
    """The dataset dicts of a data set of :data:`SPLITS`, ordered by image name ("image_id", such as "2007_000032").

    Only image headers are read. Instead of "annotations" there are the files for :mod:`.label_files`. DatasetError
    where a folder, a list, an image or a label file is missing or cannot be read.
    """
    list_images, expected = SPLITS[name]
    dicts = [entry for _, entry in sorted(list_images(Path(root)).items())]
    report = Report(f"{name}: {len(dicts)} images")
    for entry in dicts:
        for key in ("instance_label_file", "class_label_file"):
            report.add(
                entry.get(key, ""), {"label files that are missing": key in entry and not os.path.isfile(entry[key])}
            )
        try:
            entry["width"], entry["height"] = probe_image(entry["file_name"])[:2]
        except FileNotFoundError:
            report.add(entry["file_name"], {"images that are missing": True})
        except (OSError, ValueError) as error:
            report.add(entry["file_name"], {"images that cannot be read": f"({error})"})
    report.add(name, {"no images": not dicts})
    report.raise_if_errors()
    if len(dicts) != expected:
        found = f"{name} has {len(dicts)} images, not {expected}: the archive is not complete"
        logging.getLogger(__name__).warning(found)
    return dicts


def _listed(root: Path, archive: str, *lists: str) -> dict[str, dict]:
    """Dataset dicts by image name."""
    folder = next((root / name for name in FOLDERS[archive] if (root / name).is_dir()), None)
    if folder is None:
        places = " or ".join(FOLDERS[archive])
        advice = f"unpack it to {places} there, or let DETECTRON2_DATASETS name the folder that holds it"
        raise DatasetError(f"{archive} is not below {root.absolute()}: {advice}")
    images = set().union(*(_read_list(folder / f"{name}.txt") for name in lists))
    return {
        i: {"image_id": i} | {k: str(folder / file.format(i)) for k, file in FILES[archive].items()} for i in images
    }


def _voc(root: Path, split: str) -> dict[str, dict]:
    return _listed(root, VOC, f"ImageSets/Segmentation/{split}")


def _voc_and_sbd(root: Path) -> dict[str, dict]:
    """VOC's training images with VOC's labels, and all images of SBD that are in neither list of VOC."""
    val, both = _voc(root, "val"), _listed(root, SBD, "train", "val") | _voc(root, "train")
    return {image: entry for image, entry in both.items() if image not in val}


def _sbd_by_voc(root: Path, split: str) -> dict[str, dict]:
    """SBD divided as VOC 2012's detection lists are: the paper's Table 2, simultaneous detection and segmentation."""
    wanted = _listed(root, VOC, f"ImageSets/Main/{split}")
    return {image: entry for image, entry in _listed(root, SBD, "train", "val").items() if image in wanted}


# name: (what lists it, number of images of the complete data set)
SPLITS: dict[str, tuple[Callable[[Path], dict[str, dict]], int]] = {
    "voc_2012_instance_train": (partial(_voc, split="train"), 1464),
    "voc_2012_instance_val": (partial(_voc, split="val"), 1449),
    "voc_2012_instance_trainval": (partial(_voc, split="trainval"), 2913),
    "voc_2012_instance_aug": (_voc_and_sbd, 10582),
    "sbd_instance_train": (partial(_sbd_by_voc, split="train"), 5623),
    "sbd_instance_val": (partial(_sbd_by_voc, split="val"), 5732),
    "sbd_release_instance_train": (lambda root: _listed(root, SBD, "train"), 8498),
    "sbd_release_instance_val": (lambda root: _listed(root, SBD, "val"), 2857),
}


def _read_list(path: Path) -> set[str]:
    """The first word of every line."""
    try:
        images = {words[0] for words in map(str.split, path.read_text(encoding="utf-8").splitlines()) if words}
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"the image list {path} cannot be read ({error}); {UNPACK_AGAIN}") from error
    if not images:
        raise DatasetError(f"the image list {path} is empty; {UNPACK_AGAIN}")
    return images
