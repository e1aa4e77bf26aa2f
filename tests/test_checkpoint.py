import json
import os
import shutil

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn

from dvis_d2.checkpoint import (
    DVISCheckpointer,
    checkpoint_info,
    class_names,
    find_weights,
    load_model,
    save_safetensors,
    settle_device,
)

NAMES = [f"model_{i:07d}" for i in (1, 3)]


@pytest.fixture
def folder(untrained_cfg, tmp_path):
    """With nothing in it but model_final.pth."""
    (tmp_path / "out").mkdir()
    shutil.copy(untrained_cfg.MODEL.WEIGHTS, tmp_path / "out")
    return tmp_path / "out"


class Linear(nn.Linear):
    def __init__(self, value, outputs=2):
        super().__init__(3, outputs)
        nn.init.constant_(self.weight, value)


def saved(folder, *names):
    """Checkpoints whose weights count from 1."""
    for value, name in enumerate(names, start=1):
        DVISCheckpointer(Linear(value), str(folder)).save(name)


def resumed(folder):
    """The weights' value after a resumption, 0 where it begins anew."""
    model = Linear(0)
    DVISCheckpointer(model, str(folder)).resume_or_load("", resume=True)
    return model.weight[0, 0].item()


def test_a_file_is_enough(folder, untrained_cfg):
    expected = torch.load(untrained_cfg.MODEL.WEIGHTS)["model"]
    for source in (folder, folder / "model_final.pth"):
        cfg, model, info = load_model(source, opts=["MODEL.DVIS_ROI_HEADS.ALPHA", "0.25"])
        assert not model.training and cfg.is_frozen() and cfg.MODEL.WEIGHTS == str(folder / "model_final.pth")
        assert info["class_names"] == cfg.DATASETS.CUSTOM.CLASS_NAMES == ["green", "pink"]
        assert model.roi_heads.alpha == 0.25
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_no_path_and_no_device_of_the_machine_is_carried(untrained_cfg, tmp_path):
    info = checkpoint_info(untrained_cfg, {"scale": 2.0})
    assert str(tmp_path) not in json.dumps(info) and "DEVICE" not in info["config"]
    assert info["statistics"] == {"scale": 2.0}


def test_tuned_thresholds_beside_the_file_are_taken(folder):
    (folder / "thresholds.yaml").write_text("MODEL: {DVIS_ROI_HEADS: {ALPHA: 0.75}}\n")
    assert load_model(folder)[1].roi_heads.alpha == 0.75
    assert load_model(folder, opts=["MODEL.DVIS_ROI_HEADS.ALPHA", "0.5"])[1].roi_heads.alpha == 0.5


def test_half_precision_safetensors_carry_the_same(folder, tmp_path):
    (folder / "thresholds.yaml").write_text("MODEL: {DVIS_ROI_HEADS: {ALPHA: 0.75}}\n")
    (tmp_path / "alone").mkdir()
    save_safetensors(folder, tmp_path / "alone" / "m.safetensors")
    one, two = load_model(folder)[1], load_model(tmp_path / "alone" / "m.safetensors")[1]
    assert two.roi_heads.alpha == 0.75
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert a.dtype == b.dtype and torch.allclose(a, b, rtol=1e-3, atol=1e-6), name
    sizes = [(tmp_path / "alone" / "m.safetensors").stat().st_size, (folder / "model_final.pth").stat().st_size]
    assert sizes[0] < 0.65 * sizes[1]


def test_an_older_file_needs_its_config_beside_it(folder, untrained_cfg):
    content = torch.load(folder / "model_final.pth")
    torch.save({"model": content["model"]}, folder / "model_final.pth")
    with pytest.raises(FileNotFoundError, match="does not say which model.*\nput the config.yaml"):
        load_model(folder)
    untrained_cfg.MODEL.DEVICE = "cuda:3"
    (folder / "config.yaml").write_text(untrained_cfg.dump())
    cfg, _, info = load_model(folder, device="cpu")
    assert info["class_names"] == ["green", "pink"] and cfg.MODEL.DEVICE == "cpu"
    (folder / "config.yaml").rename(folder / "elsewhere.yaml")
    assert load_model(folder, config_file=str(folder / "elsewhere.yaml"))[2]["class_names"] == ["green", "pink"]


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no weights nuclei-of-mars\n.*packaged model"):
        find_weights("nuclei-of-mars")
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        find_weights(tmp_path)


def test_the_best_checkpoint_of_a_folder_is_taken_but_not_resumed_from(tmp_path):
    saved(tmp_path, *NAMES, "model_best")
    assert find_weights(tmp_path) == str(tmp_path / "model_best.pth")
    assert resumed(tmp_path) == 2


def test_a_config_of_a_machine_with_cuda_is_used_on_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cfg = get_cfg()
    assert cfg.MODEL.DEVICE == "cuda"
    settle_device(cfg)
    assert cfg.MODEL.DEVICE == "cpu"


def test_what_does_not_fit_stops_inference_and_is_listed(tmp_path):
    torch.save({"model": {"weight": torch.ones(5, 3), "other": torch.ones(1)}}, tmp_path / "x.pth")
    with pytest.raises(ValueError) as error:
        DVISCheckpointer(Linear(0)).load(str(tmp_path / "x.pth"))
    what, advice = str(error.value).splitlines()
    assert "1 of another shape (weight (5, 3) for (2, 3)); 1 missing (bias); 1 without use (other)" in what
    assert "config.yaml" in advice


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_diverged_training_are_refused(value, tmp_path):
    torch.save({"model": {"weight": torch.full((2, 3), value), "bias": torch.ones(2)}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth holds NaN or infinite values \(weight\)\n"):
        DVISCheckpointer(Linear(0)).load(str(tmp_path / "x.pth"))


@pytest.mark.parametrize("weights", [None, [1, 2], "text"])
def test_a_file_whose_model_is_none(weights, tmp_path):
    torch.save({"model": weights}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"x.pth holds a {type(weights).__name__}, no weights\n"):
        DVISCheckpointer(Linear(0)).load(str(tmp_path / "x.pth"))


@pytest.mark.parametrize(
    "change", [{"config": 7}, {"class_names": [1, 2]}, {"class_names": "ab"}, {"statistics": [1]}, "text"]
)
def test_a_file_that_describes_itself_wrongly(change, untrained_cfg, tmp_path):
    content = torch.load(untrained_cfg.MODEL.WEIGHTS, weights_only=True)
    content["dvis"] = content["dvis"] | change if isinstance(change, dict) else change
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="x.pth does not say rightly which model it is for\n"):
        load_model(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.FORMAT", "XYZ"),
        ("INPUT.MIN_SIZE_TEST", "-3"),
        ("INPUT.MAX_SIZE_TEST", "0"),
        ("TEST.TILE_SIZE", "-1"),
        ("MODEL.PIXEL_MEAN", "(1.0,)"),
        ("MODEL.PIXEL_STD", "(1.0, 0.0, 1.0)"),
        ("SOLVER.MAX_ITER", "0"),
        ("SOLVER.CHECKPOINT_PERIOD", "0"),
        ("SOLVER.BASE_LR", "-1.0"),
        ("SOLVER.LR_SCHEDULER_NAME", "foo"),
        ("DATALOADER.NUM_WORKERS", "-1"),
        ("SEED", "99999999999999999999"),
        ("INPUT.MIN_SIZE_TRAIN", "()"),
        ("INPUT.MIN_SIZE_TRAIN", "(-5,)"),
        ("INPUT.CROP.TYPE", "foo"),
        ("INPUT.CROP.SIZE", "[-5, 5]"),
        ("MODEL.RESNETS.DEPTH", "19"),
        ("MODEL.FPN.NORM", "foo"),
        ("MODEL.DEVICE", "tpu"),
        ("MODEL.DEVICE", "mps:7"),
    ],
)
def test_values_that_no_model_can_have_are_named(key, value, untrained_cfg):
    with pytest.raises(ValueError, match=f"{key} .*\n"):
        load_model(untrained_cfg.MODEL.WEIGHTS, opts=[key, value])


def test_a_model_with_another_number_of_classes_is_refused(untrained_cfg):
    untrained_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    with pytest.raises(ValueError, match=r"does not fit the model.*\(3, .*\) for \(4, "):
        DVISCheckpointer(build_model(untrained_cfg)).load(untrained_cfg.MODEL.WEIGHTS)


@pytest.mark.parametrize("names", [["pink", "green"], ["green", "red"], ["green", "pink", "red"]])
def test_classes_are_compared_by_name_and_order(untrained_cfg, names):
    model = build_model(untrained_cfg)
    with pytest.raises(ValueError, match=f"knows the classes green, pink, not {', '.join(names)}\n"):
        DVISCheckpointer(model, info={"class_names": names}).load(untrained_cfg.MODEL.WEIGHTS)
    DVISCheckpointer(model, info={"class_names": names}).load(untrained_cfg.MODEL.WEIGHTS, checkpointables=[])


def test_class_agnostic_weights_fit_all_classes(tiny_cfg):
    tiny_cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC = True
    assert class_names(tiny_cfg, ["custom_val"]) == ["object"]


def test_no_weights_are_no_model():
    with pytest.raises(ValueError, match="there are no weights\nappend MODEL.WEIGHTS"):
        DVISCheckpointer(Linear(0)).load("")


def test_fine_tuning_lists_in_one_line_what_it_skipped(tmp_path, caplog):
    torch.save({"model": {"weight": torch.ones(2, 3), "bias": torch.ones(5)}}, tmp_path / "x.pth")
    model = Linear(0)
    checkpointer = DVISCheckpointer(model)
    checkpointer.logger.addHandler(caplog.handler)
    caplog.set_level("INFO", logger=checkpointer.logger.name)
    checkpointer.resume_or_load(str(tmp_path / "x.pth"), resume=False)
    checkpointer.logger.removeHandler(caplog.handler)
    assert model.weight[0, 0] == 1
    (line,) = {text for text in caplog.messages if "skipped" in text}
    assert line.startswith("1 of 2 tensors are from") and "1 of another shape (bias (5,) for (2,))" in line
    torch.save({"model": {"unknown": torch.ones(5)}}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="does not fit"):
        checkpointer.resume_or_load(str(tmp_path / "x.pth"), resume=False)


def test_no_moment_of_a_kill_leaves_less_than_a_whole_checkpoint(tmp_path, monkeypatch):
    """Saving is stopped before and after every replacement of a file."""
    replace, calls = os.replace, []

    def stopped(at):
        def replaced(*paths):
            calls.append(paths)
            if len(calls) == at:
                raise KeyboardInterrupt
            replace(*paths)

        return replaced

    saved(tmp_path, NAMES[0])
    for at, expected in ((1, 1), (2, 1), (3, 1)):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stopped(at))
            try:
                DVISCheckpointer(Linear(1), str(tmp_path)).save(NAMES[1])
            except KeyboardInterrupt:
                assert at < 3
        assert resumed(tmp_path) == expected
        assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("damage", [b"", b"half"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage, caplog):
    saved(tmp_path, *NAMES, "model_final")
    assert resumed(tmp_path) == 3
    (tmp_path / "model_final.pth").write_bytes(damage)
    assert resumed(tmp_path) == 2
    (tmp_path / f"{NAMES[1]}.pth").write_bytes(damage)
    assert resumed(tmp_path) == 1
    (tmp_path / f"{NAMES[0]}.pth").write_bytes(damage)
    with pytest.raises(ValueError, match="all 3 checkpoints in .* are damaged\nremove them"):
        resumed(tmp_path)


@pytest.mark.parametrize("last", [None, "", "model_0000777.pth", "model_best.pth", "\ud800"])
def test_a_last_checkpoint_that_names_no_file_does_not_restart_the_training(tmp_path, last):
    saved(tmp_path, *NAMES)
    (tmp_path / "last_checkpoint").unlink()
    if last is not None:
        (tmp_path / "last_checkpoint").write_bytes(last.encode(errors="surrogatepass"))
    assert resumed(tmp_path) == 2


def test_a_training_continued_beyond_its_end_resumes_from_its_newer_file(tmp_path):
    saved(tmp_path, *NAMES, "model_final", "model_0000005")
    assert resumed(tmp_path) == 4


@pytest.mark.parametrize("folder", [".", "./out", "a/../out"])
def test_files_of_a_later_iteration_than_the_last_are_another_trainings(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "out").mkdir()
    saved(folder, "model_0000009", "model_0000005")
    assert resumed(folder) == 2


def test_an_empty_folder_begins_anew(tmp_path):
    assert resumed(tmp_path) == 0


def test_stored_configs_with_unknown_content_run_nothing(folder):
    content = torch.load(folder / "model_final.pth")
    content["dvis"]["config"] = "OUTPUT_DIR: !!python/object/apply:os.getcwd []\n"
    torch.save(content, folder / "model_final.pth")
    with pytest.raises(ValueError, match="the config in .*model_final.pth cannot be read as plain YAML"):
        load_model(folder)
