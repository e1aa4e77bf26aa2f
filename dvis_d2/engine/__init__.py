from .._detectron2 import require_detectron2

require_detectron2()

from ..inference import DVISPredictor  # noqa: E402
from .launch import argument_parser, evaluate, launch, main, missing_arguments, setup_cfg, train  # noqa: E402
from .trainer import Trainer  # noqa: E402
