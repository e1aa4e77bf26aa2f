"""Shapes of some classes only, and that the choice changed nothing in the sets that were drawn before it."""

import json

import numpy as np
import pytest
from detectron2.data import MetadataCatalog

from dvis_d2.data import PRESETS, write_shapes
from dvis_d2.data.builtin import ShapesSplit, load_shapes
from dvis_d2.data.shapes import draw_image
from dvis_d2.data.shapes_render import CLASS_NAMES


def draw(index, **options):
    return draw_image(np.random.default_rng(np.random.SeedSequence([7, index])), **options)


# classes and areas that were drawn before there was a choice of classes
DRAWN_BEFORE = [
    ("shapes", 0, [4, 4, 4], [632, 409, 628]),
    ("shapes", 1, [1, 3, 3, 2, 4, 2], [622, 270, 808, 434, 572, 163]),
    ("shapes_easy", 0, [4, 4], [288, 309]),
    ("shapes_easy", 1, [2, 2, 2], [501, 480, 471]),
    ("shapes_crowd", 0, [4, 4, 0, 2, 4, 1, 1, 4, 1, 0], [273, 245, 481, 568, 358, 405, 1183, 570, 638, 1769]),
]


@pytest.mark.parametrize("preset, index, classes, areas", DRAWN_BEFORE)
def test_sets_of_all_classes_are_what_they_were(preset, index, classes, areas):
    image, masks, drawn, attributes = draw(index, **PRESETS[preset])
    assert drawn == classes
    assert [int(mask.sum()) for mask in masks] == areas
    again, same_masks, _, same = draw(index, **PRESETS[preset], class_names=CLASS_NAMES)
    assert np.array_equal(image, again) and np.array_equal(masks, same_masks) and attributes == same


def test_a_folder_drawn_before_is_still_the_same_set(tmp_path):
    split = ShapesSplit("shapes_easy", 2, 9)
    annotations = write_shapes(tmp_path / "set", num_images=2, seed=9, progress=False, **PRESETS["shapes_easy"])
    options = json.loads(annotations.read_text())["info"]["options"]
    assert options == json.loads(json.dumps(PRESETS["shapes_easy"]))
    load_shapes("one", split, tmp_path / "one")
    assert (tmp_path / "one" / "annotations.json").read_bytes() == annotations.read_bytes()
    MetadataCatalog.pop("one")
    # the info is compared, so this would raise
    write_shapes(tmp_path / "one", num_images=2, seed=9, progress=False, **PRESETS["shapes_easy"])


@pytest.mark.parametrize("names", [(), ("disc", "hexagon")])
def test_unknown_classes_are_named(names):
    with pytest.raises(ValueError, match="give some of disc, square, triangle, ring, star"):
        draw(0, class_names=names)
