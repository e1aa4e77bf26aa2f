import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from dvis_d2.inference.pictures import draw_files, draw_sheet, find_images, write_picture


@pytest.fixture
def files(tiny_coco):
    return [str(tiny_coco[1] / f"{i}.png") for i in range(6)]


def test_paths_and_patterns_name_images(files, tiny_coco):
    folder = tiny_coco[1]
    assert find_images([files[5], f"{folder}/[01].png"]) == [files[5], files[0], files[1]]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_images([files[0], "nowhere/*.png"])


def test_one_picture_an_image_or_one_file(tiny_cfg, files, tmp_path):
    draw_files(tiny_cfg, files[:2], str(tmp_path / "a" / "b"))
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["0.png", "1.png"]
    draw_files(tiny_cfg, files[:1], str(tmp_path / "c" / "one.jpg"))
    assert (tmp_path / "c" / "one.jpg").is_file()
    draw_files(tiny_cfg, files[:1], str(tmp_path / "a"))
    assert (tmp_path / "a" / "0.png").is_file()


def test_a_picture_that_cannot_be_written_is_named(tmp_path):
    for name in ("a.pdf.what", "nowhere/a.png"):
        with pytest.raises(OSError, match=name):
            write_picture(str(tmp_path / name), np.zeros((4, 4, 3), np.uint8))


def test_pictures_keep_their_colors(tmp_path):
    write_picture(str(tmp_path / "red.png"), np.full((2, 2, 3), (255, 0, 0), np.uint8))
    assert cv2.imread(str(tmp_path / "red.png"))[0, 0].tolist() == [0, 0, 255]


def test_sheet_of_a_data_set_with_ground_truth(tiny_cfg):
    one, three = (draw_sheet(tiny_cfg, num_images) for num_images in (1, 3))
    assert three.shape[0] == 2 * one.shape[0] and three.shape[1] == one.shape[1]
    width = one.shape[1] // 2  # the second place is empty
    assert (one[:, width:] == 255).all() and not (three[: one.shape[0], width:] == 255).all()
    assert (three[one.shape[0] :, width:] == 255).all()


def test_sheet_without_ground_truth_has_one_tile_less(tiny_cfg, files):
    annotated = draw_sheet(tiny_cfg, 1)
    name = "tiny_without_annotations"
    DatasetCatalog.register(name, lambda: [{"file_name": files[0], "height": 64, "width": 64, "image_id": 1}])
    MetadataCatalog.get(name).thing_classes = ["green", "pink"]
    try:
        tiny_cfg.DATASETS.TEST = (name,)
        assert draw_sheet(tiny_cfg, 12).shape[1] * 6 == annotated.shape[1] * 5
    finally:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
