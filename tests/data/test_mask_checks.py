"""Each mask against its own annotation and its image: what exporters do wrong, made of sound annotations."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from dvis_d2.data import check_coco_json
from dvis_d2.data.mask_checks import examine_mask, explanations

HEIGHT, WIDTH = 80, 120
CORNERS = [(10, 16, 40, 56), (70, 5, 100, 45), (50, 50, 115, 75), (95, 55, 110, 76)]  # x0, y0, x1, y1


def scaled(box, x, y):
    return [box[0] * x, box[1] * y, box[2] * x, box[3] * y]


def polygon(x0, y0, x1, y1):
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def runs(mask, order="F"):
    flat = mask.ravel(order)
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def drawn(x0, y0, x1, y1):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def check(tmp_path):
    """Check two images with the same four rectangles, each annotation changed by a function of its corners."""
    for k in range(2):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"{k}.png")

    def run(change, *, every=1):
        images = [{"id": k, "file_name": f"{k}.png", "height": HEIGHT, "width": WIDTH} for k in range(2)]
        annotations = []
        for image in images:
            for x0, y0, x1, y1 in CORNERS:
                box, area = [x0, y0, x1 - x0, y1 - y0], (x1 - x0) * (y1 - y0)
                sound = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": 1, "iscrowd": 0}
                sound |= {"segmentation": [polygon(x0, y0, x1, y1)], "bbox": box, "area": area}
                changed = change(x0, y0, x1, y1) if len(annotations) % every == 0 else {}
                annotations.append(sound | changed)
        data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
        (tmp_path / "data.json").write_text(json.dumps(data))
        return check_coco_json(tmp_path / "data.json", tmp_path)

    return run


def test_sound_masks(check):
    for kind in (lambda *b: {}, lambda *b: {"segmentation": runs(drawn(*b))}):
        report = check(kind)
        assert not report.errors and not report.warnings, str(report)


SERIOUS = {
    "masks in 0..1": lambda *b: {"segmentation": [polygon(*scaled(b, 1 / WIDTH, 1 / HEIGHT))]},
    "masks in percent": lambda *b: {"segmentation": [polygon(*scaled(b, 100 / WIDTH, 100 / HEIGHT))]},
    "masks at another scale": lambda *b: {"segmentation": [polygon(*scaled(b, 0.5, 0.5))]},
    "masks with x and y exchanged": lambda *b: {"segmentation": [polygon(b[1], b[0], b[3], b[2])]},
    "RLE masks written row by row": lambda *b: {"segmentation": runs(drawn(*b), "C")},
    "inverted RLE masks": lambda *b: {"segmentation": runs(~drawn(*b))},
    "masks turned or mirrored": lambda *b: {"segmentation": [polygon(b[0], HEIGHT - b[3], b[2], HEIGHT - b[1])]},
    "masks that lie outside": lambda *b: {"segmentation": [polygon(b[0] + 500, b[1], b[2] + 500, b[3])]},
    "masks elsewhere than": lambda *b: {"segmentation": [polygon(1, 1, 9, 3)]},
    "masks smaller than a pixel": lambda *b: {"segmentation": [polygon(b[0], b[1], b[0] + 0.4, b[1] + 0.4)]},
}
DOUBTFUL = {
    "boxes written as corners": lambda *b: {"bbox": list(b)},
    "boxes given by their centers": lambda *b: {
        "bbox": [(b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0], b[3] - b[1]]
    },
    "boxes as fractions": lambda *b: {
        "bbox": scaled((b[0], b[1], b[2] - b[0], b[3] - b[1]), 1 / WIDTH, 1 / HEIGHT),
    },
    "boxes that do not fit": lambda *b: {"bbox": [b[0], b[1], 100, 90]},
    "areas that are not": lambda *b: {"area": 1.0},
    "holes drawn as polygons": lambda *b: {
        "segmentation": [polygon(*b), polygon(b[0] + 4, b[3] - 4, b[2] - 4, b[1] + 4)]
    },
    "pieces smaller than a pixel": lambda *b: {"segmentation": [polygon(*b), polygon(b[0], b[1], b[0] + 0.5, b[1])]},
    "pieces of less than three points": lambda *b: {"segmentation": [polygon(*b), [1, 1, 5, 5]]},
    "crowds among ordinary": lambda *b: {"iscrowd": 1, "segmentation": runs(drawn(*b))},
}


def cases(findings, kind):
    return next((found for what, found in findings.items() if what.startswith(kind)), [])


@pytest.mark.parametrize("kind", SERIOUS)
def test_what_makes_training_meaningless_is_an_error_if_it_is_common(check, kind):
    report = check(SERIOUS[kind])
    assert len(cases(report.errors, kind)) == 8, str(report)
    rare = check(SERIOUS[kind], every=8)
    assert len(cases(rare.warnings, kind)) == 1 and not rare.errors, str(rare)


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_what_concerns_less_than_the_mask_is_a_warning(check, kind):
    report = check(DOUBTFUL[kind], every=2)
    assert len(cases(report.warnings, kind)) == 4 and not report.errors, str(report)


def test_crowds_alone(check):
    assert len(cases(check(DOUBTFUL["crowds among ordinary"]).errors, "crowds alone")) == 8


def test_masks_that_occur_twice(check):
    report = check(lambda *b: {"segmentation": [polygon(*CORNERS[0])], "bbox": [10, 16, 30, 40], "area": 1200})
    assert len(cases(report.warnings, "masks that occur twice in an image")) == 6


def test_images_that_are_covered_by_their_masks(check):
    """As inverted masks do whose boxes were computed of them."""
    whole = {"bbox": [0, 0, WIDTH, HEIGHT], "area": HEIGHT * WIDTH * 0.9}
    report = check(lambda *b: {"segmentation": runs(~drawn(*b)), **whole})
    assert len(cases(report.warnings, "images that are covered")) == 2, str(report)
    columns = iter([0, 30, 60, 90] * 2)  # each pixel once, and nothing is left for the background

    def column(*_):
        x = next(columns)
        return {"segmentation": [polygon(x, 0, x + 30, HEIGHT)], "bbox": [x, 0, 30, HEIGHT], "area": 30 * HEIGHT}

    assert len(cases(check(column).warnings, "images that are covered")) == 2


def test_masks_and_boxes_at_half_scale(check):
    def half(x0, y0, x1, y1):
        corners = scaled((x0, y0, x1, y1), 0.5, 0.5)
        box = [corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]]
        return {"segmentation": [polygon(*corners)], "bbox": box, "area": box[2] * box[3]}

    report = check(half)
    assert cases(report.warnings, "masks in the upper left part") == ["48% of the width and 48% of the height at most"]


def test_area_and_box_of_pieces_and_a_slack_for_boxes_drawn_by_hand():
    shape, problems = examine_mask([polygon(0, 0, 4, 4), polygon(10, 10, 20, 30)], HEIGHT, WIDTH)
    assert (shape.box, shape.area) == ((0, 0, 20, 30), 216) and not any(problems.values())
    assert not explanations(shape, [-1, 2, 22, 27], HEIGHT, WIDTH)
    beyond, problems = examine_mask([polygon(100, 60, 140, 90)], HEIGHT, WIDTH)
    assert problems["masks that reach outside of the image"]
    assert not explanations(beyond, [100, 60, 20, 20], HEIGHT, WIDTH)  # the box was cut off at the image


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (polygon(1, 1, 5, 5), "is one list of numbers"),
        ([[1, 1], [5, 1], [5, 5]], "points as"),
        ([[[1, 1], [5, 1], [5, 5]]], "points as"),
        ([[[1, 1], [5, 1], [5, 5], [1, 5]]], "points as"),
        ([{"size": [2, 2], "counts": [4]}], "other things than lists"),
        ([None], "other things than lists"),
        ([[1, 1, 5, 5]], "less than three points"),
        ([[1, 1, 5, 5, 9, 9, 7]], "odd number"),
        ([[0.0, 0, 1, 1, 2, 0] * 200_000], "of 600,000 points"),
        ([[0, 0, 1e8, 1e8, 0, 1e8]], "outline"),
    ],
)
def test_malformed_polygons_are_described(segmentation, message):
    shape, problems = examine_mask(segmentation, HEIGHT, WIDTH)
    assert shape is None and message in problems["malformed polygons"]


@pytest.mark.parametrize("value", [None, "6", [6], {}, float("nan"), float("inf"), 10**400])
def test_values_that_are_no_numbers(value):
    for before in ([], [polygon(0, 0, 9, 9)]):  # also in a later piece
        _, problems = examine_mask([*before, [1, 2, 3, 4, 5, value]], HEIGHT, WIDTH)
        assert problems == {"polygons with values that are no finite numbers": True}


def test_a_cut_rle_is_refused_before_pycocotools_sees_it():
    rle = mask_util.encode(np.asfortranarray(drawn(*CORNERS[0]), dtype=np.uint8))
    _, problems = examine_mask({"size": rle["size"], "counts": rle["counts"].decode()[:-1]}, HEIGHT, WIDTH)
    assert "add up to" in problems["broken RLE masks"] or "no whole" in problems["broken RLE masks"]
