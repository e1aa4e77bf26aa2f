"""Weights that fit: checked against the model and the classes, with all that a model needs beside them."""

import contextlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from safetensors.torch import save
from torch import nn

from . import __version__
from .config import add_dvis_config, check_values, find_config, flat, load_config, merge_values, nested, packaged
from .safe_io import DamagedCheckpoint, parse_yaml, read_checkpoint, replacing
from .tuning.thresholds import check_thresholds, merge_tuned_thresholds

FINAL = "model_final.pth"
# keys of one machine or one data set, which a checkpoint does not carry
_LOCAL_KEYS = {"OUTPUT_DIR", "MODEL.DEVICE", "MODEL.WEIGHTS"}
_LOCAL_KEYS |= {f"DATASETS.CUSTOM.{split}_{what}" for split in ("TRAIN", "VAL") for what in ("JSON", "IMAGES")}


class DVISCheckpointer(DetectionCheckpointer):
    """Detectron2's, with safe loading, whole files, and strict models: ``load(path)`` takes everything or raises
    ValueError with what does not fit; ``load(path, checkpointables=[])`` starts a training from what fits."""

    loaded = ""  # the file that was loaded last

    def __init__(self, model: nn.Module, save_dir: str = "", *, info: Mapping[str, Any] | None = None, **kwargs):
        """`info`: :func:`checkpoint_info`, stored as "dvis" with every checkpoint; "class_names" have to be those of
        the weights. The further arguments are Detectron2's."""
        super().__init__(model, save_dir, **kwargs)
        self.info = dict(info or {})

    def save(self, name: str, **kwargs) -> None:
        if not self.save_dir or not self.save_to_disk:
            return
        data = {key: stateful.state_dict() for key, stateful in [("model", self.model), *self.checkpointables.items()]}
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        with replacing(path) as file:
            torch.save(data | {"dvis": self.info} | kwargs, file)
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Except for "model_best.pth", which is no state to resume from."""
        if last_filename_basename != "model_best.pth":
            with replacing(os.path.join(self.save_dir, "last_checkpoint")) as file:
                file.write(last_filename_basename.encode())

    def resumable(self) -> list[str]:
        """The checkpoints of a training in ``save_dir``, the newest first, whatever ``last_checkpoint`` says."""
        files = [str(path) for path in sorted(Path(self.save_dir).glob("model_*.pth"), reverse=True)]
        numbered, final = ([f for f in files if re.search(rf"{end}$", f)] for end in (r"model_\d+\.pth", FINAL))
        last = self._tagged()
        # a training that was continued beyond its end, or began anew beside older files
        return numbered[numbered.index(last) :] + final if last in numbered else final + numbered

    def _tagged(self) -> str:
        """The path that ``last_checkpoint`` names."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return str(Path(self.save_dir, Path(self.save_dir, "last_checkpoint").read_text().strip()))
        return ""

    def has_checkpoint(self) -> bool:
        return bool(self.resumable())

    def get_checkpoint_file(self) -> str:
        return next(iter(self.resumable()), "")

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As Detectron2's; a damaged or missing checkpoint is named, and the one before it is taken."""
        files = self.resumable() if resume else []
        if files and not os.path.isfile(self._tagged()):
            self.logger.warning("last_checkpoint names no file (%r): trying %s", self._tagged(), files[0])
        for file in files:
            try:
                return self.load(file)
            except DamagedCheckpoint as error:
                self.logger.warning("%s: taking the one before it", str(error).partition("\n")[0])
        if files:
            advice = "remove them to begin anew, or copy a whole one there"
            raise ValueError(f"all {len(files)} checkpoints in {self.save_dir} are damaged\n{advice}")
        return self.load(path, checkpointables=[])

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        self._strict = checkpointables is None
        if self._strict and not path:
            raise ValueError("there are no weights\nappend MODEL.WEIGHTS and the file of a trained model")
        self.loaded = path if not path or re.search(r"://|\?", path) else find_weights(path)
        try:
            return super().load(self.loaded, checkpointables)
        finally:
            self._parsed_url_during_load = None

    def _load_file(self, filename: str) -> dict:
        if not filename.endswith(".pkl"):
            return super()._load_file(filename)  # which calls the next
        data = read_checkpoint(filename)
        if "model" in data and "__author__" in data:
            return data
        arrays = {k: v for k, v in data.get("blobs", data).items() if not k.endswith("_momentum")}
        return {"model": arrays, "__author__": "Caffe2", "matching_heuristics": True}

    def _torch_load(self, f: str) -> dict:
        return read_checkpoint(f)

    def _load_model(self, checkpoint: dict) -> None:
        stored, own = (checkpoint.get("dvis") or {}).get("class_names"), self.info.get("class_names")
        if self._strict and stored and own and stored != own:
            advice = "give data with the same categories, in the order of their ids, or train on these"
            raise ValueError(f"{self.loaded} knows the classes {shorten(stored)}, not {shorten(own)}\n{advice}")
        wrong = [k for k, v in checkpoint["model"].items() if torch.is_tensor(v) and not torch.isfinite(v).all()]
        if wrong:
            advice = "take an earlier checkpoint, and lower SOLVER.BASE_LR to train on"
            raise ValueError(f"{self.loaded} holds NaN or infinite values ({shorten(wrong)})\n{advice}")
        incompatible = super()._load_model(checkpoint)
        shapes = {name: f"{name} {in_file} for {in_model}" for name, in_file, in_model in incompatible.incorrect_shapes}
        missing = [name for name in incompatible.missing_keys if name not in shapes]
        extra = [name for name in incompatible.unexpected_keys if not name.endswith("num_batches_tracked")]
        problems = ("of another shape", [*shapes.values()]), ("missing", missing), ("without use", extra)
        text = "; ".join(f"{len(names)} {what} ({shorten(names)})" for what, names in problems if names)
        total = len(self.model.state_dict())
        taken = total - len(incompatible.missing_keys)
        if text and (self._strict or not taken):
            advice = "give the config.yaml that the training wrote beside its weights, or the weights of this config"
            raise ValueError(f"{self.loaded} does not fit the model: of the tensors {text}\n{advice}")
        self.logger.info("%d of %d tensors are from %s%s", taken, total, self.loaded, text and f"; skipped: {text}")


def shorten(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def class_names(cfg: CfgNode, data_sets: Sequence[str] = ()) -> list[str]:
    """Of the first of these data sets that names its classes, or those in the config; class-agnostic heads detect an
    "object"."""
    if cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC:
        return ["object"]
    known = [MetadataCatalog.get(n).get("thing_classes") for n in data_sets if n in MetadataCatalog.list()]
    return list(next(filter(None, known), cfg.DATASETS.CUSTOM.CLASS_NAMES))


def checkpoint_info(cfg: CfgNode, statistics: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What :func:`load_model` needs beside the weights: "version", "config" (YAML, without the paths and the device of
    this machine), "class_names", and "statistics" of the training data, of plain values."""
    values = {key: value for key, value in flat(yaml.safe_load(cfg.dump())) if key not in _LOCAL_KEYS}
    if cfg.DATASETS.CUSTOM.CLASS_NAMES:
        values |= {"DATASETS.TRAIN": [], "DATASETS.TEST": []}
    return {
        "version": __version__,
        "config": yaml.safe_dump(nested(values)),
        "class_names": class_names(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)),
        "statistics": dict(statistics or {}),
    }


def find_weights(source: str | os.PathLike) -> str:
    """The local file of `source`: a file, the folder of a training (its best checkpoint, or else its last), a URL, or
    the name of a packaged model. FileNotFoundError if there is none."""
    source = os.fspath(source)
    if "://" in source:
        return PathManager.get_local_path(source)
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        last = DVISCheckpointer(nn.Module(), path).get_checkpoint_file()
        found = next(filter(os.path.isfile, (os.path.join(path, "model_best.pth"), last)), None)
        if not found:
            raise FileNotFoundError(f"there is no checkpoint in {source}\ngive the OUTPUT_DIR of a training")
        return found
    models = {file.stem: str(file) for file in sorted(packaged("models").glob("*.safetensors"))}
    if os.path.isfile(path) or source in models:
        return path if os.path.isfile(path) else models[source]
    advice = f"give a file, the folder of a training, or a packaged model: {', '.join(models) or 'none'}"
    raise FileNotFoundError(f"there are no weights {source}\n{advice}")


def stored_info(path: str, config_file: str | None = None) -> dict[str, Any]:
    """The :func:`checkpoint_info` in a file; its config is that of `config_file`, if given, or else, in a file without
    one, that of the config.yaml beside it. FileNotFoundError without either."""
    info = read_checkpoint(path).get("dvis") or {}
    names, kinds = info.get("class_names", []) if isinstance(info, dict) else None, {"config": str, "statistics": dict}
    sound = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not sound or not all(isinstance(info.get(key) or kind(), kind) for key, kind in kinds.items()):
        advice = "give the weights as a training of dvis_d2 wrote them"
        raise DamagedCheckpoint(f"{path} does not say rightly which model it is for\n{advice}")
    if "config" in info and "class_names" in info and not config_file:
        return info
    config_file = find_config(config_file) if config_file else os.path.join(os.path.dirname(path), "config.yaml")
    if not os.path.isfile(config_file):
        advice = "put the config.yaml of its training beside it, or name one by --config-file"
        raise FileNotFoundError(f"{path} does not say which model it is for\n{advice}")
    cfg = get_cfg()
    add_dvis_config(cfg)
    load_config(cfg, config_file)
    return checkpoint_info(cfg) | {"version": ""} | {k: v for k, v in info.items() if k != "config"}


def merge_stored(cfg: CfgNode, info: Mapping[str, Any], path: str) -> None:
    """Merge the config of a checkpoint, which came from `path`, in place, and its classes."""
    merge_values(cfg, dict(flat(parse_yaml(info["config"], f"the config in {path}"))), path)
    if info["class_names"] and not cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC:
        cfg.DATASETS.CUSTOM.CLASS_NAMES = names = list(info["class_names"])
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(names)


def settle_device(cfg: CfgNode) -> None:
    """The CPU, in place, with a log line, for a config of a machine with CUDA where there is none. ValueError for a
    device that is not here."""
    device = cfg.MODEL.DEVICE
    if device.startswith("cuda") and not torch.cuda.is_available():
        logging.getLogger(__name__).info("MODEL.DEVICE is %s, but there is no CUDA here: using the CPU", device)
        cfg.MODEL.DEVICE = "cpu"
    try:
        torch.empty(0, device=cfg.MODEL.DEVICE)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"there is no MODEL.DEVICE {device} here\ngive cpu, or leave it out for the best one"
        ) from error


def load_model(
    source: str | os.PathLike, *, device: str | None = None, opts: Sequence[str] = (), config_file: str | None = None
) -> tuple[CfgNode, nn.Module, dict[str, Any]]:
    """A trained model of :func:`find_weights` for inference: its frozen config, with ``MODEL.WEIGHTS`` the local file,
    the model in evaluation mode, and its :func:`checkpoint_info`. No other file is needed; thresholds that were tuned
    for it are taken from beside it.

    `device` is by default CUDA, where there is one; `opts` ("KEY", "VALUE", ...) change the config; `config_file`
    stands in for the config that the weights carry, or that lies beside them. FileNotFoundError where there are no such
    weights, or they do not say which model they are for; ValueError where they are damaged, would run code, or do not
    fit their config.
    """
    path = find_weights(source)
    info = stored_info(path, config_file)
    cfg = get_cfg()
    add_dvis_config(cfg)
    merge_stored(cfg, info, path)
    cfg.MODEL.WEIGHTS = path
    cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
    merge_tuned_thresholds(cfg, opts)
    cfg.merge_from_list(list(opts))
    check_thresholds(cfg)
    check_values(cfg)
    settle_device(cfg)
    cfg.freeze()
    model = build_model(cfg).eval()
    DVISCheckpointer(model).load(path)
    return cfg, model, info


def save_safetensors(source: str | os.PathLike, path: str | os.PathLike) -> None:
    """Write the model of :func:`load_model` as half-precision safetensors that carry all that it needs; vectors, which
    hold variances, stay float32."""
    cfg, model, info = load_model(source, device="cpu")
    tensors = {k: v.half() if v.is_floating_point() and v.dim() > 1 else v for k, v in model.state_dict().items()}
    info = info | {"config": checkpoint_info(cfg)["config"]}  # with the tuned thresholds
    with replacing(os.fspath(path)) as file:
        file.write(save({k: v.contiguous() for k, v in tensors.items()}, {"dvis": json.dumps(info)}))
