import json
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest

from dvis_d2.data.shapes import draw_image
from dvis_d2.data.shapes_render import CLASS_NAMES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A folder with two pictures of four shapes and their annotations, drawn.json; and model.safetensors."""
    folder = tmp_path_factory.mktemp("drawn")
    images, annotations = [], []
    for number in (5, 6):
        options = {"num_objects": (4, 4), "bars": 0.0, "copies": 0.0, "texture": False, "min_visible": 0.9}
        image, masks, classes, _ = draw_image(np.random.default_rng(number), **options)
        cv2.imwrite(str(folder / f"{number}.png"), image[:, :, ::-1])
        images.append({"id": number, "file_name": f"{number}.png", "height": 128, "width": 128})
        for mask, kind in zip(masks, classes, strict=True):
            rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
            own = {"id": len(annotations) + 1, "image_id": number, "category_id": kind + 1, "iscrowd": 0}
            box, area = mask_util.toBbox(rle).tolist(), int(mask.sum())
            segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
            annotations.append(own | {"bbox": box, "area": area, "segmentation": segmentation})
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASS_NAMES, start=1)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "drawn.json").write_text(json.dumps(data))
    shutil.copy(ROOT / "models/shapes.safetensors", folder / "model.safetensors")
    return folder


@pytest.fixture
def explorer(drawn):
    from dvis_d2.explorer.session import Explorer, read_truth
    from dvis_d2.inference.sources import find_sources

    (drawn / "thresholds.yaml").unlink(missing_ok=True)
    found = Explorer(str(drawn / "model.safetensors"), find_sources([str(drawn / "drawn.json")])[0], device="cpu")
    found.truth = read_truth(str(drawn / "drawn.json"), found.class_names)
    return found


@pytest.fixture
def page(explorer):
    from dvis_d2.explorer.server import Page

    with Page(explorer) as served:
        thread = threading.Thread(target=served.run)
        thread.start()
        try:
            yield served
        finally:
            served.stop()
            thread.join(10)
