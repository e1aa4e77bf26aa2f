from pathlib import Path

import pytest
from detectron2.config import get_cfg

from dvis_d2 import config
from dvis_d2.config import find_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["configs/nuclei/nuclei.yaml", "nuclei/nuclei.yaml", "./configs/nuclei/nuclei.yaml"])
def test_packaged_configs_are_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(find_config(name)) == ROOT / "configs" / "nuclei" / "nuclei.yaml"


def test_a_file_that_exists_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvis_R50.yaml").touch()
    assert find_config("dvis_R50.yaml") == "dvis_R50.yaml"
    assert find_config("detectron2://a.yaml") == "detectron2://a.yaml"  # Detectron2 opens it


def test_an_unknown_name_lists_what_exists():
    with pytest.raises(FileNotFoundError, match=r"no config file dvis_R18.yaml.* dvis_R50.yaml, .*nuclei/nuclei.yaml"):
        find_config("dvis_R18.yaml")


def test_an_installed_package_has_its_configs_inside(tmp_path, monkeypatch):
    package = tmp_path / "dvis_d2"
    monkeypatch.setattr(config, "_PACKAGE", package)
    for folder in (tmp_path / "configs", package / "configs"):
        folder.mkdir(parents=True)
        (folder / "some.yaml").touch()
        assert find_config("configs/some.yaml") == str(folder / "some.yaml")


@pytest.mark.parametrize("base", ["5", "[5]", "null", "{a: b}"])
def test_a_base_that_is_no_file(base, tmp_path):
    (tmp_path / "x.yaml").write_text(f"_BASE_: {base}\n")
    with pytest.raises(ValueError, match="_BASE_ in .*x.yaml is .*\n"):
        config.load_config(get_cfg(), str(tmp_path / "x.yaml"))


def test_a_key_that_is_given_twice(tmp_path):
    (tmp_path / "x.yaml").write_text("SOLVER:\n  MAX_ITER: 5\n  GAMMA: 0.1\n  MAX_ITER: 7\n")
    with pytest.raises(ValueError, match="x.yaml cannot be read .*the key MAX_ITER twice"):
        config.load_config(get_cfg(), str(tmp_path / "x.yaml"))
