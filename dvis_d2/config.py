"""The config keys of DVIS, beside Detectron2's own. Section, equation and supplement numbers are the paper's."""

import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode as CN
from detectron2.projects.deeplab import add_deeplab_config
from detectron2.utils.file_io import PathManager

from .safe_io import parse_yaml

_PACKAGE = Path(__file__).resolve().parent
RENAMED_KEYS = {
    "MODEL.ASPP.CHANNELS": "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS",
    "MODEL.ASPP.DILATIONS": "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS",
    "MODEL.ASPP.DROPOUT": "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT",
    "MODEL.ASPP.NORM": "MODEL.SEM_SEG_HEAD.NORM",
    "MODEL.MEAN_SHIFT.CRUMB_RATIO": "MODEL.MEAN_SHIFT.MIN_PART_RATIO",
    "MODEL.MEAN_SHIFT.READINGS": "MODEL.MEAN_SHIFT.CANDIDATES",
    "MODEL.VARIATIONAL_LOSS.PI_CENTRE": "MODEL.VARIATIONAL_LOSS.PI_CENTER",
}
_NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")
ONE_OF = {
    "INPUT.FORMAT": ("BGR", "RGB", "L"),
    "INPUT.NORMALIZE": ("auto", "percentile", "none"),
    "INPUT.CROP.TYPE": ("relative_range", "relative", "absolute", "absolute_range"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"),
    "MODEL.RESNETS.DEPTH": (18, 34, 50, 101, 152),
    "MODEL.RESNETS.NORM": _NORMS,
    "MODEL.FPN.NORM": _NORMS,
}
AT_LEAST = {
    "INPUT.MIN_SIZE_TEST": 0,  # the image's own
    "INPUT.MAX_SIZE_TEST": 1,
    "INPUT.MAX_SIZE_TRAIN": 1,
    "TEST.TILE_SIZE": 0,  # no tiles
    "SOLVER.MAX_ITER": 1,
    "SOLVER.WEIGHT_DECAY": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "MODEL.FPN.OUT_CHANNELS": 1,
    "MODEL.LABEL_MAP_HEAD.CONV_DIM": 1,
}
# keys of earlier versions that are gone: without these any model works as well
DROPPED_KEYS = (
    "MODEL.DVIS_ROI_HEADS.REFINE_PROPOSALS",
    "MODEL.DVIS_ROI_HEADS.SECOND_LOOK",
    "MODEL.MEAN_SHIFT.LINK_THRESHOLDS",
)
# ... without these a model is what it is at this value
REMOVED_KEYS = {
    "DATASETS.CLASS_AGNOSTIC": False,
    "DATASETS.SEEN_CLASSES": [],
    "MODEL.DVIS_ROI_HEADS.BOX_MARGIN": 0.2,
    "MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC_NMS": False,
    "MODEL.DVIS_ROI_HEADS.IOU_LOSS_WEIGHT": 1.0,
    "MODEL.DVIS_ROI_HEADS.IOU_TARGET": "proposal",
    "MODEL.DVIS_ROI_HEADS.SCORE_FUSION": "sum",
    "MODEL.LABEL_MAP_HEAD.INIT_STD": 0.01,
    "MODEL.VARIATIONAL_LOSS.PI_DENSITY_WEIGHTED": False,
    "MODEL.VARIATIONAL_LOSS.PI_SAME_GLOBAL": False,
    "SOLVER.EMA_DECAY": 0.0,
    "SOLVER.LABEL_MAP_LR_FACTOR": 1.0,
    "SOLVER.ROI_HEADS_LR_FACTOR": 1.0,
    "TEST.USE_TUNED_THRESHOLDS": True,
}


def add_dvis_config(cfg: CN) -> None:
    """Add the keys of DVIS to a Detectron2 config, in place; among them those of Detectron2's DeepLab project."""
    add_deeplab_config(cfg)  # of them DeepLab-v3's backbone reads RESNETS.RES*, STEM_TYPE and SEM_SEG_HEAD.ASPP_*, NORM

    # Anyone's COCO-format data without writing code; "" = unset. Relative to the working directory.
    cfg.DATASETS.CUSTOM = CN()
    cfg.DATASETS.CUSTOM.TRAIN_JSON = ""
    cfg.DATASETS.CUSTOM.TRAIN_IMAGES = ""  # "" = the JSON's folder, or its sub-folder "images" if they are there
    cfg.DATASETS.CUSTOM.VAL_JSON = ""
    cfg.DATASETS.CUSTOM.VAL_IMAGES = ""
    cfg.DATASETS.CUSTOM.CLASS_NAMES = []  # filled from the JSON at training: a saved config names its classes

    # pixels to 8 bits: "auto" stretches those of more bits, "percentile" all, "none" none (dvis_d2/data/image_io.py)
    cfg.INPUT.NORMALIZE = "auto"
    cfg.INPUT.RANDOM_RIGHT_ANGLES = False  # turn training images by 0, 90, 180 or 270 degrees, as in microscopy
    cfg.INPUT.COLOR_JITTER = 0.0  # brightness, contrast, saturation of training images times 1 - x to 1 + x; 0 = none
    # images times this in training and test: objects keep their size, as in microscopy; 0 = to the sizes MIN_SIZE_*
    cfg.INPUT.SCALE = 0.0

    cfg.SOLVER.OPTIMIZER = "SGD"  # or "ADAMW", better from scratch
    cfg.SOLVER.ACCUMULATE_STEPS = 1  # take the batch in so many parts one after another: less memory

    # longest side, in network pixels, of what the network sees at once of an image that is read at the training's scale
    cfg.TEST.TILE_SIZE = 1024  # larger ones are read in overlapping tiles (docs/guide/crowds.md); 0 = always whole
    # end the training after so many validations without a better AP, 0 = never; for own data TEST.EVAL_PERIOD 0 means
    # ten validations a training, on some images, and -1 none but the final evaluation
    cfg.TEST.EARLY_STOPPING = 0
    # tune on half of DATASETS.TEST[0] after training; evaluation and prediction take the values (docs/guide/tuning.md)
    cfg.TEST.TUNE_THRESHOLDS = False

    cfg.MODEL.TIMM = CN()
    cfg.MODEL.TIMM.NAME = ""  # build_timm_fpn_backbone: a model of the library timm
    cfg.MODEL.TIMM.PRETRAINED = False  # a training starts from its weights

    # The fully convolutional head that predicts the label map (section 4)
    cfg.MODEL.LABEL_MAP_HEAD = CN()
    cfg.MODEL.LABEL_MAP_HEAD.IN_FEATURE = "p3"
    cfg.MODEL.LABEL_MAP_HEAD.COMMON_STRIDE = 4  # of the map in image pixels; the features are upsampled to it
    cfg.MODEL.LABEL_MAP_HEAD.CONV_DIM = 256
    cfg.MODEL.LABEL_MAP_HEAD.NUM_CONVS = 3  # 3x3 convolutions before the upsampling; one more follows it
    cfg.MODEL.LABEL_MAP_HEAD.NORM = "GN"
    cfg.MODEL.LABEL_MAP_HEAD.COORDINATES = False  # the features have the pixel's (x, y): tells identical copies apart

    # The variational loss (section 3.3); every *_WEIGHT multiplies its term, 0 removes it; *_START are shares of
    # MAX_ITER. VariationalCriterion explains the rest.
    cfg.MODEL.VARIATIONAL_LOSS = CN()
    cfg.MODEL.VARIATIONAL_LOSS.HUBER_THETA = 0.1
    cfg.MODEL.VARIATIONAL_LOSS.BINARY_WEIGHT = 3.0
    cfg.MODEL.VARIATIONAL_LOSS.BINARY_MARGIN = 2.0  # m1 of eq. 3
    cfg.MODEL.VARIATIONAL_LOSS.BINARY_BALANCE = True  # sparse objects survive, small ones get fat
    # a foreground pixel weighs |its instance|^-x: 0 (eq. 3) every pixel the same, 1 every instance; finds small objects
    cfg.MODEL.VARIATIONAL_LOSS.BINARY_AREA_EXPONENT = 0.0
    cfg.MODEL.VARIATIONAL_LOSS.PI_WEIGHT = 1.0
    cfg.MODEL.VARIATIONAL_LOSS.PI_MARGIN = 1.0  # m2 of eq. 5
    cfg.MODEL.VARIATIONAL_LOSS.PI_PAIRS = "exact"  # all pairs; "stratified": the paper's window; or "random"
    cfg.MODEL.VARIATIONAL_LOSS.PI_REDUCTION = "instances"  # every instance weighs the same; "pairs": every pair does
    cfg.MODEL.VARIATIONAL_LOSS.PI_DIFFERENT_WEIGHT = 2.0
    # ((window, weight), ...) in map pixels, 0 = all pairs of the image; "stratified": one, odd; 0 = the paper's 129
    cfg.MODEL.VARIATIONAL_LOSS.PI_WINDOWS = ((0, 1.0),)
    cfg.MODEL.VARIATIONAL_LOSS.PI_WINDOWS_START = 0.0  # until then all pairs of an image
    cfg.MODEL.VARIATIONAL_LOSS.PI_BACKGROUND = False  # background as one more instance in the pairs (authors)
    # "stratified": every offset up to the center, every dilation-th beyond, in map pixels; 0 = the paper's c = r = 8
    cfg.MODEL.VARIATIONAL_LOSS.PI_CENTER = 0
    cfg.MODEL.VARIATIONAL_LOSS.PI_DILATION = 0
    cfg.MODEL.VARIATIONAL_LOSS.MS_KIND = "cauchy"  # eq. 7, or "truncated" (eq. 6), or "welsch"
    # "welsch" alone: its scale in label units at MS_START and at MAX_ITER, geometric between; () = (1.0, 0.1)
    cfg.MODEL.VARIATIONAL_LOSS.MS_SCALE = ()
    cfg.MODEL.VARIATIONAL_LOSS.MS_WEIGHT = 0.1
    cfg.MODEL.VARIATIONAL_LOSS.MS_START = 0.5  # earlier, it slows the separation of the labels
    cfg.MODEL.VARIATIONAL_LOSS.QUANT_WEIGHT = 0.1
    cfg.MODEL.VARIATIONAL_LOSS.QUANT_START = 0.5

    # From label map to proposals (section 4, "Discretization"); group_label_map explains the keys
    cfg.MODEL.MEAN_SHIFT = CN()
    cfg.MODEL.MEAN_SHIFT.BANDWIDTHS = [0.9, 0.4]  # in units of the label
    cfg.MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD = 1.0  # halfway between background and m1
    cfg.MODEL.MEAN_SHIFT.CANDIDATES = ["levels", "regions"]
    cfg.MODEL.MEAN_SHIFT.STEP_THRESHOLD = 0.2  # neighbors' labels that differ by more have a border between them
    cfg.MODEL.MEAN_SHIFT.MIN_AREA = 2  # map cells; smaller ones that touch other foreground are dropped
    cfg.MODEL.MEAN_SHIFT.MIN_PART_RATIO = 0.05  # parts below this share of a level's largest one are dropped from it
    cfg.MODEL.MEAN_SHIFT.NMS_THRESH = 0.8  # mask IoU above which a candidate is a duplicate
    cfg.MODEL.MEAN_SHIFT.MAX_PROPOSALS = 100

    # The verification heads (section 4); Detectron2's ROI_BOX_HEAD, ROI_MASK_HEAD set layers, ROI_HEADS the sampling
    cfg.MODEL.DVIS_ROI_HEADS = CN()
    cfg.MODEL.DVIS_ROI_HEADS.START = 0.0  # the share of MAX_ITER from which they train, 1 = never
    cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC = False  # every object is of class 0, its score the IoU (supplement 5)
    cfg.MODEL.DVIS_ROI_HEADS.ALPHA = 0.5  # weight of the IoU in the score; the rest is the class (supplement 4)
    cfg.MODEL.DVIS_ROI_HEADS.NMS = "hard"  # drops masks by ROI_HEADS.NMS_THRESH_TEST; "matrix" lowers scores (SOLOv2)
    cfg.MODEL.DVIS_ROI_HEADS.MASK_LOSS_WEIGHT = 1.0
    cfg.MODEL.DVIS_ROI_HEADS.MASK_SOURCE = "head"  # final masks; "label_map": the upsampled soft membership (section 4)
    # altered copies of every true mask among the training proposals: the heads see every IoU from the first step on
    cfg.MODEL.DVIS_ROI_HEADS.PERTURBED_GT = 2


def _with_bases(path: str, inner: tuple[str, ...] = ()) -> dict[str, Any]:
    """Dotted keys and values of a file over those of its ``_BASE_``; `inner` are the files that name it."""
    if path in inner:
        raise ValueError(f"{path} is its own _BASE_\nremove that line")
    with PathManager.open(path, "rb") as file:
        content = parse_yaml(file.read(), path)
    bases = content.pop("_BASE_", [])
    if not all(isinstance(base, str) for base in ([bases] if not isinstance(bases, list) else bases)):
        raise ValueError(f"_BASE_ in {path} is {bases!r}\ngive a file, or a list of files")
    values: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        base = os.path.expanduser(base)
        values |= _with_bases(base if "://" in base else os.path.join(os.path.dirname(path), base), (*inner, path))
    return values | dict(flat(content))


def load_config(cfg: CN, path: str) -> None:
    """Merge a YAML file with its bases into a config, in place; keys of version 0.1.0 are taken by their new names.
    KeyError for an unknown key, ValueError for one that is gone and is set to a value that had an effect, or for a file
    that is no plain YAML: no tag in it is run."""
    merge_values(cfg, _with_bases(path), path)


def merge_values(cfg: CN, values: Mapping[str, Any], name: str) -> None:
    """:func:`load_config` of dotted keys and values, which come from `name`."""
    loaded = renew(values)
    for key in loaded.keys() & REMOVED_KEYS.keys():
        value, neutral = loaded.pop(key), REMOVED_KEYS[key]
        if value != neutral:
            advice = f"remove the key (the result is then that of {neutral!r}), or use an earlier version of dvis_d2"
            raise ValueError(f"{name}: {key} is {value!r}, which no longer exists\n{advice}")
    cfg.merge_from_other_cfg(CN(nested(loaded)))


def renew(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys and values of an earlier version by their new names. What made proposals before there were regions
    makes these now."""
    renewed = {RENAMED_KEYS.get(key, key): value for key, value in values.items()}
    for key in DROPPED_KEYS:
        renewed.pop(key, None)
    if sources := renewed.get("MODEL.MEAN_SHIFT.CANDIDATES"):
        regions = ["regions" if source in ("parts", "linked") else source for source in sources]
        renewed["MODEL.MEAN_SHIFT.CANDIDATES"] = list(dict.fromkeys(regions))
    return renewed


def check_values(cfg: CN) -> None:
    """ValueError for a value that nothing can be made of, where Detectron2, torch or Pillow would fail later or in
    silence: a choice that is none, a number out of its range."""
    values, channels = dict(flat(cfg)), 1 if cfg.INPUT.FORMAT == "L" else 3
    sizes, crop = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.CROP.SIZE
    sizes = [sizes] if isinstance(sizes, int) else sizes
    sound = {
        key: (values[key] in choices, f"one of {', '.join(map(repr, choices))}") for key, choices in ONE_OF.items()
    }
    sound |= {key: (least <= values[key] < math.inf, f"at least {least}") for key, least in AT_LEAST.items()}
    sound |= {
        "SEED": (cfg.SEED < 2**31, "less than 2147483648; -1 is another one each time"),
        "SOLVER.BASE_LR": (0 < cfg.SOLVER.BASE_LR < math.inf, "above 0"),
        "SOLVER.CHECKPOINT_PERIOD": (cfg.SOLVER.CHECKPOINT_PERIOD != 0, "at least 1"),
        "INPUT.MIN_SIZE_TRAIN": (_are_numbers(sizes) and min(sizes) >= 0, "px, or (0,) for the images' own sizes"),
        "INPUT.CROP.SIZE": (_are_numbers(crop, 2) and min(crop) > 0, "[height, width] above 0"),
        "MODEL.PIXEL_MEAN": (_are_numbers(cfg.MODEL.PIXEL_MEAN, channels), f"{channels} numbers"),
        "MODEL.PIXEL_STD": (
            _are_numbers(cfg.MODEL.PIXEL_STD, channels) and min(cfg.MODEL.PIXEL_STD) > 0,
            f"{channels} numbers above 0",
        ),
    }
    for key, (right, what) in sound.items():
        if not right:
            raise ValueError(f"{key} is {values[key]!r}\nit has to be {what}")


def _are_numbers(values: Sequence[Any], count: int = 0) -> bool:
    """Finite ones, as many; 0: at least one."""
    finite = all(isinstance(v, int | float) and math.isfinite(v) for v in values)
    return finite and len(values) == (count or max(len(values), 1))


def flat(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested config."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def nested(values: Mapping[str, Any]) -> dict:
    """The inverse of :func:`flat`."""
    tree: dict = {}
    for key, value in values.items():
        *parents, name = key.split(".")
        functools.reduce(lambda node, parent: node.setdefault(parent, {}), parents, tree)[name] = value
    return tree


def find_config(path: str) -> str:
    """The file at `path`, or, if there is none, the packaged config of that name, say "configs/nuclei/nuclei.yaml" or
    "nuclei/nuclei.yaml"; if there is neither, the FileNotFoundError lists the packaged ones."""
    if os.path.isfile(path) or "://" in path:
        return path
    folder = packaged("configs")
    found = folder / path.removeprefix("./").removeprefix("configs/")
    if found.is_file():
        return str(found)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.yaml") if not p.name.startswith("Base"))
    raise FileNotFoundError(f"there is no config file {path}; dvis_d2 comes with {', '.join(names)}")


def packaged(folder: str) -> Path:
    """A folder that comes with dvis_d2: in a checkout it is beside the package, not inside."""
    inside = _PACKAGE / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder
