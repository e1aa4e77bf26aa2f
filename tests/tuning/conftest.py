import json

import pytest

from dvis_d2.tuning import CocoScorer


@pytest.fixture
def perfect(tiny_cfg, tiny_coco):
    """The ground truth of ``custom_val`` as detections in contiguous classes, one list an image, by image id."""
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
