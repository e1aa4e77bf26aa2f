"""A folder of images with masks in any common format, as COCO JSON with a validation split.

Nothing in the folder is changed: the JSON files are written elsewhere and name the images where they are.
"""

import contextlib
import hashlib
import json
import os
from collections import Counter, defaultdict
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ..safe_io import locked, read_json, replacing
from .dataset_errors import FormatError
from .mask_folders import IMAGE_SUFFIXES, pair_masks, part_of, read_masks, some
from .polygon_files import is_yolo, read_labelme, read_yolo
from .to_coco import complete_coco

CONVERTED, LOCK = "data", ".lock"  # in the output folder
VAL_SHARE = 0.15  # of the images, where a folder has none for validation
EXPECTED = (
    "expected: COCO JSON; images/ and masks/ of the same names with one integer an object, or a.png and a_masks.png; "
    "ID/images/ and ID/masks/ with one file an object; YOLO outlines with data.yaml; LabelMe JSON"
)


class Converted(NamedTuple):
    """COCO JSON files of a folder, "" where there is nothing to validate on, and what was found and done, in words."""

    train_json: str
    val_json: str
    image_root: str
    summary: str


def convert_folder(
    source: str | os.PathLike, output_dir: str | os.PathLike, *, seed: int = 0, keep: bool = False
) -> Converted:
    """Write `train.json` and `val.json` for the images and masks in `source` into `output_dir`/data.

    `source` may also be a COCO JSON or a `data.yaml`, where its folder holds other annotations too. Where it has no
    validation images, 15 % of the images, at least one, are drawn by `seed`, so that no class loses its only training
    image. What is there already is used again if `source` has not changed since, and with `keep` (a training that
    goes on) even then. Several processes may call this at once.

    FormatError (a DatasetError), naming the file, where something is missing, ambiguous or cannot be read.
    """
    source, output = Path(source), Path(output_dir, CONVERTED)
    train, val = output / "train.json", output / "val.json"
    if not (output / LOCK).exists():
        if train.exists() or val.exists():
            what = f"{output} has annotations of its own, which would be overwritten"
            raise FormatError(what, "give another --output")
        # a training's folder is no data, so these would be left out from now on
        inside = [path for path in list_files(source) if Path(output_dir).resolve() in path.resolve().parents]
        if taken := [path for path in inside if path.suffix.lower() in (*IMAGE_SUFFIXES, ".json")]:
            raise FormatError(f"{output_dir} holds files of the data, {taken[0].name} for one", "give another --output")
    output.mkdir(parents=True, exist_ok=True)
    with locked(output / LOCK, f"another process to read {source}"):
        info = read_json(train)["info"] if train.exists() else {}
        if not (info and keep):
            files = list_files(source)
            stamps = [(str(path), stat.st_size, stat.st_mtime_ns) for path in files for stat in [path.stat()]]
            fingerprint = hashlib.sha256(repr((seed, stamps)).encode()).hexdigest()
            if info.get("fingerprint") != fingerprint:
                root = source if source.is_dir() else source.parent
                kind, parts = read_folder(root, files, masks=source.is_dir())
                summary = f"{source}: {kind}\n  {_divide(parts, seed)}"
                info = {"fingerprint": fingerprint, "image_root": str(root), "summary": summary}
                train.unlink(missing_ok=True)
                val.unlink(missing_ok=True)
                for part in sorted(parts.keys() - {"test"}, reverse=True):  # train.json last: it says that all is there
                    with replacing(output / f"{part}.json") as file:
                        file.write(json.dumps({"info": info, **parts[part]}).encode())
    return Converted(str(train), str(val) if val.exists() else "", info["image_root"], info["summary"])


def list_files(source: Path) -> list[Path]:
    """All files below a folder, without hidden ones and those of trainings; a JSON or data.yaml with the images and
    text files that may belong to it."""
    if source.is_file():
        wanted = IMAGE_SUFFIXES if source.suffix == ".json" else (*IMAGE_SUFFIXES, ".txt")
        return [source, *(path for path in list_files(source.parent) if path.suffix.lower() in wanted)]
    if not source.is_dir():
        raise FormatError(f"there is no folder {source}", "give the folder of your images and masks")
    found, seen = [], set()
    for folder, folders, names in os.walk(source, followlinks=True):
        is_training = os.path.exists(os.path.join(folder, CONVERTED, LOCK))
        if is_training and folder == str(source):
            what = f"{source} is the folder of a training, as {CONVERTED}/{LOCK} in it says"
            raise FormatError(what, "give the folder of your images and masks")
        if is_training or os.path.realpath(folder) in seen:  # the latter by a link that leads in a circle
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        folders[:] = sorted(name for name in folders if name[0] not in "._")
        found += [Path(folder, name) for name in sorted(names) if name[0] != "."]
    return found


def read_folder(root: Path, files: list[Path], *, masks: bool = True) -> tuple[str, dict[str, Any]]:
    """The name of the format (with `masks` those of mask files too), and COCO's lists by part: "train", and "val" and
    "test" where there are such."""
    coco, labelme = {}, {}
    for path in files:
        if path.suffix == ".json":
            with contextlib.suppress(ValueError):  # no JSON
                content = read_json(path)
                if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
                    coco[path] = content
                elif isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content:
                    labelme[path] = content
    _, paired, are_labels = pair_masks(root, files)
    readers = (
        ("COCO JSON", coco, lambda: read_coco(root, files, coco)),
        ("LabelMe JSON", labelme, lambda: read_labelme(root, files, labelme)),
        ("YOLO outlines", any(is_yolo(root, path) for path in files), lambda: read_yolo(root, files)),
        ("label images", masks and paired and are_labels, lambda: read_masks(root, files)),
        ("binary masks, one an object", masks and paired and not are_labels, lambda: read_masks(root, files)),
    )
    found = {kind: read for kind, there, read in readers if there}
    if len(found) > 1:
        advice = "give a folder with one of them, or the JSON or data.yaml itself"
        raise FormatError(f"{root} holds {' and '.join(found)}", advice)
    if not found:
        number = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in files)
        raise FormatError(f"{root} has {number} images, and nothing that says where their objects are", EXPECTED)
    ((kind, read),) = found.items()
    parts = read()
    for other in ("", *parts):  # images outside of train/ and val/, or all there are
        if "train" not in parts and other in parts and (other == "" or len(parts) == 1):
            parts["train"] = parts.pop(other)
    if "train" not in parts or "" in parts:
        what = f"{root}: images of {' and '.join(repr(str(root / part)) for part in parts)}, but none to train on"
        raise FormatError(what, "call the folders (or JSON files) train and val")
    return kind, parts


def read_coco(root: Path, files: list[Path], contents: dict[Path, Any]) -> dict[str, Any]:
    """By the part in the names or folders of the files. Images are found wherever they are below `root`. What exporters
    leave out (ids, boxes, areas) is filled in; what else is wrong is left to :func:`.validation.check_coco_json`."""
    # COCO has keypoints beside them
    chosen = [path for path in contents if path.name.startswith("instances")] or list(contents)
    parts: dict[str, Any] = {}
    for path in chosen:
        part = part_of(path.relative_to(root)) if len(chosen) > 1 else ""
        if part in parts:
            advice = "give the one to use, or name them train and val"
            raise FormatError(f"several COCO files for one purpose: {some(chosen)}", advice)
        content = {key: contents[path][key] for key in ("images", "annotations", "categories")}
        for key, entries in content.items():
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise FormatError(f'"{key}" of {path} is no list of objects', "export it again as COCO JSON")
        with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):  # the check says it better
            content = complete_coco(content)
            _locate_images(content["images"], path, root, files)
            used = {annotation["category_id"] for annotation in content["annotations"]}
            above = {category.get("supercategory") for category in content["categories"]}
            content["categories"] = [  # Roboflow lists the data set's name as a class above the others
                c for c in content["categories"] if c["id"] in used or c["name"] not in above - {c.get("supercategory")}
            ]
        parts[part] = content
    return parts


def _locate_images(images: list[dict], json_file: Path, root: Path, files: list[Path]) -> None:
    """Make file names relative to `root`, as far as the files are found."""
    by_name, part = defaultdict(list), part_of(json_file.relative_to(root))
    for path in files:
        by_name[path.name].append(path)
    for image in images:
        name = PurePosixPath(image["file_name"].replace("\\", "/"))
        same, folders = by_name[name.name], [json_file.parent, json_file.parent / "images", root, root / "images"]
        near = [[folder / name] for folder in folders if folder / name in same]
        similar = [path for path in same if part_of(path.relative_to(root)) == part]
        if found := next((choice[0] for choice in (*near, similar, same) if len(choice) == 1), None):
            image["file_name"] = found.relative_to(root).as_posix()


def _divide(parts: dict[str, Any], seed: int) -> str:
    """Move images from "train" to "val" where that is missing; what there is then, in words."""
    how, whole = "", parts["train"]
    if "val" not in parts and len(whole["images"]) > 1:
        chosen = _draw_validation(whole, seed)
        how = f" ({VAL_SHARE:.0%} of all, drawn by seed {seed}: there is no folder or file for validation)"
        for part, is_val in (("train", False), ("val", True)):
            parts[part] = whole | {
                key: [entry for entry in whole[key] if (_hashable(entry.get(id_key)) in chosen) == is_val]
                for key, id_key in (("images", "id"), ("annotations", "image_id"))
            }
    counts = {p: f"{len(c['images'])} images with {len(c['annotations'])} objects" for p, c in parts.items()}
    text = f"{counts['train']} to train on, {counts.get('val', 'nothing')} to validate on{how}"
    if "test" in parts:
        text += f"; {counts['test']} of the test part are not used"
    names = [str(category.get("name")) for category in whole["categories"]]
    listed = ", ".join(names[:20]) + ", ..." * (len(names) > 20)
    return f"{text}\n  {len(names)} class{'es' * (len(names) > 1)}: {listed}"


def _hashable(id_: Any) -> Any:
    return repr(id_) if isinstance(id_, list | dict) else id_  # the check says what is wrong with it


def _draw_validation(lists: dict[str, list[dict]], seed: int) -> set[Any]:
    """Ids of images: a share of those with objects, at least one, and of those without."""
    classes: dict[Any, set] = {_hashable(image.get("id")): set() for image in lists["images"]}
    for annotation in lists["annotations"]:
        image_id, class_id = (_hashable(annotation.get(key)) for key in ("image_id", "category_id"))
        classes.setdefault(image_id, set()).add(class_id)
    left = Counter(class_id for of_image in classes.values() for class_id in of_image)
    chosen: set[Any] = set()
    ids = list(classes)
    order = [ids[k] for k in np.random.default_rng(seed).permutation(len(ids))]
    for group in [i for i in order if classes[i]], [i for i in order if not classes[i]]:
        wanted = round(VAL_SHARE * len(group)) or int(len(group) > 1 and not chosen)
        for image_id in group:
            if wanted and all(left[class_id] > 1 for class_id in classes[image_id]):
                chosen.add(image_id)
                left.subtract(classes[image_id])
                wanted -= 1
    return chosen
