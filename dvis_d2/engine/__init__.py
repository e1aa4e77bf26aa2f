from .._detectron2 import require_detectron2

require_detectron2()

from ..inference import DVISPredictor  # noqa: E402
from .launch import (  # noqa: E402
    argument_parser,
    evaluate,
    launch,
    main,
    missing_arguments,
    require_weights_and_data,
    setup_cfg,
    train,
)
from .trainer import Trainer  # noqa: E402
