"""A training that is stopped at any moment of its end, continued, and not replaced by another."""

import os

import pytest
import torch
from filelock import FileLock

from dvis_d2.checkpoint import DVISCheckpointer
from dvis_d2.engine import Trainer, argument_parser, train
from dvis_d2.engine.output_folder import output_folder


@pytest.fixture
def short(tiny_cfg):
    """A training of 2 iterations that saves after each, and evaluates nothing."""
    tiny_cfg.SOLVER.MAX_ITER, tiny_cfg.SOLVER.CHECKPOINT_PERIOD, tiny_cfg.DATASETS.TEST = 2, 1, ()
    tiny_cfg.SEED = 1
    return tiny_cfg


def run(cfg, resume):
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def final_weights(folder):
    return torch.load(folder / "model_final.pth")["model"]


@pytest.mark.parametrize("at", [pytest.param(at, marks=pytest.mark.slow) if at != 5 else at for at in range(1, 7)])
def test_a_kill_at_any_replacement_of_a_file_ends_with_the_same_final_checkpoint(short, tmp_path, monkeypatch, at):
    """The two checkpoints of the run and the final one are two replacements each: the file, and last_checkpoint. The
    run does not get beyond the one before `at`."""
    short.OUTPUT_DIR = str(tmp_path / "whole")
    run(short, resume=False)
    whole, replace = final_weights(tmp_path / "whole"), os.replace
    short.OUTPUT_DIR = str(tmp_path / "killed")
    left = [at - 1]

    def replaced(*paths):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replaced)
        with pytest.raises(KeyboardInterrupt):
            run(short, resume=False)
    run(short, resume=True)
    resumed = final_weights(tmp_path / "killed")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_cut_final_checkpoint_is_written_again(short, tmp_path):
    run(short, resume=False)
    path = tmp_path / "output" / "model_final.pth"
    whole = final_weights(tmp_path / "output")
    path.write_bytes(path.read_bytes()[:1000])
    trainer = run(short, resume=True)
    assert trainer.start_iter == 2
    resumed = final_weights(tmp_path / "output")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert (tmp_path / "output" / "last_checkpoint").read_text() == "model_final.pth"


def test_checkpoints_of_a_training_are_not_overwritten_without_a_word(tiny_args, tmp_path):
    folder = tmp_path / "out"
    DVISCheckpointer(torch.nn.Linear(2, 2), str(folder.mkdir() or folder)).save("model_final")
    (folder / "config.yaml").write_text("SEED: 7\n")
    args = argument_parser().parse_args([*tiny_args, "OUTPUT_DIR", str(folder)])
    with pytest.raises(FileExistsError, match="model_final.pth is there.*\n.*--resume") as error:
        train(args)
    assert len(str(error.value).splitlines()) == 2
    assert (folder / "config.yaml").read_text() == "SEED: 7\n"


def test_a_second_training_in_one_folder_is_refused_and_names_the_first(tmp_path):
    with output_folder(str(tmp_path), resume=True):
        with pytest.raises(FileExistsError, match=f"process {os.getpid()} is training in .*\n") as error:
            with output_folder(str(tmp_path), resume=True):
                pass
        assert len(str(error.value).splitlines()) == 2
    with output_folder(str(tmp_path), resume=True):
        pass


def test_the_lock_goes_with_the_training(tmp_path):
    with pytest.raises(KeyError), output_folder(str(tmp_path), resume=False):
        raise KeyError
    FileLock(tmp_path / ".training.lock").acquire(timeout=0).lock.release()


def test_a_config_of_the_users_is_not_overwritten(tiny_args, tmp_path):
    own = tmp_path / "config.yaml"
    own.write_text(f"_BASE_: {tiny_args[1]}  # mine\n")
    args = argument_parser().parse_args(["--config-file", str(own), *tiny_args[2:], "OUTPUT_DIR", str(tmp_path)])
    with pytest.raises(FileExistsError, match="would be overwritten"):
        train(args)
    assert own.read_text().endswith("# mine\n")
