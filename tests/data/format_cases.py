"""One COCO set (polygons or RLE, by `tiny_coco`) written in each format that `dvis train --data` reads."""

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
import tifffile
import yaml
from PIL import Image

from dvis_d2.data.annotations import to_mask


def stem_of(image):
    return Path(image["file_name"]).stem.removesuffix("_img")


def objects_of(json_file):
    """By the file name's stem: the objects as (class name, mask bool (h, w)), in order."""
    data = json.loads(Path(json_file).read_text())
    names = {c["id"]: c["name"] for c in data["categories"]}
    images = {i["id"]: i for i in data["images"]}
    found = {stem_of(i): [] for i in data["images"]}
    for a in data["annotations"]:
        image = images[a["image_id"]]
        mask = to_mask(a["segmentation"], (image["height"], image["width"]), "")
        found[stem_of(image)].append((names[a["category_id"]], mask))
    return found


def outline(mask):
    """The corners of a rectangular mask, [x, y, ...]."""
    (y0, *_, y1), (x0, *_, x1) = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(v) for v in (x0, y0, x1 + 1, y0, x1 + 1, y1 + 1, x0, y1 + 1)]


def labels_of(objects):
    return sum(((k + 1) * 7 * mask.astype(np.uint16) for k, (_, mask) in enumerate(objects)), np.uint16(0))


def each(coco, root, parts):
    """Stem, part and objects of every image; images 4 and 5 are of the second part, if there is one."""
    for k, (stem, objects) in enumerate(objects_of(coco[0]).items()):
        yield stem, parts[min(k // 4, len(parts) - 1)], objects, coco[1] / f"{stem}.png"


def place(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    return shutil.copy(source, target)


def save(array, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, photometric="minisblack") if path.suffix == ".tif" else Image.fromarray(array).save(
        path
    )


def label_folders(coco, root, parts, suffix=".tif"):
    for stem, part, objects, image in each(coco, root, parts):
        place(image, root / part / "images" / image.name)
        save(labels_of(objects), root / part / "masks" / (stem + suffix))


def label_folders_inside(coco, root, parts):
    for stem, part, objects, image in each(coco, root, parts):
        place(image, root / "images" / part / image.name)
        save(labels_of(objects).astype(np.uint8), root / "labels" / part / f"{stem}.png")


def cellpose(coco, root, parts):
    for stem, part, objects, image in each(coco, root, parts):
        place(image, root / part / f"{stem}_img.png")
        save(labels_of(objects), root / part / f"{stem}_masks.png")
        save(np.zeros((3, 8, 8), np.float32), root / part / f"{stem}_flows.tif")


def data_science_bowl(coco, root, parts):
    for stem, part, objects, image in each(coco, root, parts):
        place(image, root / part / stem / "images" / image.name)
        for k, (_, mask) in enumerate(objects):
            save(mask.astype(np.uint8) * 255, root / part / stem / "masks" / f"{k}_x.png")


def mask_folders(coco, root, parts):
    for stem, part, objects, image in each(coco, root, parts):
        place(image, root / part / "images" / image.name)
        for k, (_, mask) in enumerate(objects):
            save(mask, root / part / "masks" / stem / f"{k}.png")


def yolo(coco, root, parts, description=None):
    for stem, part, objects, image in each(coco, root, parts):
        place(image, root / "images" / part / image.name)
        lines = []
        for name, mask in objects:
            points = np.reshape(outline(mask), (-1, 2)) / mask.shape[::-1]
            lines.append(" ".join(map(str, [["green", "pink"].index(name), *points.ravel()])))
        path = root / "labels" / part / f"{stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n\n")
    content = {"path": "/content/set", "nc": 2, "names": ["green", "pink"]}
    content |= {part or "train": f"../images/{part}" for part in parts}
    (root / "data.yaml").write_text(yaml.safe_dump(content | (description or {})))


def labelme(coco, root, parts):
    for stem, part, objects, image in each(coco, root, parts):
        place(image, root / part / image.name)
        shapes = []
        for k, (name, mask) in enumerate(objects):
            points = np.reshape(outline(mask), (-1, 2)).tolist()
            shape = {"label": name, "points": points, "shape_type": "polygon", "group_id": None}
            if k == 0:
                shape |= {"points": points[::2], "shape_type": "rectangle"}
            elif int(stem) % 2:
                (x0, y0), _, (x1, y1), _ = points
                file = io.BytesIO()
                Image.fromarray(mask[y0:y1, x0:x1]).save(file, "PNG")
                encoded = base64.b64encode(file.getvalue()).decode()
                shape |= {"points": points[::2], "shape_type": "mask", "mask": encoded}
            shapes.append(shape)
        content = {"shapes": shapes, "imagePath": f"..\\elsewhere\\{image.name}", "imageData": None}
        (root / part / f"{stem}.json").write_text(json.dumps(content))


def coco_lists(coco, stems):
    data = json.loads(coco[0].read_text())
    images = [i for i in data["images"] if Path(i["file_name"]).stem in stems]
    chosen = {i["id"] for i in images}
    return data | {"images": images, "annotations": [a for a in data["annotations"] if a["image_id"] in chosen]}


def coco_files(coco, root, parts, name="{part}.json", images="images/{part}", prefix=""):
    """By default as CVAT and COCO have it; a pattern each for the JSON, the folder of images, and the names within."""
    stems = {part: [s for s, p, _, _ in each(coco, root, parts) if p == part] for part in parts}
    for part in parts:
        data = coco_lists(coco, stems[part])
        path = root / name.format(part=part or "default")
        path.parent.mkdir(parents=True, exist_ok=True)
        for image in data["images"]:
            place(coco[1] / image["file_name"], root / images.format(part=part) / image["file_name"])
            image["file_name"] = prefix + image["file_name"]
        path.write_text(json.dumps(data))


def roboflow(coco, root, parts):
    parts = tuple(part.replace("val", "valid") for part in parts)
    coco_files(coco, root, parts, "{part}/_annotations.coco.json", "{part}")
    for path in root.rglob("*.json"):
        data = json.loads(path.read_text())
        for category in data["categories"]:
            category["supercategory"] = "leaves"
        data["categories"].insert(0, {"id": 0, "name": "leaves", "supercategory": "none"})
        path.write_text(json.dumps(data))


def label_studio(coco, root, parts):
    """Names with a folder of the server, and annotations without what pycocotools needs."""
    coco_files(coco, root, parts, "result.json", "images", "..\\..\\media\\upload\\1\\")
    data = json.loads((root / "result.json").read_text())
    for annotation in data["annotations"]:
        del annotation["iscrowd"], annotation["area"]
    (root / "result.json").write_text(json.dumps(data))


def cvat(coco, root, parts):
    coco_files(coco, root, parts, "annotations/instances_{part}.json")
    (root / "annotations" / "captions_train.json").write_text('{"info": {}}')
