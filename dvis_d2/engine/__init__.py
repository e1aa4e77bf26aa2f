from .._detectron2 import require_detectron2

require_detectron2()

from .launch import launch  # noqa: E402
from .predictor import DVISPredictor  # noqa: E402
from .setup import argument_parser, setup_cfg  # noqa: E402
from .trainer import Trainer  # noqa: E402

__all__ = ["DVISPredictor", "Trainer", "argument_parser", "launch", "setup_cfg"]
