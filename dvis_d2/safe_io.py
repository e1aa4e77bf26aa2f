"""Files that are read without running what is in them, and written whole or not at all."""

import contextlib
import gc
import json
import logging
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import yaml
from filelock import FileLock, Timeout

ALLOW_PICKLE = "DVIS_ALLOW_PICKLE"
# what NumPy's arrays and strings need of a pickle
_HARMLESS = re.compile(
    r"collections\.OrderedDict|_codecs\.encode|numpy\.(ndarray|dtype)"
    r"|numpy\._?core\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)"
)


class DamagedCheckpoint(ValueError):
    """A file that is cut, empty, or holds no weights."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if not _HARMLESS.fullmatch(f"{module}.{name}"):
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return super().find_class(module, name)


def read_checkpoint(path: str) -> dict:
    """The content of a local file: safetensors (half precision becomes float32), a pickle of NumPy arrays (.pkl, as of
    Detectron2's model zoo), or else torch's. No code in it is run; ValueError for a file that holds some, unless
    ``DVIS_ALLOW_PICKLE=1`` is in the environment. :class:`DamagedCheckpoint` for one that cannot be read."""
    trusted = os.environ.get(ALLOW_PICKLE) == "1"
    try:
        import torch  # what writes files does without

        if path.endswith(".safetensors"):
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                info = json.loads((file.metadata() or {}).get("dvis", "{}"))
            half = (torch.float16, torch.bfloat16)
            return {"model": {k: v.float() if v.dtype in half else v for k, v in tensors.items()}, "dvis": info}
        if path.endswith(".pkl"):
            with open(path, "rb") as file:
                content = (pickle.Unpickler if trusted else _ArrayUnpickler)(file, encoding="latin1").load()
        else:
            content = torch.load(path, map_location="cpu", weights_only=not trusted)
    except OSError:
        raise
    except Exception as error:  # what comes of arbitrary bytes has many types
        found = re.search(r"GLOBAL (\S+)|unrecognized function (.+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and found:
            advice = f"take weights stored as tensors alone; if you trust who made the file, set {ALLOW_PICKLE}=1"
            raise ValueError(f"{path} would run code when it is loaded: {found[1] or found[2]}\n{advice}") from error
        advice = "copy or download it again, or take another checkpoint"
        raise DamagedCheckpoint(f"{path} is damaged, or holds no weights\n{advice}") from error
    weights = content.get("model", {}) if isinstance(content, dict) else content
    if not isinstance(weights, dict):
        raise DamagedCheckpoint(f"{path} holds a {type(weights).__name__}, no weights\ngive a model's checkpoint")
    return content


def read_json(path: str | os.PathLike) -> Any:
    """The content of a JSON file in UTF-8, -16 or -32, with a byte-order mark or without. OSError, or ValueError."""
    collects = gc.isenabled()
    gc.disable()  # which would look through the growing tree again and again: twice the time
    try:
        return json.loads(Path(path).read_bytes())
    except RecursionError:
        raise ValueError("lists and objects are nested too deeply") from None
    finally:
        if collects:
            gc.enable()


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` when it is complete and on the disk; until then, what was there stays."""
    temporary = f"{path}.part"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch's own says nothing of a full disk
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror, cause.filename or str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


@contextlib.contextmanager
def locked(path: str | os.PathLike, what: str, *, patience: float = 10, limit: float = 3600) -> Iterator[None]:
    """Hold a lock that other processes take too. After `patience` seconds it is said `what` is waited for; TimeoutError
    after `limit` seconds more."""
    lock = FileLock(path)
    try:
        held = lock.acquire(timeout=patience)
    except Timeout:
        logging.getLogger(__name__).warning("waiting for %s, which holds %s", what, path)
        try:
            held = lock.acquire(timeout=limit)
        except Timeout:
            raise TimeoutError(f"waited {limit:.0f} s for {what}; end the process that holds {path}") from None
    with held:
        yield


class _Loader(yaml.SafeLoader):
    """Safe YAML with Python's tuples, which saved configs hold, and each key once. An alias stands for a plain value, a
    list or a dict of plain values, which excludes loops and files that grow without end."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            node = self.anchors.get(self.peek_event().anchor)
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            values = [part[1] if isinstance(part, tuple) else part for part in parts]
            if node and (node.end_mark is None or not all(isinstance(v, yaml.ScalarNode) for v in values)):
                raise yaml.constructor.ConstructorError(None, None, "an alias of nested values", node.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice} twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


def parse_yaml(text: str | bytes, name: str) -> dict:
    """The keys and values of a YAML text, by safe YAML. ValueError, which names `name`, for what is none."""
    try:
        content = yaml.load(text, _Loader) or {}
    except (yaml.YAMLError, RecursionError) as error:
        what = f"{name} cannot be read as plain YAML: {' '.join(str(error).split())[:300]}"
        raise ValueError(f"{what}\ncorrect or remove what it names") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name} holds {str(content)[:40]!r} where keys and values belong\nwrite KEY: VALUE lines")
    return content
