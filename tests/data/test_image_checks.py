import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from dvis_d2.data import check_coco_json
from dvis_d2.data.image_checks import find_root, leads_out

SQUARE = [3, 2, 9, 2, 9, 6, 3, 6]


@pytest.fixture
def check(tmp_path):
    """Check a file in tmp_path, whose images are in tmp_path/images, with these names."""
    (tmp_path / "images").mkdir()

    def run(*names, size=(20, 30), folder="images", segmentation=(SQUARE,)):
        sound = {"iscrowd": 0, "area": 24, "bbox": [3, 2, 6, 4], "category_id": 1, "segmentation": segmentation}
        data = {
            "images": [{"id": k, "file_name": n, "height": size[0], "width": size[1]} for k, n in enumerate(names, 1)],
            "annotations": [{"id": k, "image_id": k, **sound} for k in range(1, len(names) + 1)],
            "categories": [{"id": 1, "name": "a"}],
        }
        (tmp_path / "data.json").write_text(json.dumps(data))
        return check_coco_json(tmp_path / "data.json", tmp_path / folder if folder else None)

    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a b.png")
    return run


@pytest.mark.parametrize("folder", ["images", "", None])
def test_names_with_the_folder_in_front(check, folder, tmp_path):
    report = check("images/a b.png", folder=folder)
    assert not report.errors and report.image_root == str(tmp_path), str(report)


@pytest.mark.parametrize("name", ["images\\a b.png", "a%20b.png", "old/place/a b.png", "C:\\old\\a b.png"])
def test_where_a_missing_file_is(check, name):
    report = check(name)
    ((what, (example,)),) = report.errors.items()
    assert "that are not in" in what and example.endswith('is there as "a b.png"')


def test_names_do_not_lead_out_of_the_folder(check, tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "other.png")
    for name in ("../other.png", str(tmp_path / "other.png"), "../images/../other.png"):
        assert "image files outside of the image folder" in check("a b.png", name).errors
        assert leads_out(tmp_path / "images", name)
    assert not check("../images/a b.png", str(tmp_path / "images" / "a b.png")).errors
    assert not leads_out("/", "/anywhere/a.png")
    assert not leads_out(tmp_path / "images", "..a.png")


def test_the_root_may_be_given_on_purpose(check, tmp_path):
    assert not check(str(tmp_path / "images" / "a b.png"), folder="/").errors


def test_the_first_folder_with_one_of_the_images(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "b.png").touch()
    assert find_root(tmp_path / "x.json", None, ["a.png", "b.png"]) == tmp_path / "images"
    assert find_root(tmp_path / "x.json", None, ["a.png"]) == tmp_path


def test_files_that_are_cut_off(check, tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    for name in ("a.jpg", "a.png", "a.tif"):
        path = tmp_path / "images" / name
        Image.fromarray(picture).save(path)
        assert not check(name).errors
        path.write_bytes(path.read_bytes()[:-400])
        assert "image files that cannot be read" in check(name).errors


def test_pages_and_depth_are_warnings(check, tmp_path):
    tifffile.imwrite(tmp_path / "images" / "a.tif", np.zeros((3, 20, 30), np.uint8), photometric="minisblack")
    tifffile.imwrite(tmp_path / "images" / "b.tif", np.zeros((20, 30), np.float32))
    report = check("a.tif", "b.tif")
    assert not report.errors
    assert report.warnings["images of several pages or frames"] == ["image 1 (a.tif) has 3"]
    assert report.warnings["images of more than 8 bits"] == ["image 2 (b.tif) is float32"]


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_masks_on_the_pixels_before_they_are_turned(check, tmp_path, orientation):
    picture = np.full((40, 40, 3), 60, np.uint8)
    picture[2:6, 3:9] = 200
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(picture).save(tmp_path / "images" / "a.png", exif=exif)
    kind = "images whose masks seem to lie on the pixels before they are turned"
    assert kind in check("a.png", size=(40, 40)).warnings
    with Image.open(tmp_path / "images" / "a.png") as stored:
        upright = np.asarray(stored.transpose(TURN[orientation]))[..., 0] > 100
    rows, columns = np.nonzero(upright)
    x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    seen = list(map(int, [x0, y0, x1, y0, x1, y1, x0, y1]))
    assert kind not in check("a.png", size=(40, 40), segmentation=[seen]).warnings


@pytest.mark.parametrize("mask", [[5, 6], {"size": [20, 30], "counts": [5, 5]}, None, [[1, 2, 3, "4", 5, 6]], [{}] * 6])
def test_a_broken_mask_is_not_blamed_on_a_turned_image(check, tmp_path, mask):
    exif = Image.Exif()
    exif[274] = 3
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a.jpg", exif=exif)
    errors = check("a.jpg", segmentation=mask).errors
    assert len(errors) == 1 and "image files that cannot be read" not in errors


TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize("orientation", [0, 9])
def test_orientations_that_do_not_exist_are_upright(check, tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a.jpg", exif=exif)
    assert not check("a.jpg").errors


def test_a_size_from_before_turning(check, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a.jpg", exif=exif)
    (example,) = check("a.jpg").errors["images of another size than the annotations say"]
    assert "as before it is turned by its orientation, 6" in example
