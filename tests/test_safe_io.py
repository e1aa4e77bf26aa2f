import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dvis_d2.config import load_config
from dvis_d2.engine import argument_parser, setup_cfg
from dvis_d2.safe_io import ALLOW_PICKLE, DamagedCheckpoint, parse_yaml, read_checkpoint, replacing


class Command:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_pickle_that_would_run_code_is_refused_unless_it_is_allowed(tmp_path, suffix, monkeypatch):
    path, proof = tmp_path / f"weights{suffix}", tmp_path / "proof"
    content = {"model": {"a": Command(proof)}, "__author__": "somebody"}
    path.write_bytes(pickle.dumps(content)) if suffix == ".pkl" else torch.save(content, path)
    with pytest.raises(ValueError, match=rf"would run code.*mkdir\n.*{ALLOW_PICKLE}=1"):
        read_checkpoint(str(path))
    assert not proof.exists()
    monkeypatch.setenv(ALLOW_PICKLE, "1")
    assert "model" in read_checkpoint(str(path)) and proof.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_numpy_arrays_of_the_model_zoo_are_read(tmp_path, protocol):
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "f": np.asfortranarray(np.eye(3)), "n": np.float64(3)}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "test"}, protocol=protocol))
    read = read_checkpoint(str(path))["model"]
    assert all(np.array_equal(read[key], value) and read[key].dtype == value.dtype for key, value in arrays.items())


def test_half_precision_becomes_float32_and_integers_stay(tmp_path):
    tensors = {"w": torch.tensor([0.5, 1.5]).half(), "b": torch.tensor([2.0]).bfloat16(), "n": torch.tensor([7])}
    save_file(tensors, tmp_path / "m.safetensors", {"dvis": '{"class_names": ["a"]}'})
    read = read_checkpoint(str(tmp_path / "m.safetensors"))
    assert read["dvis"] == {"class_names": ["a"]}
    assert [read["model"][k].dtype for k in "wbn"] == [torch.float32, torch.float32, torch.int64]
    assert read["model"]["w"].tolist() == [0.5, 1.5]


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"no weights at all", b"\x80\x04\x95\xff", b"PK\x03\x04cut", b"N.", b"\x80\x02N."]
)
def test_what_is_no_checkpoint_is_damaged(tmp_path, suffix, content):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=str(path)) as error:
        read_checkpoint(str(path))
    assert len(str(error.value).splitlines()) == 2


def test_every_cut_of_a_checkpoint_is_noticed(tmp_path):
    torch.save({"model": {"w": torch.randn(300)}}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(DamagedCheckpoint):
            read_checkpoint(str(tmp_path / "cut.pth"))


def test_a_missing_file_is_no_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), replacing(str(path)) as file:
        file.write(b"ne")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    with replacing(str(path)) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("through_base", [False, True])
def test_a_config_runs_nothing(tmp_path, through_base):
    proof = tmp_path / "proof"
    (tmp_path / "evil.yaml").write_text(f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{proof}']\n")
    (tmp_path / "outer.yaml").write_text("_BASE_: evil.yaml\n")
    path = tmp_path / ("outer.yaml" if through_base else "evil.yaml")
    with pytest.raises(ValueError, match="evil.yaml cannot be read as plain YAML.*os.mkdir"):
        setup_cfg(argument_parser().parse_args(["--config-file", str(path)]))
    assert not proof.exists()


def test_bases_are_merged_in_order_and_tuples_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("SEED: 1\nSOLVER: {MAX_ITER: 1, BASE_LR: 0.5}\n")
    (tmp_path / "b.yaml").write_text("SOLVER: {MAX_ITER: 2}\n")
    outer = tmp_path / "outer.yaml"
    outer.write_text("_BASE_: [a.yaml, b.yaml]\nSEED: 3\nINPUT: {MIN_SIZE_TRAIN: !!python/tuple [5, 6]}\n")
    cfg = setup_cfg(argument_parser().parse_args(["--config-file", str(outer)]))
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.INPUT.MIN_SIZE_TRAIN) == (3, 2, 0.5, (5, 6))


def test_a_config_that_is_its_own_base_is_named(tmp_path, tiny_cfg):
    (tmp_path / "a.yaml").write_text("_BASE_: b.yaml\n")
    (tmp_path / "b.yaml").write_text("_BASE_: a.yaml\n")
    with pytest.raises(ValueError, match="a.yaml is its own _BASE_"):
        load_config(tiny_cfg, str(tmp_path / "a.yaml"))


def test_aliases_stand_for_plain_values_only():
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: &y {d: 1}\ne: {<<: *y, f: 2}", "t")["e"] == {"d": 1, "f": 2}
    bomb = "a: &a [1, 1]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n"
    for text in (bomb, "a: &a [*a]", "a: &a {b: *a}", "a: &a [[1]]\nb: *a"):
        with pytest.raises(ValueError, match="alias"):
            parse_yaml(text, "t")


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b"a: [", b"- 1", b"word", "a: \x07"])
def test_what_is_no_yaml_of_keys_is_named(text):
    with pytest.raises(ValueError, match="some file"):
        parse_yaml(text, "some file")
