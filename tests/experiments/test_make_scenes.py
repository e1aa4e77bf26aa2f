import cv2
import numpy as np
import pytest

from dvis_d2.data import check_coco_json
from experiments import make_scenes
from experiments.make_scenes import CLASSES, MIN_VISIBLE, SIDE, draw_scene


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of discs, every class of its own color, and one of gray photographs."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, code in enumerate(CLASSES.values()):
        drawing = np.zeros((64, 64, 4), np.uint8)
        cv2.circle(drawing, (32, 32), 28, (0, 20 * number, 255, 255), -1)
        cv2.imwrite(str(folder / f"{code}.png"), drawing)
    cv2.imwrite(str(folder / "gray.jpg"), np.full((220, 300, 3), 100, np.uint8))
    return folder


@pytest.mark.parametrize("seed", range(5))
def test_masks_are_what_is_seen(pictures, seed):
    drawings = [cv2.imread(str(pictures / f"{code}.png"), cv2.IMREAD_UNCHANGED) for code in CLASSES.values()]
    gray = np.full((220, 300, 3), 100, np.uint8)
    image, masks, classes = draw_scene(np.random.default_rng(seed), drawings, [gray])
    assert len(masks) == len(classes) >= 1
    assert masks.sum(0).max() == 1  # nothing is in two objects
    for mask, class_id in zip(masks, classes, strict=True):
        inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5)), borderValue=0) > 0
        assert np.abs(image[inner].astype(int) - (0, 20 * class_id, 255)).max() <= 1
    nowhere = cv2.dilate(masks.any(0).astype(np.uint8), np.ones((5, 5))) == 0
    assert (image[nowhere] == 100).all()


def test_hidden_objects_are_none(pictures):
    """A disc that another hides would be an object that nobody sees."""
    drawings = [cv2.imread(str(pictures / f"{code}.png"), cv2.IMREAD_UNCHANGED) for code in CLASSES.values()]
    for seed in range(20):
        _, masks, _ = draw_scene(np.random.default_rng(seed), drawings, [np.zeros((192, 192, 3), np.uint8)])
        smallest_disc = np.pi * (28 * 28 / 64 / 2) ** 2
        whole = [mask for mask in masks if not (mask[[0, -1]].any() or mask[:, [0, -1]].any())]
        assert all(mask.sum() > 0.9 * MIN_VISIBLE * smallest_disc for mask in whole)


def test_the_set_is_sound_and_the_same_again(pictures, tmp_path):
    arguments = ["--pictograms", str(pictures), "--photographs", str(pictures), "--num", "4"]
    for name in ("one", "two"):
        make_scenes.main([*arguments, "--output", str(tmp_path / name)])
    with pytest.raises(SystemExit, match="exists and is not overwritten"):
        make_scenes.main([*arguments, "--output", str(tmp_path / "one")])
    report = check_coco_json(str(tmp_path / "one/annotations.json"))
    assert not report.errors
    images = [cv2.imread(str(tmp_path / name / "images/00003.png")) for name in ("one", "two")]
    assert images[0].shape == (SIDE, SIDE, 3)
    assert np.array_equal(*images)
    texts = [(tmp_path / name / "annotations.json").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1]


def test_missing_pictures_are_named(pictures, tmp_path):
    with pytest.raises(SystemExit, match=r"1f34e\.png"):
        make_scenes.main(
            ["--pictograms", str(tmp_path), "--photographs", str(pictures), "--num", "1", "--output", "new"]
        )
    with pytest.raises(SystemExit, match=r"has no \*\.jpg"):
        make_scenes.main(
            ["--pictograms", str(pictures), "--photographs", str(tmp_path), "--num", "1", "--output", "new"]
        )
