import pytest
from PIL import Image

from experiments import animate


@pytest.mark.slow
def test_a_training_becomes_an_animated_picture(tiny_args, tmp_path, capsys):
    path = tmp_path / "training.webp"
    options = ["--output", str(path), "--every", "2", "--num-images", "3"]
    at = tiny_args.index("--config-file")
    config, data = tiny_args[at : at + 2], tiny_args[at + 10 :]
    own = ["DATASETS.CUSTOM.TRAIN_JSON", tiny_args[3], "DATASETS.CUSTOM.TRAIN_IMAGES", tiny_args[5]]
    own += ["DATASETS.CUSTOM.VAL_JSON", tiny_args[7], "DATASETS.CUSTOM.VAL_IMAGES", tiny_args[9]]
    animate.main([*options, *config, *data, *own, "OUTPUT_DIR", str(tmp_path / "out")])
    with Image.open(path) as picture:
        assert picture.n_frames == 3 and picture.width > 3 * animate.TILE  # before the training, after 2 and 4 steps
    assert '"frames": 3' in capsys.readouterr().out
    assert (tmp_path / "out/model_final.pth").is_file()
