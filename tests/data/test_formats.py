import json

import cv2
import numpy as np
import pytest
from PIL import Image

from dvis_d2.data import check_coco_json
from dvis_d2.data.dataset_errors import FormatError
from dvis_d2.data.formats import convert_folder
from dvis_d2.data.mask_folders import count_seams, label_image_to_rle, read_labels
from tests.data import format_cases as cases

WITH_CLASSES = [cases.yolo, cases.labelme, cases.coco_files, cases.roboflow, cases.cvat]
WITHOUT = [cases.label_folders, cases.label_folders_inside, cases.cellpose, cases.data_science_bowl, cases.mask_folders]


def assert_same(found, expected, with_classes):
    assert sorted(found) == sorted(expected)
    for stem, objects in expected.items():
        want = {(name if with_classes else "object", mask.tobytes()) for name, mask in objects}
        assert {(name, mask.tobytes()) for name, mask in found[stem]} == want, stem


def read(done):
    """The objects of both parts, once the project's own check has found nothing."""
    parts = []
    for path in filter(None, (done.train_json, done.val_json)):
        report = check_coco_json(path, done.image_root)
        assert not report.errors and not report.warnings, str(report)
        parts.append(cases.objects_of(path))
    return parts


@pytest.mark.parametrize("write", WITH_CLASSES + WITHOUT, ids=lambda w: w.__name__)
def test_masks_and_parts_of_every_format_are_kept(write, tiny_coco, tmp_path):
    write(tiny_coco, tmp_path / "set", ("train", "val"))
    train, val = read(convert_folder(tmp_path / "set", tmp_path / "out"))
    assert sorted(train) == ["0", "1", "2", "3"] and sorted(val) == ["4", "5"]
    assert_same(train | val, cases.objects_of(tiny_coco[0]), write in WITH_CLASSES)


@pytest.mark.parametrize("write", [*WITH_CLASSES[:3], *WITHOUT, cases.label_studio], ids=lambda w: w.__name__)
def test_validation_is_drawn_where_there_is_none(write, tiny_coco, tmp_path):
    write(tiny_coco, tmp_path / "set", ("",))
    done = convert_folder(tmp_path / "set", tmp_path / "out", seed=1)
    train, val = read(done)
    assert len(train) == 5 and len(val) == 1 and "drawn by seed 1" in done.summary
    assert_same(train | val, cases.objects_of(tiny_coco[0]), write in [*WITH_CLASSES, cases.label_studio])
    again = convert_folder(tmp_path / "set", tmp_path / "other", seed=1)
    assert cases.objects_of(again.val_json).keys() == val.keys()
    others = [convert_folder(tmp_path / "set", tmp_path / f"{k}", seed=k).val_json for k in range(2, 6)]
    drawn = {tuple(cases.objects_of(path)) for path in others}
    assert len(drawn) > 1


def test_no_class_loses_its_only_training_image(tiny_coco, tmp_path):
    data = json.loads(tiny_coco[0].read_text())
    data["annotations"] = [a for a in data["annotations"] if a["category_id"] == 3 or a["image_id"] == 2]
    tiny_coco[0].write_text(json.dumps(data))
    for seed in range(8):
        done = convert_folder(tmp_path, tmp_path / f"out{seed}", seed=seed)
        assert "pink" in {name for objects in cases.objects_of(done.train_json).values() for name, _ in objects}


def test_the_split_is_kept_while_a_training_goes_on(tiny_coco, tmp_path):
    root, output = tmp_path / "set", tmp_path / "out"
    cases.label_folders(tiny_coco, root, ("",))
    first = convert_folder(root, output)
    content = (output / "data" / "train.json").read_bytes()
    assert convert_folder(root, output) == first and (output / "data" / "train.json").read_bytes() == content
    for kind in ("images", "masks"):
        (root / kind / ("5.png" if kind == "images" else "5.tif")).unlink()
    assert convert_folder(root, output, keep=True) == first
    assert (output / "data" / "train.json").read_bytes() == content
    convert_folder(root, output)
    assert len(json.loads((output / "data" / "train.json").read_text())["images"]) == 4


def test_a_folder_that_holds_its_own_trainings_is_read_without_them(tiny_coco, tmp_path):
    cases.coco_files(tiny_coco, tmp_path / "set", ("",), "all.json")
    for name in ("one", "two"):
        output = tmp_path / "set" / "output" / name
        assert len(read(convert_folder(tmp_path / "set", output))[0]) == 5
        Image.new("RGB", (8, 8)).save(output / "sheet.png")


@pytest.mark.parametrize("name", ["train.json", "val.json"])
def test_annotations_of_the_users_are_not_overwritten(name, tiny_coco, tmp_path):
    own = tmp_path / "data" / name  # where a training into the current folder would put its own
    own.parent.mkdir()
    own.write_text(tiny_coco[0].read_text())
    with pytest.raises(FormatError, match="overwritten"):
        convert_folder(tiny_coco[0].parent, tmp_path)
    assert own.read_text() == tiny_coco[0].read_text() and [p.name for p in own.parent.iterdir()] == [name]


@pytest.mark.parametrize("inside", [".", "images/val"])
def test_trainings_and_data_are_kept_apart(inside, tiny_coco, tmp_path):
    """A folder with a training in it is taken for one, and left out of the data."""
    source = tmp_path / "set"
    cases.coco_files(tiny_coco, source, ("train", "val"), "annotations.json")
    before = sorted(source.rglob("*"))
    with pytest.raises(FormatError, match=r"holds files of the data.*\n.*another --output"):
        convert_folder(source, source / inside)
    assert sorted(source.rglob("*")) == before
    convert_folder(source, tmp_path / "run")
    with pytest.raises(FormatError, match=r"run is the folder of a training, as data/.lock"):
        convert_folder(tmp_path / "run", tmp_path / "other")


def test_a_test_part_is_left_alone(tiny_coco, tmp_path):
    cases.label_folders(tiny_coco, tmp_path / "set", ("train", "test"))
    done = convert_folder(tmp_path / "set", tmp_path / "out")
    train, val = read(done)
    assert sorted(train | val) == ["0", "1", "2", "3"] and "2 images with 4 objects of the test part" in done.summary


def test_one_of_several_formats_can_be_named(tiny_coco, tmp_path):
    root = tmp_path / "set"
    cases.yolo(tiny_coco, root, ("train", "val"))
    cases.coco_files(tiny_coco, root, ("",), "all.json", "images")
    with pytest.raises(FormatError, match="COCO JSON and YOLO outlines"):
        convert_folder(root, tmp_path / "out")
    assert len(read(convert_folder(root / "data.yaml", tmp_path / "yolo"))[0]) == 4  # train/ and val/
    assert len(read(convert_folder(root / "all.json", tmp_path / "coco"))[0]) == 5


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16])
def test_label_images_by_hand(dtype):
    labels = np.array([[0, 3, 3], [9, 0, 3]], dtype=dtype)
    rles = label_image_to_rle(labels)
    assert [cases.to_mask(rle, (2, 3), "").tolist() for rle in rles] == [
        [[False, True, True], [False, False, True]],
        [[False, False, False], [True, False, False]],
    ]
    assert len(label_image_to_rle(np.ones((2, 2), dtype))) == 1 and label_image_to_rle(labels * 0) == []


def no_mask(root):
    (root / "masks" / "3.tif").unlink()
    return "images without masks.*3.png"


def other_size(root):
    cases.save(np.ones((32, 64), np.uint8), root / "masks" / "3.tif")
    return r"3.tif is 64 x 32 px, .*3.png 64 x 64"


def floats(root):
    cases.save(np.ones((64, 64), np.float32), root / "masks" / "3.tif")
    return "3.tif is float32"


def negative(root):
    cases.save(-np.ones((64, 64), np.int16), root / "masks" / "3.tif")
    return "3.tif is int16.* from -1"


def colors(root):
    cases.save(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), root / "masks" / "3.tif")
    return r"3.tif is uint8 \(64, 64, 3\)"


def damaged(root):
    (root / "masks" / "3.tif").write_bytes(b"II*")
    return "3.tif cannot be read"


def damaged_image(root):
    (root / "images" / "3.png").write_bytes(b"\x89PNG")
    return "3.png cannot be read"


def foreground_only(root):
    for path in (root / "masks").iterdir():
        cases.save((np.indices((64, 64)).sum(axis=0) // 16 % 2 * 255).astype(np.uint8), path)
    return "masks of foreground"


def blurred(root):
    for path in (root / "masks").iterdir():
        cases.save(cv2.GaussianBlur(read_labels(path).astype(np.uint16) * 9, (5, 5), 0), path)
    return "thin seams of others"


def beyond_int64(root):
    cases.save(np.eye(64, dtype=np.uint64) * 2**63, root / "masks" / "3.tif")
    return "3.tif is uint64"


def twin(root):
    image = next((root / "images").iterdir())
    Image.open(image).save(image.with_suffix(".bmp"))
    return f"images without masks.*{image.stem}"


def nothing(root):
    for path in (root / "masks").iterdir():
        path.unlink()
    return "6 images, and nothing that says"


@pytest.mark.parametrize(
    "change",
    [no_mask, other_size, floats, negative, colors, damaged, damaged_image, foreground_only, twin, nothing, blurred]
    + [beyond_int64],
    ids=lambda c: c.__name__,
)
def test_unfit_label_images_are_named(change, tiny_coco, tmp_path):
    cases.label_folders(tiny_coco, tmp_path / "set", ("",))
    message = change(tmp_path / "set")
    with pytest.raises(FormatError, match=message) as caught:
        convert_folder(tmp_path / "set", tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 2 and not (tmp_path / "out" / "data" / "train.json").exists()


def test_small_objects_are_no_seams():
    labels = np.zeros((20, 20), np.int64)
    labels[2, 2], labels[10:12, 10:12], labels[5, 5:9] = 1, 2, 3  # specks apart from each other
    assert count_seams(labels) == 0
    labels[5, 9:12] = 4  # in a row with another
    assert count_seams(labels) == 2
    labels[4:7, 4:13] = np.where(labels[4:7, 4:13] > 0, labels[4:7, 4:13], 5)
    assert count_seams(np.kron(labels, np.ones((3, 3), np.int64))) == 0


def test_binary_masks_may_be_called_like_their_image(tiny_coco, tmp_path):
    root = tmp_path / "set"
    cases.data_science_bowl(tiny_coco, root, ("",))
    (root / "3/masks/0_x.png").rename(root / "3/masks/3.png")
    done = convert_folder(root, tmp_path / "out")
    assert "binary masks" in done.summary and len(read(done)[0]) == 5


def test_links_to_folders_are_followed_once(tiny_coco, tmp_path):
    cases.label_folders(tiny_coco, tmp_path / "set", ("",))
    (tmp_path / "set/images").rename(tmp_path / "elsewhere")
    (tmp_path / "set/images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/images/again").symlink_to(tmp_path / "set")
    assert len(read(convert_folder(tmp_path / "set", tmp_path / "out"))[0]) == 5


@pytest.mark.parametrize("value", [[1], {"a": 1}])
@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_ids_of_any_kind_are_left_to_the_check(key, value, tiny_coco, tmp_path):
    cases.cvat(tiny_coco, tmp_path / "set", ("",))
    path = tmp_path / "set/annotations/instances_default.json"
    data = json.loads(path.read_text())
    data["annotations"][0][key] = value
    path.write_text(json.dumps(data))
    done = convert_folder(tmp_path / "set", tmp_path / "out")
    assert any("that does not exist" in what for what in check_coco_json(done.train_json, done.image_root).errors)


@pytest.mark.parametrize("content", [b"", b"image"])
def test_folders_without_data(content, tmp_path):
    (tmp_path / "set").mkdir()
    if content:
        Image.new("RGB", (8, 8)).save(tmp_path / "set" / "a.jpg")
    with pytest.raises(FormatError, match=f"{len(content[:1])} images, and nothing.*\nexpected: COCO JSON"):
        convert_folder(tmp_path / "set", tmp_path / "out")
    with pytest.raises(FormatError, match="there is no folder .*nowhere"):
        convert_folder(tmp_path / "nowhere", tmp_path / "out")


def test_several_coco_files_for_one_purpose(tiny_coco, tmp_path):
    cases.coco_files(tiny_coco, tmp_path / "set", ("train", "val"), "{part}.json", "images")
    (tmp_path / "set" / "train.json").rename(tmp_path / "set" / "val_2.json")
    with pytest.raises(FormatError, match="several COCO files.*val.json, .*val_2.json"):
        convert_folder(tmp_path / "set", tmp_path / "out")


def test_what_is_wrong_inside_of_a_coco_file_is_left_to_the_check(tiny_coco, tmp_path):
    root = tmp_path / "set"
    cases.coco_files(tiny_coco, root, ("",), "all.json")
    data = json.loads((root / "all.json").read_text())
    data["annotations"][0]["segmentation"] = [[1, 2]]
    data["annotations"][2]["category_id"] = 99
    (root / "all.json").write_text(json.dumps(data))
    done = convert_folder(root, tmp_path / "out")
    text = "".join(str(check_coco_json(path, done.image_root)) for path in (done.train_json, done.val_json))
    assert "ERROR: malformed polygons (1)" in text and "category_id 99" in text


def test_folders_above_the_data_say_nothing_about_it(tiny_coco, tmp_path):
    root = tmp_path / "labels" / "val" / "set"
    cases.label_folders(tiny_coco, root, ("",))
    (root / "readme.txt").write_text("nothing")
    assert "label images" in convert_folder(root, tmp_path / "out").summary


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_coco_lists_that_are_none(key, tmp_path):
    content = {"images": [], "annotations": [], "categories": []} | {key: None}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(FormatError, match=f'"{key}" of .*a.json is no list of objects\n'):
        convert_folder(tmp_path, tmp_path / "out")
