import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from torch import nn

from ..checkpoint import DVISCheckpointer


@contextlib.contextmanager
def output_folder(folder: str, *, resume: bool) -> Iterator[None]:
    """Hold a folder for one training. FileExistsError if another one holds it, which is named, or, without `resume`,
    if it has checkpoints."""
    os.makedirs(folder, exist_ok=True)
    holder = Path(folder, ".training.pid")
    try:
        lock = FileLock(os.path.join(folder, ".training.lock")).acquire(timeout=0)
    except Timeout:
        pid = holder.read_text() if holder.is_file() else "unknown"
        advice = "wait for it, stop it, or give another OUTPUT_DIR"
        raise FileExistsError(f"process {pid} is training in {folder}\n{advice}") from None
    with lock:
        found = DVISCheckpointer(nn.Module(), folder).get_checkpoint_file()
        if found and not resume:
            advice = "give another OUTPUT_DIR, or --resume to continue that training"
            raise FileExistsError(f"{found} is there: a training would overwrite it\n{advice}")
        holder.write_text(str(os.getpid()))
        yield
