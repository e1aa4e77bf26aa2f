from .._detectron2 import has_detectron2

if has_detectron2():
    from .backbone import FinestFPN, build_dvis_resnet_fpn_backbone
    from .deeplab_backbone import DeepLabBackbone, build_dvis_deeplab_backbone
    from .label_head import LabelMapHead
    from .meta_arch import DVIS
    from .proposal_generator import MeanShiftProposer
    from .roi_heads import DVISROIHeads

    __all__ = [
        "DVIS",
        "DVISROIHeads",
        "DeepLabBackbone",
        "FinestFPN",
        "LabelMapHead",
        "MeanShiftProposer",
        "build_dvis_deeplab_backbone",
        "build_dvis_resnet_fpn_backbone",
    ]
