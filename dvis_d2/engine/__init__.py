from .._detectron2 import require_detectron2

require_detectron2()

from ..inference import DVISPredictor  # noqa: E402
from .launch import evaluate, launch, main, train  # noqa: E402
from .setup import argument_parser, missing_arguments, require_weights_and_data, setup_cfg  # noqa: E402
from .trainer import Trainer  # noqa: E402
