"""Trains one config after the other in each of several processes; test_distributed.py starts this with torchrun.

    several_runs.py runs.json results.json

``runs.json`` maps names to command lines of train_net.py; ``results.json`` gets, by the same names, a list of
{loss: value} for the iterations, averaged over the processes.
"""

import json
import sys

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from dvis_d2.engine import Trainer, argument_parser, launch, setup_cfg


class KeepLosses(HookBase):
    def __init__(self):
        self.losses = []

    def after_step(self):
        latest = self.trainer.storage.latest()
        self.losses.append({name: value for name, (value, _) in latest.items() if name.startswith("loss_")})


def losses_of_run(argv: list[str]) -> list[dict[str, float]]:
    cfg = setup_cfg(argument_parser().parse_args(argv))
    torch.set_num_threads(1)
    torch.manual_seed(0 if comm.is_main_process() else 1)  # the first process's weights count
    trainer = Trainer(cfg)
    keep = KeepLosses()
    keep.trainer = trainer
    trainer._hooks.insert(0, keep)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return keep.losses


def main(args):
    runs_file, results_file = sys.argv[1:]
    with open(runs_file) as f:
        results = {name: losses_of_run(argv) for name, argv in json.load(f).items()}
    if comm.is_main_process():
        with open(results_file, "w") as f:
            json.dump({"world_size": comm.get_world_size(), "losses": results}, f)


if __name__ == "__main__":
    launch(main, argument_parser().parse_args([]))
