import io
import sys

import pytest
from detectron2.engine.train_loop import TrainerBase

from dvis_d2.engine import argument_parser, launch
from dvis_d2.engine.console import Progress, SlowSteps, resume_command


@pytest.mark.parametrize(
    "argv, command",
    [
        (
            ["/x/bin/dvis", "train", "SEED", "1", "OUTPUT_DIR", "my out"],
            "dvis train --resume SEED 1 OUTPUT_DIR 'my out'",
        ),
        (["/x/bin/dvis", "train", "--resume", "SEED", "1"], "dvis train --resume SEED 1"),
        (["/x/dvis_d2/__main__.py", "--debug", "train"], "python -m dvis_d2 --debug train --resume"),
        (
            ["train_net.py", "--config-file", "train", "SEED", "1"],
            "python train_net.py --resume --config-file train SEED 1",
        ),
    ],
)
def test_the_command_that_continues(argv, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    assert resume_command() == command


def test_ctrl_c_ends_with_the_command_that_continues(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dvis", "train", "SEED", "1"])

    def interrupted(args):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        launch(interrupted, argument_parser().parse_args([]))
    assert stop.value.code == 130
    assert capsys.readouterr().out.rstrip().endswith("last checkpoint:\n  dvis train --resume SEED 1")
    with pytest.raises(SystemExit):
        launch(interrupted, argument_parser().parse_args(["--eval-only"]))
    assert "--resume" not in capsys.readouterr().out


class Steps(TrainerBase):
    """Steps of given seconds, with what a training puts into its storage."""

    def __init__(self, seconds, hook, reading=0.0):
        super().__init__()
        self.seconds, self.reading = seconds, reading
        self.register_hooks([hook])
        self.train(0, len(seconds))

    def run_step(self):
        self.storage.put_scalars(time=self.seconds[self.iter], data_time=self.reading, total_loss=2.0)
        if self.iter in (1, 2):
            self.storage.put_scalar("validation/AP", 30.0 + 5 * (self.iter == 1), smoothing_hint=False)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_one_line_with_the_time_left(monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream := Terminal())
    monkeypatch.setenv("COLUMNS", "100")
    Steps([2.0] * 50, Progress())
    assert stream.getvalue().count("\n") == 1
    first, *_, last = stream.getvalue().rstrip().split("\r")
    assert first.startswith("1/50 iterations  2 %  ETA 0:01:38  2.00 s/iteration  loss 2.000") and len(first) == 99
    assert last.startswith("50/50 iterations") and "validation AP 30.0 (best 35.0)" in last


def test_progress_in_a_file_is_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream := io.StringIO())
    Steps([2.0] * 50, Progress())
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["1/50", "50/50"] and "\r" not in stream.getvalue()


@pytest.mark.parametrize("reading, why", [(0.0, "OMP_NUM_THREADS=1"), (2.0, "DATALOADER.NUM_WORKERS")])
def test_steps_ten_times_their_best_are_spoken_of_once(caplog, reading, why):
    Steps([0.2] * 20 + [1.9] * 20, SlowSteps(), reading)
    assert not caplog.records
    Steps([0.2] * 20 + [2.1] * 40, SlowSteps(), reading)
    (record,) = caplog.records
    assert "takes 2.10 s, and took 0.20 s at best" in record.getMessage() and why in record.getMessage()
