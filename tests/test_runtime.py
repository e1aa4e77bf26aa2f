"""An exported model: the same masks as the model, without torch, and errors that say what to do."""

import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from detectron2.export import TracingAdapter

import dvis_d2
from dvis_d2.cli import main
from dvis_d2.engine import Trainer
from dvis_d2.exported_file import METADATA, open_file
from dvis_d2.model_export import export_model, store_halves
from dvis_d2.runtime import Runtime

ROOT = Path(__file__).resolve().parents[1]
HIDE = """
import sys
class Hiding:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "torchvision", "detectron2", "fvcore", "iopath", "matplotlib", "scipy", "yacs"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hiding())
"""
WITHOUT_TORCH = """
import json, numpy as np
from dvis_d2.runtime import Runtime
path, image, out = sys.argv[1:]
result = Runtime(path, threads=1).predict(image, confidence_threshold=0.0)
np.savez(out, labels=result.label_image(), scores=result.scores, classes=result.classes)
json.dumps([result.to_geojson(), result.measurements(), result.to_coco()])
result.plot()
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny model with random weights that proposes much, and its export."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    dvis_d2.add_dvis_config(cfg)
    cfg.merge_from_file(str(ROOT / "configs/shapes/shapes.yaml"))
    cfg.merge_from_list(
        "MODEL.DEVICE cpu MODEL.RESNETS.STEM_OUT_CHANNELS 8 MODEL.RESNETS.RES2_OUT_CHANNELS 8 MODEL.FPN.OUT_CHANNELS 16"
        " MODEL.LABEL_MAP_HEAD.CONV_DIM 16 MODEL.LABEL_MAP_HEAD.COORDINATES True MODEL.ROI_BOX_HEAD.CONV_DIM 16"
        " MODEL.ROI_BOX_HEAD.FC_DIM 16 MODEL.ROI_MASK_HEAD.CONV_DIM 16 MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD -1.0"
        " TEST.DETECTIONS_PER_IMAGE 20".split()
    )
    torch.manual_seed(0)
    network = Trainer.build_model(cfg).eval()
    network.proposal_generator.label_head.predictor.weight.data.mul_(50)
    folder = tmp_path_factory.mktemp("exported")
    torch.save({"model": network.state_dict()}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    for name in ("tiny.onnx", "tiny.pt"):
        result = CliRunner().invoke(main, ["export", str(folder), "-o", str(folder / name)])
        assert result.exit_code == 0, result.output
    return folder, folder / "tiny.onnx"


def pictures():
    rng = np.random.default_rng(0)
    sizes = (50, 64), (128, 128), (97, 70)
    blocks = [rng.integers(0, 256, (h // 8 + 1, w // 8 + 1, 3), dtype=np.uint8) for h, w in sizes]
    return [b.repeat(8, axis=0).repeat(8, axis=1)[:h, :w] for b, (h, w) in zip(blocks, sizes, strict=True)]


def same(found, expected):
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_array_equal(found.classes, expected.classes)
    ious = [(a & b).sum() / (a | b).sum() for a, b in zip(found.masks, expected.masks, strict=True)]
    assert min(ious) >= 0.99


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.pt"])
def test_the_masks_are_the_models_at_any_size_and_in_tiles(exported, name):
    folder, _ = exported
    model, runtime = dvis_d2.load(folder, device="cpu"), Runtime(folder / name, threads=1)
    options = {"confidence_threshold": 0.0, "label_map": True}
    assert runtime.class_names == model.class_names
    for image in pictures():
        expected, found = model.predict(image, **options), runtime.predict(image, **options)
        assert np.abs(found.label_map - expected.label_map).max() < 1e-3
        same(found, expected)
    large, options = np.tile(pictures()[1], (1, 2, 1)), {"confidence_threshold": 0.0, "scale": 1.0}
    for of in (model, runtime):
        of._inference.tile = 64
    same(runtime.predict(large, **options), model.predict(large, **options))


def test_it_needs_neither_torch_nor_detectron2(exported, tmp_path):
    from PIL import Image

    folder, path = exported
    Image.fromarray(pictures()[1]).save(tmp_path / "image.png")
    command = [
        sys.executable,
        "-c",
        HIDE + WITHOUT_TORCH,
        str(path),
        str(tmp_path / "image.png"),
        str(tmp_path / "out.npz"),
    ]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    expected = dvis_d2.load(folder, device="cpu").predict(tmp_path / "image.png", confidence_threshold=0.0)
    found = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(found["classes"], expected.classes)
    assert (found["labels"] != expected.label_image()).mean() < 0.001


def test_torchscript_needs_neither_detectron2_nor_this_package(exported, tmp_path):
    """Whoever has torch runs its methods; what they compute is what the runtime gets."""
    path, image = exported[0] / "tiny.pt", np.zeros((1, 3, 64, 96), np.float32)
    np.save(tmp_path / "image.npy", image)
    code = "import sys; sys.modules |= dict.fromkeys(['detectron2', 'dvis_d2'])\n"
    code += "import numpy as np, torch, torchvision; module = torch.jit.load(sys.argv[1])\n"
    code += "print(float(module.label_map(torch.from_numpy(np.load(sys.argv[2])))[0].sum()))"
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "image.npy")]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (expected,) = Runtime(path).network.call(["label_map"], image=image)
    assert float(run.stdout) == pytest.approx(float(expected.sum()), rel=1e-4)


def program_without_torch(*arguments):
    code = f"{HIDE}from dvis_d2.cli import main; main(prog_name='dvis')"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_program_predicts_without_torch_and_says_what_needs_it(exported, tmp_path):
    from PIL import Image

    Image.fromarray(pictures()[1]).save(tmp_path / "image.png")
    command = ["predict", tmp_path / "image.png", "-o", tmp_path / "found", "--confidence-threshold", "0"]
    forms = [word for form in ("labels", "png", "coco", "results", "geojson", "csv") for word in ("--save", form)]
    run = program_without_torch(*command, "--model", exported[1], *forms)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "found/labels/image.tif").exists() and (tmp_path / "found/dataset.json").exists()
    for other in (["train"], [*command, "--model", "nuclei"]):
        run = program_without_torch(*other)
        assert run.returncode != 0 and "dvis_d2 needs Detectron2" in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.pt"])
def test_the_program_predicts_with_it(exported, tmp_path, name):
    from PIL import Image

    Image.fromarray(pictures()[1]).save(tmp_path / "image.png")
    command = ["predict", str(tmp_path / "image.png"), "--model", str(exported[0] / name)]
    command += ["--confidence-threshold", "0"]
    result = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "found"), "--save", "labels", "--save", "csv"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "found/labels/image.tif").exists() and (tmp_path / "found/measurements.csv").exists()
    refused = CliRunner().invoke(main, [*command, "-o", str(tmp_path / "other"), "--save", "panel"])
    assert refused.exit_code == 2 and "panel" in refused.output


def test_halves_take_half_the_space(exported, tmp_path):
    path = exported[1]
    model = onnx.load(path)
    store_halves(model)
    onnx.save(model, tmp_path / "half.onnx")
    weights = [sum(len(t.raw_data) for t in onnx.load(p).graph.initializer) for p in (path, tmp_path / "half.onnx")]
    assert weights[1] < 0.6 * weights[0]
    image = pictures()[0]
    maps = [Runtime(p).predict(image, label_map=True).label_map for p in (path, tmp_path / "half.onnx")]
    assert 0 < np.abs(maps[0] - maps[1]).max() < 0.01 * maps[0].max()


def test_files_of_no_use_are_two_lines(exported, tmp_path):
    model = onnx.load(exported[1])
    (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA)
    later = json.dumps(json.loads(entry.value) | {"format": 99, "version": "9.0"})
    part = json.dumps({key: value for key, value in json.loads(entry.value).items() if key != "grouping"})
    cases = {
        "later": (later, "format 99 of dvis_d2 9.0"),
        "other": ("{}", "does not say which model it is"),
        "part": (part, "does not say its 'grouping'"),
    }
    for name, (value, message) in cases.items():
        entry.value = value
        onnx.save(model, tmp_path / f"{name}.onnx")
        with pytest.raises(ValueError, match=rf"(?s){name}.onnx.*{message}.*\n.*dvis export"):
            Runtime(tmp_path / f"{name}.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match=r"text.onnx is no ONNX file"):
        Runtime(tmp_path / "text.onnx")
    with pytest.raises(FileNotFoundError, match="no exported model"):
        Runtime(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match=r"uint8 \(9, 9, 5\).*has not the shape of an image"):
        Runtime(exported[1]).predict(np.zeros((9, 9, 5), np.uint8))
    torch.save({"model": {}}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights.pt is no TorchScript"):
        Runtime(tmp_path / "weights.pt")
    torch.jit.save(torch.jit.script(torch.nn.Identity()), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt does not say which model it is"):
        Runtime(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="float16.*must be one of float32"):
        export_model("nuclei", tmp_path / "half.pt", precision="float16")
    for arguments in (["nuclei", "-o", "model.bin"], ["nuclei", "-o", str(exported[1])]):
        result = CliRunner().invoke(main, ["export", *arguments])
        assert result.exit_code == 2 and "To do: " in result.output


def test_tracing_and_scripting_name_the_export(tiny_cfg):
    model = Trainer.build_model(tiny_cfg).eval()
    inputs = [{"image": torch.zeros(3, 64, 64)}]
    adapter = TracingAdapter(model, inputs, lambda m, x: [{"instances": m.inference(x, do_postprocess=False)[0]}])
    with pytest.raises(RuntimeError, match="dvis export"):
        torch.jit.trace(adapter, adapter.flattened_inputs)
    with pytest.raises(RuntimeError, match="dvis export"):
        torch.jit.script(model)


def test_openvino_reads_the_file(exported):
    openvino = pytest.importorskip("openvino")
    network = Runtime(exported[1], threads=1).network
    compiled = openvino.Core().compile_model(openvino.convert_model(exported[1]), "CPU")
    image = network.padded(pictures()[1])
    label_map, features = network.call(["label_map", "image_features"], image=image)
    idle = open_file(str(exported[1])).idle
    found = compiled(idle | {"image": image})
    np.testing.assert_allclose(found["label_map"], label_map, atol=1e-3)
    boxes = np.array([[0, 10, 20, 90, 100], [0, 0, 0, 128, 128]], np.float32)
    soft = np.random.default_rng(0).random((2, *label_map.shape[1:]), np.float32)
    given = {"features": features, "boxes": boxes, "soft": soft, "mask_boxes": boxes, "mask_soft": soft}
    found = compiled(idle | {"image": image} | given)  # no image at all would leave all outputs empty
    for name in ("class_probs", "ious", "mask_probs"):
        np.testing.assert_allclose(found[name], network.call([name], **given)[0], atol=1e-3)


def test_the_service_answers_with_outlines(exported, monkeypatch):
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient
    from PIL import Image

    monkeypatch.setenv("MODEL", str(exported[1]))
    spec = importlib.util.spec_from_file_location("service", ROOT / "examples/service/app.py")
    service = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(service)
    client, picture = TestClient(service.app), io.BytesIO()
    Image.fromarray(pictures()[1]).save(picture, "PNG")
    found = client.post("/predict", params={"threshold": 0}, files={"image": picture.getvalue()}).json()
    assert found["type"] == "FeatureCollection" and found["features"]
    assert client.post("/predict", files={"image": b"no image"}).status_code == 422
    assert client.get("/health").status_code == 200
