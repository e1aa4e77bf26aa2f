"""Two gloo processes, of which one stops itself; test_processes.py starts this: stopped_worker.py RENDEZVOUS RANK."""

import os
import signal
import sys

import torch
import torch.distributed as dist
from detectron2.utils import comm

from dvis_d2.engine import argument_parser, launch


def main(args):
    for step in range(1000):
        if step == 3 and comm.get_rank() == int(args.opts[0]):
            os.kill(os.getpid(), signal.SIGSTOP)
        dist.all_reduce(torch.ones(1))


if __name__ == "__main__":
    url, rank = sys.argv[1:]
    launch(main, argument_parser().parse_args(["--num-gpus", "2", "--dist-url", url, rank]))
