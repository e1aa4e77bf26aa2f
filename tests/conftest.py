import importlib.util
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def stats():
    """The module tools/stats.py, by its path: other packages bring a `tools` too."""
    spec = importlib.util.spec_from_file_location("dvis_d2_stats", ROOT / "tools" / "stats.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True, scope="session")
def few_threads():
    """Tiny tensors: more threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def datasets_in_tmp(tmp_path_factory, monkeypatch):
    """No test writes into the user's data folder."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path_factory.getbasetemp() / "datasets"))


@pytest.fixture
def tiny_coco(tmp_path):
    """A COCO-format set of 6 images, 64 x 64, two classes with ids 3 and 7, polygons and RLE mixed.

    Returns:
        (path of the JSON, image folder)
    """
    from pycocotools import mask as mask_util

    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    images, annotations = [], []
    for i in range(6):
        image = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        for k, category in enumerate((3, 7)):
            x, y, side = (
                4 + 28 * k + int(rng.integers(6)),
                int(rng.integers(4, 30)),
                int(rng.integers(14, 24)),
            )
            image[y : y + side, x : x + side] = (40, 220, 90) if category == 3 else (210, 60, 200)
            mask = np.zeros((64, 64), np.uint8, order="F")
            mask[y : y + side, x : x + side] = 1
            x1, y1 = min(x + side, 64), min(y + side, 64)
            rle = mask_util.encode(mask)
            rle["counts"] = rle["counts"].decode()
            polygon = [[x, y, x1, y, x1, y1, x, y1]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": category,
                    "bbox": [x, y, x1 - x, y1 - y],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": rle if i % 2 else polygon,
                }
            )
        cv2.imwrite(str(folder / f"{i}.png"), image)
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 64, "width": 64})
    categories = [{"id": 3, "name": "green"}, {"id": 7, "name": "pink"}]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path, folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """A folder with two pictures of four shapes and their annotations, drawn.json; and model.safetensors."""
    folder = tmp_path_factory.mktemp("drawn")
    import pycocotools.mask as mask_util

    from dvis_d2.data.shapes import draw_image
    from dvis_d2.data.shapes_render import CLASS_NAMES

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
def tiny_args(tiny_coco):
    """Command-line arguments of a model that trains on ``tiny_coco`` in seconds, in float32, without workers."""
    json_file, folder = map(str, tiny_coco)
    options = """
        MODEL.DEVICE cpu MODEL.RESNETS.STEM_OUT_CHANNELS 8 MODEL.RESNETS.RES2_OUT_CHANNELS 8
        MODEL.FPN.OUT_CHANNELS 16 MODEL.LABEL_MAP_HEAD.CONV_DIM 16 MODEL.ROI_BOX_HEAD.CONV_DIM 16
        MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_MASK_HEAD.CONV_DIM 16 INPUT.MIN_SIZE_TRAIN (64,)
        INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2 SOLVER.WARMUP_ITERS 0 SOLVER.AMP.ENABLED False
        SOLVER.MAX_ITER 4 SOLVER.CHECKPOINT_PERIOD 2 VIS_PERIOD 0 DATALOADER.NUM_WORKERS 0
    """.split()
    data = ["--train-json", json_file, "--train-images", folder, "--val-json", json_file, "--val-images", folder]
    return ["--config-file", str(ROOT / "configs/shapes/Base-shapes.yaml"), *data, *options]


@pytest.fixture
def tiny_cfg(tiny_args, tmp_path):
    """The unfrozen config of ``tiny_args``."""
    from dvis_d2.engine import argument_parser, setup_cfg

    cfg = setup_cfg(argument_parser().parse_args(tiny_args)).clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(tmp_path / "output")
    return cfg


@pytest.fixture
def untrained_cfg(tiny_cfg, tmp_path):
    """``tiny_cfg`` with the stored weights of an untrained network."""
    from dvis_d2.checkpoint import DVISCheckpointer, checkpoint_info
    from dvis_d2.engine import Trainer

    model = Trainer.build_model(tiny_cfg)
    DVISCheckpointer(model, str(tmp_path), info=checkpoint_info(tiny_cfg)).save("model_final")
    tiny_cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    return tiny_cfg


@pytest.fixture
def perfect(tiny_cfg, tiny_coco):
    """The ground truth of ``custom_val`` as detections in contiguous classes, one list an image, by image id."""
    from dvis_d2.tuning import CocoScorer

    data = json.loads(tiny_coco[0].read_text())
    truth = CocoScorer("custom_val").truth
    detections = {image["id"]: [] for image in data["images"]}
    for a in data["annotations"]:
        detections[a["image_id"]].append(
            {
                "image_id": a["image_id"],
                "category_id": {3: 0, 7: 1}[a["category_id"]],
                "segmentation": truth.annToRLE(a),
                "score": 0.5,
            }
        )
    return detections
