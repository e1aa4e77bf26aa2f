from .._detectron2 import require_detectron2

require_detectron2()

from ..inference import DVISPredictor  # noqa: E402
from .defaults import argument_parser, setup_cfg  # noqa: E402
from .launch import evaluate, launch, main, train  # noqa: E402
from .trainer import Trainer  # noqa: E402

__all__ = ["DVISPredictor", "Trainer", "argument_parser", "evaluate", "launch", "main", "setup_cfg", "train"]
