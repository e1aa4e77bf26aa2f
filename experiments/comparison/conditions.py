"""What both models must have in common for the comparison to be one."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

SAME_KEYS = (
    "DATASETS",
    "DATALOADER",
    "INPUT",
    "SOLVER",
    "TEST",
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.BACKBONE.FREEZE_AT",
    "MODEL.RESNETS",
    "MODEL.FPN",
    "MODEL.MASK_ON",
    "MODEL.ROI_HEADS.NUM_CLASSES",
)
"""Data, augmentation, schedule, optimizer, precision, evaluation and backbone."""
FREE_KEYS = ("SOLVER.BASE_LR",)
"""Each model's own."""


def check_same_conditions(cfgs: dict[str, CfgNode]) -> None:
    """Compare the keys of `SAME_KEYS` of two configs, by name.

    Raises:
        ValueError: keys differ, or the data set is not one of COCO format; the message names them.
    """
    (first, a), (second, b) = ((name, _leaves(cfg)) for name, cfg in cfgs.items())
    different = [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)]
    if different:
        lines = [f"  {key}: {first} {a.get(key)!r}, {second} {b.get(key)!r}" for key in different]
        raise ValueError(
            "The two configs must agree in these keys, or the comparison is not fair:\n" + "\n".join(lines)
        )
    names = next(iter(cfgs.values())).DATASETS.TEST
    if len(names) != 1 or MetadataCatalog.get(names[0]).get("evaluator_type", "coco") != "coco":
        raise ValueError(f"DATASETS.TEST is {names}; the comparison needs one data set with COCO annotations")


def _leaves(cfg: CfgNode) -> dict[str, object]:
    leaves: dict[str, object] = {}

    def collect(value: object, key: str) -> None:
        if isinstance(value, CfgNode):
            for name, child in value.items():
                collect(child, f"{key}.{name}")
        elif key not in FREE_KEYS:
            leaves[key] = value

    for key in SAME_KEYS:
        node: object = cfg
        for name in key.split("."):
            node = node[name]
        collect(node, key)
    return leaves
