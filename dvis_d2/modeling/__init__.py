from .._detectron2 import has_detectron2

if has_detectron2():
    from .backbone import DeepLabBackbone, FinestFPN
    from .label_head import LabelMapHead
    from .meta_arch import DVIS
    from .proposal_generator import MeanShiftProposer
    from .roi_heads import DVISROIHeads
    from .timm_backbone import TimmBackbone
