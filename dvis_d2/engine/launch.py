"""Starting the processes of a training or an evaluation."""

import argparse
import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from detectron2.engine import launch as spawn
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.utils import comm

# what torchrun sets in every process
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def launch(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Run ``main(args)`` in every process: in those that torchrun started, or in ``args.num_gpus`` new ones.

    The processes talk by NCCL where there is CUDA and by gloo on CPUs.

    Args:
        args: of :func:`argument_parser`.

    Raises:
        SystemExit: there are more processes on this machine than GPUs, or both ways are asked for.
    """
    if not all(name in os.environ for name in TORCHRUN):
        _check_devices(args.num_gpus)
        spawn(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
        return
    if (args.num_gpus, args.num_machines, args.machine_rank) != (1, 1, 0):
        raise SystemExit("torchrun starts the processes itself: leave out --num-gpus, --num-machines, --machine-rank")
    local_size = int(os.environ["LOCAL_WORLD_SIZE"])
    _check_devices(local_size)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(local_size)
    comm.synchronize()
    main(args)
    dist.destroy_process_group()


def _check_devices(num_processes: int) -> None:
    if torch.cuda.is_available() and num_processes > torch.cuda.device_count():
        raise SystemExit(
            f"{num_processes} processes on a machine with {torch.cuda.device_count()} GPUs: start fewer (--num-gpus, "
            "or torchrun's --nproc-per-node), or hide the GPUs with CUDA_VISIBLE_DEVICES= to use the CPU"
        )
