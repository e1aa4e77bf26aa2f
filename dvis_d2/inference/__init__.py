from .._detectron2 import has_detectron2

if has_detectron2():
    from .predictor import DVISPredictor
    from .visualization import draw_panel
