"""PASCAL VOC 2012 and SBD for instance segmentation. Nothing is read before a data set is asked for.

Below `$DETECTRON2_DATASETS` (default `./datasets`):

    VOC2012/ or VOCdevkit/VOC2012/            the trainval archive of VOC 2012
        JPEGImages, SegmentationObject, SegmentationClass, ImageSets/Segmentation, ImageSets/Main
    sbd/ or benchmark_RELEASE/dataset/        the Semantic Boundaries Dataset
        img, inst, train.txt, val.txt
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from PIL import Image

from .image_check import oriented_size
from .report import DatasetError, Report

VOC_FOLDERS = ("VOC2012", "VOCdevkit/VOC2012")
SBD_FOLDERS = ("sbd", "benchmark_RELEASE/dataset")
logger = logging.getLogger(__name__)


def register_pascal(root: str | os.PathLike) -> None:
    """Register the data sets of :data:`SPLITS` below `root`. A name that is registered already is left alone.

    Their dataset dicts have "file_name", "image_id" (the image's name, such as "2007_000032"), "height", "width" and,
    instead of "annotations", the label files that :func:`dvis_d2.data.label_files.read_instance_labels` reads.
    """
    for name in SPLITS:
        if name in DatasetCatalog:
            continue
        DatasetCatalog.register(name, lambda n=name: load_pascal(n, root))
        MetadataCatalog.get(name).set(thing_classes=list(CLASS_NAMES), evaluator_type="pascal_instance")


def load_pascal(name: str, root: str | os.PathLike) -> list[dict]:
    """The dataset dicts of a data set of :data:`SPLITS`, ordered by image name. Only image headers are read.

    Raises:
        DatasetError: a folder, a list, an image or a label file is missing, or an image cannot be read.
    """
    make, expected = SPLITS[name]
    dicts = make(Path(root))
    _add_sizes(dicts, name)
    if len(dicts) != expected:
        logger.warning(
            "%s has %d images, not %d: the archive or its lists are not complete", name, len(dicts), expected
        )
    return dicts


def _voc_split(split: str) -> Callable[[Path], list[dict]]:
    def make(root: Path) -> list[dict]:
        voc = _find_folder(root, VOC_FOLDERS, "PASCAL VOC 2012")
        return [_voc_dict(voc, image) for image in sorted(_read_list(voc / f"ImageSets/Segmentation/{split}.txt"))]

    return make


def _voc_augmented(root: Path) -> list[dict]:
    """VOC's training images with VOC's labels, and all images of SBD that are in neither list of VOC."""
    voc = _find_folder(root, VOC_FOLDERS, "PASCAL VOC 2012")
    sbd = _find_folder(root, SBD_FOLDERS, "SBD")
    train, val = (_read_list(voc / f"ImageSets/Segmentation/{split}.txt") for split in ("train", "val"))
    return [
        _voc_dict(voc, image) if image in train else _sbd_dict(sbd, image)
        for image in sorted((train | _all_of_sbd(sbd)) - val)
    ]


def _sbd_release(split: str) -> Callable[[Path], list[dict]]:
    def make(root: Path) -> list[dict]:
        sbd = _find_folder(root, SBD_FOLDERS, "SBD")
        return [_sbd_dict(sbd, image) for image in sorted(_read_list(sbd / f"{split}.txt"))]

    return make


def _sbd_detection(split: str) -> Callable[[Path], list[dict]]:
    """SBD divided as VOC 2012's detection lists are, as in the literature on simultaneous detection and
    segmentation and in the paper's Table 2."""

    def make(root: Path) -> list[dict]:
        sbd = _find_folder(root, SBD_FOLDERS, "SBD")
        voc = _find_folder(root, VOC_FOLDERS, "PASCAL VOC 2012, whose ImageSets/Main divides SBD")
        images = _all_of_sbd(sbd) & _read_list(voc / f"ImageSets/Main/{split}.txt")
        return [_sbd_dict(sbd, image) for image in sorted(images)]

    return make


# name: (what lists it, number of images of the complete data set)
SPLITS: dict[str, tuple[Callable[[Path], list[dict]], int]] = {
    "voc_2012_instance_train": (_voc_split("train"), 1464),
    "voc_2012_instance_val": (_voc_split("val"), 1449),
    "voc_2012_instance_trainval": (_voc_split("trainval"), 2913),
    "voc_2012_instance_aug": (_voc_augmented, 10582),
    "sbd_instance_train": (_sbd_detection("train"), 5623),
    "sbd_instance_val": (_sbd_detection("val"), 5732),
    "sbd_release_instance_train": (_sbd_release("train"), 8498),
    "sbd_release_instance_val": (_sbd_release("val"), 2857),
}


def _voc_dict(voc: Path, image: str) -> dict:
    return {
        "file_name": str(voc / "JPEGImages" / f"{image}.jpg"),
        "image_id": image,
        "instance_label_file": str(voc / "SegmentationObject" / f"{image}.png"),
        "class_label_file": str(voc / "SegmentationClass" / f"{image}.png"),
    }


def _sbd_dict(sbd: Path, image: str) -> dict:
    return {
        "file_name": str(sbd / "img" / f"{image}.jpg"),
        "image_id": image,
        "instance_label_file": str(sbd / "inst" / f"{image}.mat"),
    }


def _all_of_sbd(sbd: Path) -> set[str]:
    return _read_list(sbd / "train.txt") | _read_list(sbd / "val.txt")


def _find_folder(root: Path, names: tuple[str, ...], what: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DatasetError(
        f"{what} is not below {root.absolute()}: unpack it to {' or '.join(names)} there, "
        "or set the environment variable DETECTRON2_DATASETS to the folder that holds it"
    )


def _read_list(path: Path) -> set[str]:
    """The first word of every line."""
    try:
        images = {words[0] for words in map(str.split, path.read_text(encoding="utf-8").splitlines()) if words}
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"the image list {path} cannot be read ({error}); unpack the archive again") from error
    if not images:
        raise DatasetError(f"the image list {path} is empty; unpack the archive again")
    return images


def _add_sizes(dicts: list[dict], name: str) -> None:
    """Set "height" and "width" from the images' headers, and see to it that all files are there."""
    report = Report(f"{name}: {len(dicts)} images")
    for entry in dicts:
        for key in ("instance_label_file", "class_label_file"):
            if key in entry and not os.path.isfile(entry[key]):
                report.errors.add("label files that are missing", entry[key], "unpack the archive again")
        try:
            entry["width"], entry["height"] = oriented_size(Path(entry["file_name"]))
        except FileNotFoundError:
            report.errors.add("images that are missing", entry["file_name"], "unpack the archive again")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # PIL raises all four
            report.errors.add(
                "images that cannot be read", f"{entry['file_name']} ({error})", "unpack the archive again"
            )
    if not dicts:
        report.errors.add("no images", name, "the image lists of VOC and SBD have none in common; check both archives")
    report.raise_if_errors()
