"""The models that come with the package."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import dvis_d2
from dvis_d2.data.shapes import draw_image

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["nuclei", "shapes"])
def test_a_model_is_small_and_carries_all_that_it_needs(name):
    path = ROOT / "models" / f"{name}.safetensors"
    assert path.stat().st_size < 12e6
    with safe_open(path, "pt") as file:
        info = json.loads(file.metadata()["dvis"])
    assert (
        info["class_names"]
        and info["statistics"]["num_objects"] > 1000
        and "/" not in info["config"].split("SOLVER")[0]
    )


def test_the_shapes_model_finds_drawn_shapes_in_their_classes():
    options = {"num_objects": (4, 4), "bars": 0.0, "copies": 0.0, "texture": False, "min_visible": 0.9}
    image, masks, classes, _ = draw_image(np.random.default_rng(5), **options)
    result = dvis_d2.load("shapes").predict(image)
    for mask, class_id in zip(masks, classes, strict=True):
        found = [k for k in range(len(result)) if np.sum(result.masks[k] & mask) > 0.8 * np.sum(result.masks[k] | mask)]
        assert class_id in result.classes[found]
