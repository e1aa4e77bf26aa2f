"""Evaluators: COCO's AP, and, for any data set with instance masks, AP^r and contour F1."""

from .ap_r import APrEvaluator, match_detections, pascal_average_precision
from .coco_ap import average_precision, evaluate_coco
from .contour_f1 import ContourF1Evaluator, contour_precision_recall
from .evaluators import DVISCOCOEvaluator, build_evaluators, require_packages
