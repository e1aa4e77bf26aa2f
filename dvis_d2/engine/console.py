"""What a training says: all of it in ``OUTPUT_DIR/log.txt``, little on the console."""

import functools
import logging
import os
import shlex
import shutil
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

LOGGERS = ("dvis_d2", "detectron2", "fvcore")
SLOWDOWN = 10  # times its own best that a step takes before a training speaks of it
logger = logging.getLogger(__name__)


class _Brief(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname}: " * (record.levelno >= logging.WARNING) + record.getMessage()


@functools.lru_cache
def setup_console(name: str, quiet: bool = False) -> None:
    """Let a logger speak on the main process's console: in Detectron2's form, or, where `quiet`, in plain lines:
    what dvis_d2 says, and warnings about weights. Debug messages, config and model among them, are for log files."""
    if not sys.warnoptions:
        for category in (DeprecationWarning, FutureWarning):  # of libraries, to those who use them
            warnings.simplefilter("ignore", category)
    if not comm.is_main_process():
        return
    levels = {"fvcore": logging.WARNING, "detectron2": logging.CRITICAL} if quiet else {}
    for handler in setup_logger(name=name).handlers:
        handler.setLevel(levels.get(name, logging.INFO))
        if quiet:
            handler.setFormatter(_Brief())


def setup_logs(output_dir: str, quiet: bool = False) -> None:
    """Console and ``output_dir/log.txt``, which has everything."""
    for name in LOGGERS:
        setup_console(name, quiet)
        setup_logger(output_dir, distributed_rank=comm.get_rank(), name=name, configure_stdout=False)


def setup_training(cfg: CfgNode, command_line: object, quiet: bool = False) -> None:
    """As Detectron2's ``default_setup``, but environment and config stand in the log file alone, and without colors."""
    setup_logs(cfg.OUTPUT_DIR, quiet)
    for chatty in ("torch.utils.cpp_extension", "torch.fx._symbolic_trace"):  # there is no CUDA; a name has changed
        logging.getLogger(chatty).setLevel(logging.ERROR)
    logging.getLogger("detectron2").info("Rank %d of world size: %d", comm.get_rank(), comm.get_world_size())
    logger.debug("Environment:\n%s", collect_env_info())
    logger.debug("Command line: %s", command_line)
    logger.debug("Config:\n%s", cfg.dump())
    if comm.is_main_process():
        Path(cfg.OUTPUT_DIR, "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def data_name(dataset_name: str) -> str:
    """What a user calls a data set: own data by their file."""
    metadata = MetadataCatalog.get(dataset_name)
    return metadata.get("json_file", dataset_name) if dataset_name.startswith("custom_") else dataset_name


def resume_command() -> str:
    """The command that goes on with what this process was started for."""
    program, *args = sys.argv
    words = {"__main__": ["python", "-m", "dvis_d2"], "dvis": ["dvis"]}.get(Path(program).stem)
    if "--resume" not in args:
        args.insert(args.index("train") + 1 if words else 0, "--resume")
    return shlex.join((words or ["python", program]) + args)


class Progress(HookBase):
    """One line on the console: how far, until when, how well. On a terminal it is renewed in place, elsewhere a new
    one comes now and then."""

    def __init__(self) -> None:
        self.stream = sys.stdout
        self.in_place = self.stream.isatty()
        self.open, self.due = False, 0.0

    def after_step(self) -> None:
        done, total = self.trainer.iter + 1, self.trainer.max_iter
        if (now := time.monotonic()) < self.due and done < total:
            return
        self.due = now + (0.5 if self.in_place else 30)
        known = self.trainer.storage.histories()
        parts = [f"{done}/{total} iterations", f"{100 * done // total} %"]
        if "time" in known:
            seconds = known["time"].median(200)
            parts += [f"ETA {timedelta(seconds=round(seconds * (total - done)))}", f"{seconds:.2f} s/iteration"]
        if "total_loss" in known:
            parts.append(f"loss {known['total_loss'].median(20):.3f}")
        if "validation/AP" in known:
            aps = [value for value, _ in known["validation/AP"].values()]
            parts.append(f"validation AP {aps[-1]:.1f} (best {max(aps):.1f})")
        text = "  ".join(parts)
        if self.in_place:
            width = shutil.get_terminal_size().columns - 1
            text = text[:width].ljust(width)
        # on a terminal, whatever is printed next begins at the left, over this line
        self.open = self.in_place and done < total
        print(text, end="\r" if self.open else "\n", file=self.stream, flush=True)

    def after_train(self) -> None:
        if self.open:
            print(file=self.stream, flush=True)


class SlowSteps(HookBase):
    """Says once that steps take :data:`SLOWDOWN` times their own best, why, and what helps."""

    def __init__(self, window: int = 20):
        self.window, self.best, self.told = window, float("inf"), False

    def after_step(self) -> None:
        known = self.trainer.storage.histories()
        if self.told or "time" not in known or (self.trainer.iter + 1) % self.window:
            return
        seconds = known["time"].median(self.window)
        self.best = min(self.best, seconds)
        self.told = seconds > SLOWDOWN * self.best
        if not self.told:
            return
        if known["data_time"].median(self.window) > seconds / 2:
            why = "most of it waits for images: is the disk or the network slow? More DATALOADER.NUM_WORKERS may help"
        else:
            load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; " if hasattr(os, "getloadavg") else ""
            why = f"other programs use the machine ({load}end them, or start again with OMP_NUM_THREADS=1 and --resume)"
        logger.warning("an iteration takes %.2f s, and took %.2f s at best: %s", seconds, self.best, why)
