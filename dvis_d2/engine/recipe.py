"""The recipe of a training on one's own data: a base config, and what follows from the sizes and numbers of objects."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..config import find_config, load_config
from ..data.statistics import DataStatistics, data_statistics

# the base configs by what the data are like; a better one for photographs would be named here
BASES = {"sparse": "shapes/shapes.yaml", "crowded": "nuclei/nuclei.yaml"}
# Network pixels across an object: of half of the objects at least so many, of 95 % at least so many. A map of stride 2
# then has 7 cells across the small ones, as on the nuclei of configs/nuclei (docs/results/ceilings.md).
MEDIAN_DIAMETER, SMALL_DIAMETER = 28, 14
MAX_ENLARGEMENT = 4.0
SPARSE_SIDE = 384  # network pixels, the root of an image's area: enough for photographs, and little for a CPU
CROP_SIDES = (256, 512)  # network pixels
PIXELS_PER_BATCH = 8 * 256 * 256
# Seconds an iteration of configs/shapes and configs/nuclei on one core: 0.17, and 1.5 a million network pixels
SECONDS, SECONDS_PER_PIXEL = 0.17, 1.5e-6
CPU_TIME, CUDA_FACTOR = 1800, 3  # seconds; on a GPU so many times the iterations
MAX_EPOCHS = 400


class Recipe(NamedTuple):
    """A config of dvis_d2, KEY, VALUE, ... to be laid over it, and why, a line each."""

    config: str
    options: list[Any]
    reasons: list[str]


def lay_recipe(cfg: CfgNode, opts: Sequence[Any]) -> list[str]:
    """Replace an (unfrozen) config with registered own data by the recipe for them, and that by KEY, VALUE, ... of
    `opts`, which win. Why it is as it is, a line each."""
    kept = {"DATASETS": cfg.DATASETS.clone(), "OUTPUT_DIR": cfg.OUTPUT_DIR}
    classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    statistics = data_statistics(DatasetCatalog.get(cfg.DATASETS.TRAIN[0]))
    recipe = choose_recipe(statistics, cuda=cfg.MODEL.DEVICE.startswith("cuda"))
    load_config(cfg, find_config(recipe.config))
    cfg.merge_from_list(recipe.options)
    cfg.merge_from_list(list(opts))
    cfg.update(kept)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    return [*recipe.reasons, "every choice can be changed by KEY VALUE behind the command"]


def choose_recipe(data: DataStatistics, *, cuda: bool = False) -> Recipe:
    """What to train with on data like these. ValueError if they hold no object.

    Crowded (many objects, or small ones): the scale is fixed, so that objects have enough cells of the label map, and
    training sees crops. Sparse: whole images of one size, or, where objects would be too small in them, also crops.
    """
    if not data.num_objects:
        raise ValueError("there is no object in the training data, so nothing to derive a recipe from")
    small, median, large = data.diameters
    relative = data.relative_diameters[1]
    per_image, _, most = data.objects_per_image
    kind = "crowded" if per_image > 12 or (per_image > 5 and relative < 0.08) else "sparse"
    height, width = data.heights[1], data.widths[1]
    stored = (height * width) ** 0.5

    scale = max(SMALL_DIAMETER / max(small, 1), MEDIAN_DIAMETER / median)
    scale = min(scale, 2 * MEDIAN_DIAMETER / median, MAX_ENLARGEMENT)  # specks do not count
    if kind == "sparse":  # details tell classes apart: as large as pays
        scale = max(scale, min(1.0, SPARSE_SIDE / stored))
    side = min(max(CROP_SIDES[0], 3 * large * scale), CROP_SIDES[1])
    side = 32 * round((max(side, SPARSE_SIDE) if kind == "sparse" else side) / 32)
    cropped = min(height, width) * scale > 1.25 * side
    if cropped or kind == "crowded":
        sizes, shown = _fixed_scale(scale, side if cropped else 0), f"scale {scale:.2g}"
    else:
        sizes, shown = (
            _whole_images(round(min(height, width) * scale)),
            f"images of {width * scale:.0f} x {height * scale:.0f}",
        )
    pixels = side * side if cropped else height * width * scale * scale
    batch = int(min(max(round(PIXELS_PER_BATCH / pixels), 2), 8))
    iterations = (CUDA_FACTOR if cuda else 1) * CPU_TIME / (SECONDS + SECONDS_PER_PIXEL * batch * pixels)
    views = data.num_images * max(1.0, stored * stored * scale * scale / pixels)
    iterations = int(max(min(iterations, MAX_EPOCHS * views / batch), 300))
    stride = 4 if small * scale >= 48 else 2
    proposals = 50 * round(min(max(4 * most, 100), 1000) / 50)

    options = [
        *sizes,
        *("MODEL.LABEL_MAP_HEAD.COMMON_STRIDE", stride),
        *("MODEL.MEAN_SHIFT.MAX_PROPOSALS", proposals),
        *("TEST.DETECTIONS_PER_IMAGE", max(100, 50 * round(1.5 * most / 50))),
        *("INPUT.COLOR_JITTER", 0.3 if data.num_images <= 200 else 0.0),
        *("SOLVER.IMS_PER_BATCH", batch, "SOLVER.MAX_ITER", iterations),
        *("SOLVER.WARMUP_ITERS", min(100, iterations // 10)),
    ]
    reasons = [
        f"{kind}, as configs/{BASES[kind]}: {per_image:.0f} objects an image (at most {most:.0f}), "
        f"{small:.0f} to {large:.0f} px across in images of {width:.0f} x {height:.0f}",
        f"{shown}{f', crops of {side}' if cropped else ''} network px: objects are {small * scale:.0f} to "
        f"{large * scale:.0f} px there, on a label map of stride {stride}",
        f"{iterations} iterations of {batch} images, about {_minutes(iterations, batch * pixels)} minutes on one CPU "
        f"core: {data.num_images} images are seen {iterations * batch / data.num_images:.0f} times each",
    ]
    return Recipe(BASES[kind], options, reasons)


def _fixed_scale(scale: float, crop: int) -> list[Any]:
    stored = round(crop / scale)
    crops = ["INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [stored, stored]] if crop else []
    return ["INPUT.SCALE", round(scale, 3), "INPUT.CROP.ENABLED", bool(crop), *crops]


def _whole_images(shortest: int) -> list[Any]:
    """Of several sizes: of one alone, a network learns its canvas."""
    sizes = tuple(16 * round(shortest * factor / 16) for factor in (0.85, 1, 1.15))
    train = ["INPUT.MIN_SIZE_TRAIN", sizes, "INPUT.MAX_SIZE_TRAIN", 3 * sizes[2], "INPUT.CROP.ENABLED", False]
    return [*train, "INPUT.MIN_SIZE_TEST", sizes[1], "INPUT.MAX_SIZE_TEST", 3 * sizes[1]]


def _minutes(iterations: int, pixels: float) -> int:
    return max(1, round(iterations * (SECONDS + SECONDS_PER_PIXEL * pixels) / 60))
