"""Results in other tools: the blocks of docs/guide/deploy.md as they stand there, where the tool is installed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dvis_d2

from .inference.test_result import box, make_result, ring

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/guide/deploy.md"


def run_block(word, **names):
    """Run the page's Python block with the word; all names that there are then."""
    blocks = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if word in block)
    exec(compile(block, f"{PAGE.name}, {word}", "exec"), names)
    return names


def some_objects():
    """A hole, two that overlap, two that touch the image's borders, one of them a single pixel."""
    corner, bottom = box(11, 0, 12, 1), box(0, 7, 5, 10)
    return make_result([ring(), box(7, 6, 11, 9), corner, bottom], classes=[0, 1, 1, 0])


@pytest.mark.parametrize("size", [(10, 12), (97, 1009)])
def test_fiftyone_draws_the_same_pixels(size):
    fo = pytest.importorskip("fiftyone")
    rng = np.random.default_rng(0)
    starts, sides = rng.integers(0, np.array(size) - 5, (40, 2)), rng.integers(1, 6, (40, 2))
    boxes = np.concatenate([starts, starts + sides], axis=1)
    masks = [box(x0, y0, x1, y1, size) & (rng.random(size) < 0.7) for y0, x0, y1, x1 in boxes]
    masks = [mask for mask in masks if mask.any()]
    result = make_result([*masks, np.ones(size, bool)], classes=[1] * len(masks) + [0])
    found = run_block("fiftyone", result=result)["found"]
    found = fo.Detections.from_dict(found.to_dict())  # as its database keeps them
    assert [one.label for one in found.detections] == result.names
    assert [one.confidence for one in found.detections] == result.scores.tolist()
    for one, mask in zip(found.detections, result.masks, strict=True):
        drawn = one.to_segmentation(frame_size=size[::-1]).mask
        assert np.array_equal(drawn > 0, mask)


def test_napari_shows_the_label_of_every_pixel_and_its_row():
    components = pytest.importorskip("napari.components")
    result, viewer = some_objects(), components.ViewerModel()
    viewer.add_image(result.image)
    run_block("viewer", result=result, viewer=viewer)
    labels = viewer.layers[-1]
    shown = [[labels.get_value((y, x), world=True) for x in range(12)] for y in range(10)]
    assert np.array_equal(shown, result.label_image()) and labels.data.shape == result.image.shape[:2]
    for label, name in enumerate(result.names, start=1):
        (y, x), *_ = np.argwhere(labels.data == label)
        assert f"label: {label}, class: {name}" in labels.get_status((y, x), world=True)["value"]


def test_qupaths_package_reads_the_outlines_that_it_traces_itself():
    objects = pytest.importorskip("qubalab.objects", exc_type=ImportError)
    shapely = pytest.importorskip("shapely")
    result = some_objects()
    read = objects.geojson_features_from_string(json.dumps(result.to_geojson()))
    features = [objects.ImageFeature.create_from_feature(feature) for feature in read]
    for feature, mask, name, score in zip(features, result.masks, result.names, result.scores, strict=True):
        (own,) = objects.ImageFeature.create_from_label_image(mask)
        outline = shapely.geometry.shape(feature.geometry)
        assert outline.is_valid and outline.equals(shapely.geometry.shape(own.geometry)) and outline.area == mask.sum()
        assert feature.is_detection and feature.classification.names == (name,)
        assert feature.measurements == {"score": pytest.approx(score, abs=1e-6)}


def test_sahi_finds_the_models_masks_in_one_slice_and_in_many():
    predict = pytest.importorskip("sahi.predict")
    model = dvis_d2.load("nuclei", device="cpu")
    path = ROOT / "data/nuclei/images/094afe36759e7daffe12188ab5987581d405b06720f1d5acf3f2614f404df380.png"
    gray = np.asarray(Image.open(path).convert("RGB"))[:130, :160]
    image = (gray * [1.0, 0.6, 0.3]).astype(np.uint8)  # so that red and blue cannot change places
    expected = model.predict(image)
    names = run_block("sahi", model=model, image=image)
    found = predict.get_prediction(image, names["adapter"]).object_prediction_list
    assert len(found) == len(expected) > 5
    for k, one in enumerate(found):
        x0, y0, x1, y1 = expected.masks.boxes[k]
        assert np.array_equal(one.mask.bool_mask, expected.masks[k])
        assert one.bbox.to_xyxy() == [x0, y0, x1 - 1, y1 - 1]  # SAHI's boxes end on the last pixel
        assert one.score.value == pytest.approx(expected.scores[k], abs=1e-4) and one.category.name == "nucleus"
    sliced = predict.get_sliced_prediction(image, names["adapter"], slice_height=96, slice_width=96)
    for found in (names["found"], sliced):
        inside = np.any([one.mask.bool_mask for one in found.object_prediction_list], axis=0)
        everywhere = expected.label_image() > 0
        assert (inside & everywhere).sum() / (inside | everywhere).sum() > 0.8
        assert abs(len(found.object_prediction_list) - len(expected)) <= 3
