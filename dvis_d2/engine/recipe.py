"""The recipe of a training on one's own data: a base config, and what follows from the sizes and numbers of objects."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..config import find_config, load_config
from ..data.statistics import DataStatistics, data_statistics
from ..modeling.timm_backbone import has_packaged_weights

# of the kinds of data; the second where the weights that it starts from are installed
BASES = {"crowded": "nuclei/nuclei.yaml", "sparse": "shapes/shapes.yaml", "sparse, pretrained": "photos/photos.yaml"}
# Network pixels across half of the objects, and across 95 % of them, at least: the small ones then have 7 cells of a
# map of stride 2, as in configs/nuclei/nuclei.yaml (docs/results/ceilings.md: what the grid alone costs).
MEDIAN_DIAMETER, SMALL_DIAMETER, MAX_ENLARGEMENT = 28, 14, 4.0
WHOLE_SIDE = 384  # network pixels, the root of the area of an image with few objects: what a CPU can afford
MIN_CROP, MAX_CROP = 256, 512  # network pixels
BATCH_PIXELS, MAX_BATCH = 8 * 256 * 256, 8
# of an iteration of configs/shapes/shapes.yaml and configs/nuclei/nuclei.yaml on one core (docs/results/index.md)
SECONDS, SECONDS_PER_PIXEL = 0.17, 1.5e-6
CPU_SECONDS, CUDA_FACTOR = 1800, 3  # half an hour on one core; with CUDA so many times the iterations
MAX_VIEWS, MIN_ITERATIONS = 400, 300  # of an image, or of each crop of it
# a model that has learnt: a share of the iterations, at a share of the rate, and all that waits joins at once
TUNING_SHARE, TUNING_RATE = 0.3, 0.3
LATER = ["DVIS_ROI_HEADS.START", *(f"VARIATIONAL_LOSS.{term}_START" for term in ("PI_WINDOWS", "MS", "QUANT"))]


class Recipe(NamedTuple):
    """The name of a config, "" for that of a model, KEY, VALUE, ... to lay over it, and why, a line each."""

    config: str
    options: list[Any]
    reasons: list[str]


def lay_recipe(cfg: CfgNode, opts: Sequence[Any], learnt: Mapping[str, Any] | None = None) -> str:
    """Lay the recipe for registered own data under an (unfrozen) config: its DATASETS, OUTPUT_DIR and number of classes
    stay, KEY, VALUE, ... of `opts` win. `learnt`: the statistics of the model whose config it is, which is to be tuned.
    Returns why the recipe is as it is."""
    datasets, output_dir, num_classes = cfg.DATASETS.clone(), cfg.OUTPUT_DIR, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    statistics = data_statistics(DatasetCatalog.get(datasets.TRAIN[0]))
    model = None if learnt is None else DataStatistics.from_dict(dict(learnt))
    cuda = cfg.MODEL.DEVICE.startswith("cuda")
    recipe = choose_recipe(statistics, cuda=cuda, pretrained=has_packaged_weights(), model=model)
    if recipe.config:
        load_config(cfg, find_config(recipe.config))
    else:
        cfg.SOLVER.BASE_LR *= TUNING_RATE
        cfg.merge_from_list([word for key in LATER for word in (f"MODEL.{key}", 0.0)])
    cfg.merge_from_list([*recipe.options, *opts])
    cfg.DATASETS, cfg.OUTPUT_DIR, cfg.MODEL.ROI_HEADS.NUM_CLASSES = datasets, output_dir, num_classes
    return "\n  ".join(["recipe (KEY VALUE behind the command changes what is chosen):", *recipe.reasons])


def choose_recipe(
    data: DataStatistics, *, cuda: bool = False, pretrained: bool = False, model: DataStatistics | None = None
) -> Recipe:
    """What to train with on data like these, which must hold an object.

    Crowded (many objects, or several small ones): a fixed scale at which objects have enough cells of the label map.
    Sparse: whole images of one size, unless objects would be too small in them. Where images are then much larger than
    a crop that holds whole objects, training sees crops. `pretrained`: the weights of configs/photos are at hand.
    `model`: what one has learnt that is to be tuned; the objects get the size that it knows.
    """
    small, median, large = (max(diameter, 1.0) for diameter in data.diameters)
    per_image, _, most = data.objects_per_image
    height, width = data.heights[1], data.widths[1]
    crowded = per_image > 12 or (per_image > 5 and data.relative_diameters[1] < 0.08)
    kind = "crowded" if crowded else "sparse"

    needed = max(SMALL_DIAMETER / small, MEDIAN_DIAMETER / median)
    scale = min(needed, 2 * MEDIAN_DIAMETER / median, MAX_ENLARGEMENT)  # specks do not count
    if model and model.num_objects:
        scale = model.scale * model.diameters[1] / median
    side = min(max(3 * large * scale, MIN_CROP), MAX_CROP)
    if not (crowded or model):  # details tell classes apart: as large as pays
        scale = max(scale, min(1.0, WHOLE_SIDE / (height * width) ** 0.5))
        side = max(side, WHOLE_SIDE)
    side, shortest = 32 * round(side / 32), min(height, width) * scale
    cropped, pixels = shortest > 1.25 * side, height * width * scale**2
    options = ["INPUT.CROP.ENABLED", cropped]
    if cropped or crowded or model:
        options += ["INPUT.SCALE", float(f"{scale:.4g}")]
        seen = f"images times {scale:.2g}" + f", in training crops of {side} x {side}" * cropped
    else:  # of several sizes in training: of one alone, a network learns its canvas
        sizes = tuple(16 * round(shortest * factor / 16) for factor in (0.85, 1, 1.15))
        options += ["INPUT.MIN_SIZE_TRAIN", sizes, "INPUT.MAX_SIZE_TRAIN", 3 * sizes[2]]
        options += ["INPUT.MIN_SIZE_TEST", sizes[1], "INPUT.MAX_SIZE_TEST", 3 * sizes[1]]
        seen = f"images with a shortest edge of {sizes[1]}, in training {sizes[0]} to {sizes[2]}"
    if cropped:
        options += ["INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [round(side / scale)] * 2]

    view = side**2 if cropped else pixels
    batch = min(max(round(BATCH_PIXELS / view), 2), MAX_BATCH)
    seconds = SECONDS + SECONDS_PER_PIXEL * batch * view
    by_time = CPU_SECONDS / seconds * (CUDA_FACTOR if cuda else 1)
    by_data = MAX_VIEWS * data.num_images * pixels / view / batch
    iterations = int(max(min(by_time, by_data) * (TUNING_SHARE if model else 1), MIN_ITERATIONS))
    options += ["SOLVER.IMS_PER_BATCH", batch, "SOLVER.MAX_ITER", iterations]
    options += ["SOLVER.WARMUP_ITERS", min(100, iterations // 10)]
    options += ["MODEL.MEAN_SHIFT.MAX_PROPOSALS", 50 * round(min(max(4 * most, 100), 1000) / 50)]
    options += ["TEST.DETECTIONS_PER_IMAGE", max(100, 50 * round(1.5 * most / 50))]
    options += ["INPUT.COLOR_JITTER", 0.3 if data.num_images <= 200 else 0.0]
    config = "" if model else BASES[kind + ", pretrained" * (pretrained and not crowded)]
    chosen = f"configs/{config}" if config else "the config of the model"
    reasons = [
        f"{kind}, so {chosen}: {per_image:.0f} objects an image, {most:.0f} at most, "
        f"{small:.0f} to {large:.0f} px across in {width:.0f} x {height:.0f} px",
        f"{seen}: objects are {small * scale:.0f} to {large * scale:.0f} px across for the network",
        f"{iterations} iterations of {batch} images, about {max(1, iterations * seconds / 60):.0f} minutes on one CPU "
        f"core, which see each image {iterations * batch / data.num_images:.0f} times",
    ]
    return Recipe(config, options, reasons)
