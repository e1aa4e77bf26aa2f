"""check and convert."""

import json

import pytest
from click.testing import CliRunner
from detectron2.data import DatasetCatalog, MetadataCatalog

from dvis_d2.cli import main
from dvis_d2.data import register_coco_json


def invoke(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def without_boxes(path):
    data = json.loads(path.read_text())
    for annotation in data["annotations"]:
        del annotation["bbox"]
    path.write_text(json.dumps(data))


def test_check_finds_nothing_in_sound_data(tiny_coco):
    result = invoke("check", *tiny_coco)
    assert result.exit_code == 0 and "no errors" in result.stdout
    assert invoke("check", tiny_coco[0], "--max-headers", 1).exit_code == 0  # the images are found beside the JSON


def test_check_reports_and_completes(tiny_coco, tmp_path):
    json_file, folder = tiny_coco
    without_boxes(json_file)
    broken = invoke("check", json_file, folder)
    assert broken.exit_code == 1 and "ERROR: annotations without bbox" in broken.stdout
    completed = invoke("check", json_file, folder, "--complete", tmp_path / "full.json")
    assert completed.exit_code == 0 and "no errors" in completed.stdout
    assert "bbox" in json.loads((tmp_path / "full.json").read_text())["annotations"][0]


def test_check_completes_into_new_files_only(tiny_coco):
    json_file, folder = tiny_coco
    before = json_file.read_bytes()
    result = invoke("check", json_file, folder, "--complete", json_file)
    assert result.exit_code == 2 and f"{json_file} exists" in result.stderr
    assert json_file.read_bytes() == before


@pytest.mark.parametrize("content", ["[]", "{", '{"annotations": [1]}'])
def test_check_names_a_file_that_cannot_be_completed(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    result = invoke("check", tmp_path / "a.json", "--complete", tmp_path / "b.json")
    assert result.exit_code == 2 and "a.json cannot be completed" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]  # no half file either


def test_check_of_a_file_that_is_not_there():
    for args in (["nowhere.json"], ["nowhere.json", "--complete", "b.json"]):
        result = invoke("check", *args)
        assert result.exit_code == 2 and "nowhere.json" in result.stderr
        assert len(result.stderr.splitlines()) == 2


@pytest.fixture
def registered(tiny_coco):
    register_coco_json("tiny_to_convert", *map(str, tiny_coco))
    yield "tiny_to_convert"
    DatasetCatalog.pop("tiny_to_convert")
    MetadataCatalog.pop("tiny_to_convert")


def test_convert_writes_coco_json(registered, tiny_coco, tmp_path):
    result = invoke("convert", "--dataset", registered, "--output", tmp_path / "out.json")
    assert result.exit_code == 0 and f"image folder: {tiny_coco[1]}" in result.stdout
    data = json.loads((tmp_path / "out.json").read_text())
    assert len(data["images"]) == 6 and len(data["annotations"]) == 12


def test_convert_names_the_data_sets_that_are_meant(registered, tmp_path):
    result = invoke("convert", "--dataset", "voc_2012", "--output", tmp_path / "out.json")
    assert result.exit_code == 2
    assert "'voc_2012' is not registered" in result.stderr and "voc_2012_instance_val" in result.stderr
    assert "sbd" not in result.stderr


def test_convert_names_an_image_root_that_does_not_hold_the_images(registered, tmp_path):
    args = ["--dataset", registered, "--output", tmp_path / "out.json", "--image-root", tmp_path / "other"]
    result = invoke("convert", *args)
    assert result.exit_code == 2 and "is not below" in result.stderr
