"""The program as a whole: its help, and errors of the user's."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

import dvis_d2
from dvis_d2.cli import main
from dvis_d2.cli.errors import UserErrors, launch
from dvis_d2.data import DatasetError
from dvis_d2.engine import argument_parser

ROOT = Path(__file__).parents[2]
CONFIG = ["--config-file", "shapes/shapes_easy.yaml"]


def invoke(*args, program=main):
    return CliRunner().invoke(program, [str(a) for a in args])


def assert_two_lines(result, *parts):
    assert result.exit_code == 2, result.output
    what, advice = result.stderr.strip().splitlines()
    assert what.startswith("Error: ") and advice.startswith("To do: ")
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], ["--version"]])
def test_the_package_is_a_program(args):
    command = [sys.executable, "-m", "dvis_d2", *args]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0 and ("Usage: dvis" in done.stdout or dvis_d2.__version__ in done.stdout)


def test_every_command_explains_itself():
    names = {"train", "eval", "predict", "explore", "report", "export", "tune", "check", "convert"}
    assert set(main.commands) == names
    for name in main.commands:
        result = invoke(name, "--help")
        assert result.exit_code == 0 and f"Usage: dvis {name}" in result.output


def test_an_unknown_key_is_answered_with_similar_ones(tmp_path):
    result = invoke("eval", *CONFIG, "MODEL.MEAN_SHIFT.BANDWITHS", "[0.9]")
    assert_two_lines(result, "MODEL.MEAN_SHIFT.BANDWITHS", "did you mean MODEL.MEAN_SHIFT.BANDWIDTHS")


def test_a_value_of_another_type_is_named():
    assert_two_lines(invoke("eval", *CONFIG, "SOLVER.MAX_ITER", "many"), "SOLVER.MAX_ITER", "many")


def test_an_unknown_config_lists_those_that_exist():
    assert_two_lines(invoke("train", "--config-file", "shapes/hard.yaml"), "shapes/hard.yaml", "shapes/shapes.yaml")


def test_a_folder_that_cannot_be_read_is_named_with_what_is_expected(tmp_path):
    output = ["--output", tmp_path / "out"]
    assert_two_lines(invoke("train", "--data", tmp_path / "no", *output), f"no folder {tmp_path}/no", "give the folder")
    assert_two_lines(invoke("train", "--data", tmp_path, *output), "0 images", "data.yaml; LabelMe")


def test_own_data_that_do_not_exist_are_named():
    result = invoke("train", *CONFIG, "--train-json", "nowhere.json")
    assert result.exit_code == 2 and "nowhere.json" in result.stderr and "dvis check" in result.stderr


@pytest.mark.parametrize(
    "opts, message",
    [(["--resum"], "--resum"), (["SOLVER.BASE_LR"], "SOLVER.BASE_LR has no value"), ([], "config-file")],
)
def test_wrong_usage(opts, message):
    result = invoke("train", *(CONFIG if opts else []), *opts)
    assert result.exit_code == 2 and message in result.stderr and "Usage: dvis train" in result.stderr


def failing(error):
    @click.group(cls=UserErrors)
    @click.option("--debug", is_flag=True, envvar="DVIS_DEBUG")
    def program(debug):
        pass

    @program.command()
    def fail():
        raise error

    return program


@pytest.mark.parametrize(
    "error, advice",
    [
        (DatasetError("b.json has no image"), "dvis check"),
        (FileNotFoundError("there is no a.png"), str(Path.cwd())),
        (ImportError("x needs y: python -m pip install y"), "install"),
        (SystemExit("2 processes on a machine with 1 GPUs"), "correct"),
    ],
)
def test_errors_of_the_users_have_an_advice_and_no_traceback(error, advice, monkeypatch):
    # as if this module were one of the package
    monkeypatch.setitem(globals(), "__name__", "dvis_d2.data.example")
    assert_two_lines(invoke("fail", program=failing(error)), str(error), advice)


def test_an_error_with_its_own_advice_is_two_lines(monkeypatch):
    monkeypatch.setitem(globals(), "__name__", "dvis_d2.example")
    result = invoke("fail", program=failing(ValueError("a.pth is damaged\ncopy it again")))
    assert result.stderr == "Error: a.pth is damaged\nTo do: copy it again\n"


def test_control_characters_of_a_name_are_shown_not_sent():
    result = invoke("fail", program=failing(FileNotFoundError("there is no \x1b]0;pwned\x07\x9b31m.png")))
    assert_two_lines(result, r"\x1b]0;pwned\x07\x9b31m.png")


class Faulty(torch.utils.data.Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error


@pytest.mark.parametrize("error", [FileNotFoundError("there is no a.png"), DatasetError("a.png is another size")])
def test_an_error_of_a_data_loaders_worker_is_two_lines(error, monkeypatch):
    monkeypatch.setitem(globals(), "__name__", "dvis_d2.data.example")
    monkeypatch.setattr(Faulty.__getitem__, "__code__", _code_of_the_package(Faulty.__getitem__.__code__))

    @click.group(cls=UserErrors)
    def program():
        pass

    @program.command()
    def fail():
        list(torch.utils.data.DataLoader(Faulty(error), num_workers=1, multiprocessing_context="fork"))

    assert_two_lines(invoke("fail", program=program), f"Error: {error}\n")


def _code_of_the_package(code):
    return code.replace(co_filename=str(ROOT / "dvis_d2" / "data" / "example.py"))


def _raise(args):
    raise args.error


@pytest.mark.slow
@pytest.mark.parametrize("debug", [False, True])
def test_an_error_of_a_process_of_its_own_is_two_lines(debug, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    @click.group(cls=UserErrors)
    @click.option("--debug", is_flag=True)
    def program(debug):
        pass

    @program.command()
    def fail():
        args = argument_parser().parse_args(["--num-gpus", "2", "--dist-url", "auto"])
        args.error = FileNotFoundError("there is no a.png")
        launch(_raise, args)

    result = invoke(*["--debug"] * debug, "fail", program=program)
    if debug:
        assert "Traceback" in str(result.exception) and "there is no a.png" in str(result.exception)
    else:
        assert_two_lines(result, "Error: there is no a.png\n")


def test_debugging_and_errors_of_the_program_show_where(monkeypatch):
    error = FileNotFoundError("there is no a.png")
    assert invoke("--debug", "fail", program=failing(error)).exception is error
    monkeypatch.setenv("DVIS_DEBUG", "1")
    assert invoke("fail", program=failing(error)).exception is error
    monkeypatch.delenv("DVIS_DEBUG")
    for error in (RuntimeError("shapes differ"), ValueError("raised by a library")):
        assert invoke("fail", program=failing(error)).exception is error
