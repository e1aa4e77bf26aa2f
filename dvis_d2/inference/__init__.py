from .predictor import DVISPredictor
from .visualization import draw_panel

__all__ = ["DVISPredictor", "draw_panel"]
