import json

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from dvis_d2.config import add_dvis_config
from dvis_d2.data import DatasetError, register_coco_json, register_from_config
from dvis_d2.evaluation import DVISCOCOEvaluator
from dvis_d2.evaluation.coco_ap import CocoScorer


@pytest.fixture(autouse=True)
def clean_catalogs():
    yield
    for name in ("custom_train", "custom_val", "own"):
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_dvis_config(cfg)
    return cfg


def write(folder, name="data.json", categories=((9, "cat"), (4, "dog")), category_id=9):
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (30, 20)).save(folder / "a.png")
    box = {"iscrowd": 0, "area": 24, "bbox": [3, 2, 6, 4]}
    data = {
        "images": [{"id": 5, "file_name": "a.png", "height": 20, "width": 30}],
        "annotations": [
            {
                "id": 1,
                "image_id": 5,
                "category_id": category_id,
                "segmentation": [[3, 2, 9, 2, 9, 6, 3, 6]],
                **box,
            }
        ],
        "categories": [{"id": i, "name": n} for i, n in categories],
    }
    (folder / name).write_text(json.dumps(data))
    return str(folder / name)


def test_register_maps_ids_with_gaps_to_classes_in_the_order_of_ids(tmp_path):
    assert register_coco_json("own", write(tmp_path), str(tmp_path)) == ["dog", "cat"]
    metadata = MetadataCatalog.get("own")
    assert metadata.thing_classes == ["dog", "cat"]
    assert metadata.thing_dataset_id_to_contiguous_id == {4: 0, 9: 1}
    assert metadata.evaluator_type == "coco"
    (only,) = DatasetCatalog.get("own")
    assert only["annotations"][0]["category_id"] == 1
    assert only["file_name"] == str(tmp_path / "a.png")


def test_registering_again_replaces(tmp_path):
    register_coco_json("own", write(tmp_path / "one"), str(tmp_path / "one"))
    DatasetCatalog.get("own")
    two = write(tmp_path / "two", categories=[(9, "bird")])
    assert register_coco_json("own", two, str(tmp_path / "two")) == ["bird"]
    assert DatasetCatalog.get("own")[0]["file_name"] == str(tmp_path / "two" / "a.png")
    assert MetadataCatalog.get("own").thing_classes == ["bird"]


def test_config_without_own_data_is_left_alone(cfg):
    before = cfg.dump()
    register_from_config(cfg)
    assert cfg.dump() == before


def test_config_with_both_files(cfg, tmp_path):
    cfg.DATASETS.CUSTOM.TRAIN_JSON = write(tmp_path / "train")
    cfg.DATASETS.CUSTOM.VAL_JSON = write(tmp_path / "val")
    register_from_config(cfg)
    register_from_config(cfg)  # a second set-up in one process
    assert cfg.DATASETS.TRAIN == ("custom_train",)
    assert cfg.DATASETS.TEST == ("custom_val",)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert cfg.DATASETS.CUSTOM.CLASS_NAMES == ["dog", "cat"]
    assert len(DatasetCatalog.get("custom_train")) == len(DatasetCatalog.get("custom_val")) == 1
    cfg.freeze()
    assert cfg.clone().dump() == cfg.dump()  # the new values can be saved


@pytest.mark.parametrize(("key", "train", "test"), [("TRAIN", 1, 0), ("VAL", 0, 1)])
def test_config_with_one_file_never_mixes_with_other_data(cfg, tmp_path, key, train, test):
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("shapes_train",), ("shapes_val",)
    cfg.DATASETS.CUSTOM[f"{key}_JSON"] = write(tmp_path)
    register_from_config(cfg)
    assert cfg.DATASETS.TRAIN == ("custom_train",) * train
    assert cfg.DATASETS.TEST == ("custom_val",) * test


def test_relative_paths_and_image_folder(cfg, tmp_path, monkeypatch):
    write(tmp_path / "data")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "data" / "a.png").rename(tmp_path / "pictures" / "a.png")
    monkeypatch.chdir(tmp_path)
    cfg.DATASETS.CUSTOM.TRAIN_JSON = "data/data.json"
    with pytest.raises(DatasetError, match="image files that are not in data"):
        register_from_config(cfg)
    cfg.DATASETS.CUSTOM.TRAIN_IMAGES = "pictures"
    register_from_config(cfg)
    assert DatasetCatalog.get("custom_train")[0]["file_name"] == "pictures/a.png"


def test_broken_file_stops_the_set_up_with_the_report(cfg, tmp_path):
    cfg.DATASETS.CUSTOM.TRAIN_JSON = write(tmp_path, category_id=1)
    with pytest.raises(DatasetError, match="annotation 1 has category_id 1"):
        register_from_config(cfg)
    assert "custom_train" not in DatasetCatalog


def test_warnings_do_not_stop_the_set_up(cfg, tmp_path, caplog):
    cfg.DATASETS.CUSTOM.TRAIN_JSON = write(tmp_path)
    register_from_config(cfg)  # "dog" has no annotations
    assert cfg.DATASETS.TRAIN == ("custom_train",)


@pytest.mark.parametrize("other", [[(9, "cat"), (4, "horse")], [(9, "cat"), (5, "dog")], [(9, "cat")]])
def test_different_categories_are_refused(cfg, tmp_path, other):
    cfg.DATASETS.CUSTOM.TRAIN_JSON = write(tmp_path / "train")
    cfg.DATASETS.CUSTOM.VAL_JSON = write(tmp_path / "val", categories=other)
    with pytest.raises(DatasetError, match="differ"):
        register_from_config(cfg)


def test_saved_config_names_its_classes_without_the_data(cfg, tmp_path):
    cfg.DATASETS.CUSTOM.TRAIN_JSON = write(tmp_path / "train")
    cfg.DATASETS.CUSTOM.VAL_JSON = write(tmp_path / "val")
    register_from_config(cfg)
    (tmp_path / "train" / "data.json").unlink()
    (tmp_path / "val" / "data.json").unlink()
    register_from_config(cfg, train=False)
    assert cfg.DATASETS.CUSTOM.CLASS_NAMES == ["dog", "cat"] and cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert cfg.DATASETS.TEST == ()
    with pytest.raises(DatasetError, match="train.*data.json"):
        register_from_config(cfg)


def test_evaluation_does_not_open_the_training_file(cfg, tmp_path):
    cfg.DATASETS.CUSTOM.TRAIN_JSON = str(tmp_path / "broken.json")
    (tmp_path / "broken.json").write_text("{")
    cfg.DATASETS.CUSTOM.VAL_JSON = write(tmp_path / "val")
    register_from_config(cfg, train=False)
    assert cfg.DATASETS.TRAIN == () and cfg.DATASETS.TEST == ("custom_val",)


def test_saved_config_refuses_data_of_other_classes(cfg, tmp_path):
    cfg.DATASETS.CUSTOM.CLASS_NAMES = ["bird"]
    cfg.DATASETS.CUSTOM.VAL_JSON = write(tmp_path)
    with pytest.raises(DatasetError, match="CLASS_NAMES"):
        register_from_config(cfg)


def test_missing_json_is_an_error_without_saved_classes(cfg, tmp_path):
    cfg.DATASETS.CUSTOM.TRAIN_JSON = str(tmp_path / "no.json")
    with pytest.raises(DatasetError, match=r"no\.json"):
        register_from_config(cfg)


def test_a_byte_order_mark_is_read_all_the_way(cfg, tmp_path):
    json_file = tmp_path / "data.json"
    write(tmp_path)
    json_file.write_text(json_file.read_text(), encoding="utf-8-sig")
    cfg.DATASETS.CUSTOM.VAL_JSON = str(json_file)
    register_from_config(cfg)
    assert len(DatasetCatalog.get("custom_val")) == 1
    assert DVISCOCOEvaluator("custom_val", ("segm",), output_dir=str(tmp_path))._do_evaluation
    assert CocoScorer("custom_val").truth.anns[1]["area"] == 24


@pytest.mark.parametrize("read", [DatasetCatalog.get, lambda name: DVISCOCOEvaluator(name, ("segm",)), CocoScorer])
def test_no_broken_rle_reaches_pycocotools_without_the_check(tmp_path, read):
    """Its IoU of masks whose runs are too few would never end."""
    json_file = write(tmp_path)
    data = json.loads((tmp_path / "data.json").read_text())
    data["annotations"][0]["segmentation"] = {"size": [20, 30], "counts": [5, 5]}
    (tmp_path / "data.json").write_text(json.dumps(data))
    register_coco_json("own", json_file, str(tmp_path))
    with pytest.raises(ValueError, match=r"annotation 1: its RLE .* add up to 10, not to 20 x 30"):
        read("own")


def test_names_that_leave_the_image_folder_are_not_loaded(tmp_path):
    register_coco_json("own", write(tmp_path), str(tmp_path / "images"))
    assert DatasetCatalog.get("own")
    data = json.loads((tmp_path / "data.json").read_text())
    data["images"][0]["file_name"] = "../a.png"
    (tmp_path / "data.json").write_text(json.dumps(data))
    register_coco_json("own", str(tmp_path / "data.json"), str(tmp_path / "images"))
    with pytest.raises(DatasetError, match="is not in the image folder"):
        DatasetCatalog.get("own")


def test_ids_beyond_float64(cfg, tmp_path):
    cfg.DATASETS.CUSTOM.TRAIN_JSON = write(tmp_path, categories=[(2**80, "cat"), (4, "dog")], category_id=2**80)
    register_from_config(cfg)
    (only,) = DatasetCatalog.get("custom_train")
    assert only["annotations"][0]["category_id"] == 1
    assert MetadataCatalog.get("custom_train").thing_classes == ["dog", "cat"]
    assert MetadataCatalog.get("custom_train").thing_dataset_id_to_contiguous_id == {1: 0, 2: 1}
