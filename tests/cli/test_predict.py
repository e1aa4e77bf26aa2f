"""`dvis predict` around a network that finds what is bright."""

import csv
import json

import cv2
import numpy as np
import tifffile
from PIL import Image
from pycocotools.coco import COCO

from dvis_d2.data import check_coco_json
from dvis_d2.inference.writers import FORMATS

from .bright import TWO, files, picture, run, write_video


def test_label_images_by_default_in_a_folder_that_holds_nothing_else(images, model, tmp_path):
    out = tmp_path / "out"
    assert "3 objects in 3 images" in run(images, "-o", out)
    assert files(out) == ["labels/a.tif", "labels/b.tif", "labels/none.tif"]
    labels = tifffile.imread(out / "labels/a.tif")
    assert labels.dtype == np.uint16 and labels.shape == (48, 64)
    assert (labels[3:8, 2:7] == 1).all() and (labels[10:30, 20:40] == 2).all() and (labels > 0).sum() == 425


def test_every_form_is_written_and_read_back(images, model, tmp_path):
    out = tmp_path / "out"
    run(images, "-o", out, *(word for form in FORMATS for word in ("--save", form)))
    each = [f"{f}/{n}.{e}" for f, e in (("labels", "tif"), ("png", "png"), ("overlay", "png")) for n in ("a", "none")]
    each += ["panel/b.png", "geojson/b.geojson", "images/b.png", "masks/a/0001.png", "masks/a/0002.png"]
    assert set(each) < set(files(out)) and "masks/none/0001.png" not in files(out)
    assert np.array_equal(cv2.imread(str(out / "png/a.png"), -1), tifffile.imread(out / "labels/a.tif"))
    assert cv2.imread(str(out / "masks/a/0002.png"), 0)[20, 30] == 255
    features = json.loads((out / "geojson/a.geojson").read_text())["features"]
    assert [f["properties"]["classification"]["name"] for f in features] == ["small", "big"]
    rows = list(csv.DictReader((out / "measurements.csv").open()))
    assert [(r["image"], r["label"], r["area"]) for r in rows] == [
        (str(images / "a.png"), "1", "25"),
        (str(images / "a.png"), "2", "400"),
        (str(images / "b.png"), "1", "25"),
    ]
    report = check_coco_json(str(out / "dataset.json"), str(out / "images"))
    assert not report.errors and list(report.warnings) == ["images without annotations"]  # none.png
    truth = COCO(str(out / "dataset.json"))
    assert [image["file_name"] for image in truth.dataset["images"]] == ["a.png", "b.png", "none.png"]
    assert sorted(a["area"] for a in truth.loadRes(str(out / "results.json")).anns.values()) == [25, 25, 400]


def test_nothing_found_makes_empty_tables(images, model, tmp_path):
    run(images / "none.png", "-o", tmp_path / "out", "--save", "csv", "--save", "results", "--save", "coco")
    assert json.loads((tmp_path / "out/results.json").read_text()) == []
    assert json.loads((tmp_path / "out/dataset.json").read_text())["annotations"] == []
    assert list(csv.DictReader((tmp_path / "out/measurements.csv").open())) == []


def test_a_coco_file_gives_ids_and_categories(images, model, tmp_path):
    data = {"images": [{"id": 70, "file_name": "b.png"}, {"id": 5, "file_name": "a.png"}]}
    data["categories"] = [{"id": 9, "name": "big"}, {"id": 2, "name": "small"}]
    (images / "test.json").write_text(json.dumps(data))
    run(images / "test.json", "-o", tmp_path / "out", "--save", "results")
    rows = json.loads((tmp_path / "out/results.json").read_text())
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(70, 2), (5, 2), (5, 9)]
    data["categories"] = data["categories"][:1]
    (images / "test.json").write_text(json.dumps(data))
    assert "small" in run(images / "test.json", "-o", tmp_path / "other", code=2) and not (tmp_path / "other").exists()


def test_a_stack_becomes_a_stack(model, tmp_path):
    pages = [Image.fromarray(picture(boxes)) for boxes in (TWO, TWO[:1], [])]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    out = tmp_path / "out"
    run(tmp_path / "stack.tif", "-o", out, *"--save labels --save coco --save overlay --save csv".split())
    labels = tifffile.imread(out / "labels/stack.tif")
    assert labels.shape == (3, 48, 64) and labels.max(axis=(1, 2)).tolist() == [2, 1, 0]
    assert {"overlay/stack_000001.png", "images/stack_000003.png"} < set(files(out))
    assert not check_coco_json(str(out / "dataset.json"), str(out / "images")).errors
    assert [row["frame"] for row in csv.DictReader((out / "measurements.csv").open())] == ["1", "1", "2"]


def test_a_video_becomes_a_video(model, tmp_path):
    out = tmp_path / "out"
    run(write_video(tmp_path / "film.mp4"), "-o", out, "--save", "overlay", "--save", "labels")
    film = cv2.VideoCapture(str(out / "overlay/film.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and film.get(cv2.CAP_PROP_FPS) == 10
    assert tifffile.imread(out / "labels/film.tif").shape == (3, 48, 64)


def test_a_camera_films_until_ctrl_c(model, tmp_path, monkeypatch):
    path, capture = str(write_video(tmp_path / "film.mp4")), cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: capture(path if source == 0 else source))
    found = model.detect

    def predict_two(*args, **options):
        if model.seen == 2:
            raise KeyboardInterrupt
        return found(*args, **options)

    model.detect = predict_two
    assert "in 2 images" in run("--webcam", "-o", tmp_path / "out")
    assert tifffile.imread(tmp_path / "out/labels/webcam.tif").shape == (2, 48, 64)
