"""dvis_d2.load, Model.predict and dvis_d2.train, on a tiny network."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dvis_d2
from dvis_d2.engine import Trainer
from dvis_d2.inference import sources

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tiny_cfg, tmp_path):
    """Of a training; the network is untrained and takes everything for foreground."""
    torch.manual_seed(0)
    tiny_cfg.MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD = -1.0
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.yaml").write_text(tiny_cfg.dump())
    torch.save({"model": Trainer.build_model(tiny_cfg).state_dict()}, folder / "model_final.pth")
    return folder


@pytest.fixture
def model(folder):
    return dvis_d2.load(folder)


def same(a, b):
    assert len(a) == len(b) > 0 and np.array_equal(a.scores, b.scores)
    assert np.array_equal(a.label_image(), b.label_image()) and np.array_equal(a.image, b.image)


def test_every_kind_of_input_gives_the_same(model, tiny_coco):
    path = tiny_coco[1] / "0.png"
    picture = Image.open(path)
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy())
    expected = model.predict(str(path), confidence_threshold=0)
    assert expected.masks.image_size == (64, 64) and expected.class_names == ["green", "pink"]
    for image in (path, picture, array, tensor, tensor.permute(2, 0, 1), array[:, ::-1][:, ::-1]):
        same(model.predict(image, confidence_threshold=0), expected)
    several = model.predict([path, array], confidence_threshold=0)
    assert isinstance(several, list) and len(several) == 2
    same(several[0], several[1])
    assert model.predict([]) == []


def test_colors_are_rgb_outside_whatever_the_network_takes(folder, tiny_coco):
    blue = np.zeros((64, 64, 3), np.uint8)
    blue[:, :, 2] = 255
    for channel, order in enumerate(("BGR", "RGB")):
        model, seen = dvis_d2.load(folder, opts=["INPUT.FORMAT", order]), []
        model.network.backbone.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        result = model.predict(blue)
        assert seen[0][0, :, 0, 0].argmax() == 2 * channel and np.array_equal(result.image, blue)


def test_threshold_label_map_and_pixels(model):
    gray = np.random.default_rng(0).integers(0, 2**16, (64, 96), dtype=np.uint16)
    result = model.predict(gray, confidence_threshold=0, label_map=True)
    assert result.label_map.dtype == np.float32 and result.label_map.shape == (32, 48) and result.label_map.min() >= 0
    assert result.pixels is gray and result.image.shape == (64, 96, 3)
    least = float(np.median(result.scores))
    assert (model.predict(gray, confidence_threshold=least).scores >= least).all()
    assert model.predict(gray).label_map is None
    for wrong in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="from 0 to 1"):
            model.predict(gray, confidence_threshold=wrong)
    for wrong in (0, -1, float("nan"), float("inf"), 1e9, "2"):
        with pytest.raises(ValueError, match="the scale is .* from 0.01 to 100"):
            model.predict(gray, scale=wrong)


def test_files_keep_their_own_values_for_measurements(model, tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 4096, (64, 64), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "gray.png")
    result = model.predict(tmp_path / "gray.png", confidence_threshold=0)
    assert np.array_equal(result.pixels, values) and result.image.max() > 4095 // 257  # stretched for the network
    rows = result.measurements()
    assert rows[0]["mean_intensity"] == pytest.approx(values[result.masks[0]].mean(), abs=1e-3)

    monkeypatch.setattr(sources, "MAX_PIXELS", 1000)  # read by windows
    windows = model.predict(tmp_path / "gray.png", confidence_threshold=0)
    assert windows.measurements() == rows and np.array_equal(windows.label_image(), result.label_image())
    with pytest.raises(ValueError, match="too large for a picture"):
        windows.plot()


def test_a_panel_is_a_row_of_tiles(model):
    panel = model.draw_panel(np.zeros((64, 64, 3), np.uint8), confidence_threshold=0)
    assert panel.dtype == np.uint8 and panel.shape[1] > 4 * panel.shape[0] * 0.9


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        dvis_d2.load(tmp_path / "nowhere.pth")


def test_train_trains_and_loads(tiny_args, tiny_coco, tmp_path):
    json_file, images = tiny_coco
    opts = dict(zip(tiny_args[10::2], tiny_args[11::2], strict=True))
    model = dvis_d2.train(
        json_file, json_file, output_dir=tmp_path / "out", config_file=tiny_args[1], train_images=images, opts=opts
    )
    assert (tmp_path / "out/model_final.pth").is_file() and "AP" in model.results["segm"]
    assert model.class_names == ["green", "pink"] and len(model.predict(images / "0.png")) >= 0


def test_a_model_is_tuned_on_a_folder_of_other_classes(untrained_cfg, tiny_coco, tmp_path):
    """The recipe reads the folder; of the model all but its class layer is taken."""
    folder = tmp_path / "data"
    shutil.copytree(tiny_coco[1], folder / "images")
    content = json.loads(tiny_coco[0].read_text())
    content["categories"] = [{"id": c["id"], "name": f"new {c['name']}"} for c in content["categories"]]
    (folder / "all.json").write_text(json.dumps(content))
    opts = {"SOLVER.MAX_ITER": 1, "SOLVER.IMS_PER_BATCH": 2, "DATALOADER.NUM_WORKERS": 0}
    model = dvis_d2.train(folder, output_dir=tmp_path / "out", model=untrained_cfg.MODEL.WEIGHTS, opts=opts)
    assert model.class_names == ["new green", "new pink"]
    assert model.cfg.SOLVER.BASE_LR == pytest.approx(0.3 * untrained_cfg.SOLVER.BASE_LR)
    assert model.cfg.MODEL.DVIS_ROI_HEADS.START == 0


def test_importing_the_package_does_not_import_the_engine():
    code = "import sys, dvis_d2; assert not any('dvis_d2.engine' in m or 'dvis_d2.api' in m for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="predict"):
        dvis_d2.predict  # noqa: B018


def test_pixels_unlike_those_of_the_training_are_told(tiny_cfg, monkeypatch):
    told = []
    monkeypatch.setattr("dvis_d2.inference.image_model.warn_once", told.append)
    tiny_cfg.INPUT.NORMALIZE = "none"
    network = Trainer.build_model(tiny_cfg).eval()
    model = dvis_d2.Model(tiny_cfg, network, ["a", "b"], {"dtypes": ["uint8"], "normalize": "none"})
    model.predict(np.zeros((32, 32), np.uint8))
    assert not told
    model.predict(np.full((32, 32), 900, np.uint16))
    assert "there are uint16 pixels, those of the training were uint8" in told[0]
