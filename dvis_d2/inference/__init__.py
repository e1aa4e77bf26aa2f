from .predictor import DVISPredictor
from .visualization import draw_panel
