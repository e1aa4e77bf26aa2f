from detectron2.config import CfgNode as CN


def add_dvis_config(cfg: CN) -> None:
    """Add the keys of DVIS to a Detectron2 config, in place. Section numbers are the paper's."""
    # Anyone's COCO-format data without writing code; "" = unset. Relative to the working directory.
    cfg.DATASETS.CUSTOM = CN()
    cfg.DATASETS.CUSTOM.TRAIN_JSON = ""
    # "" = the folder of the JSON, or its sub-folder "images" where the files are found there
    cfg.DATASETS.CUSTOM.TRAIN_IMAGES = ""
    cfg.DATASETS.CUSTOM.VAL_JSON = ""
    cfg.DATASETS.CUSTOM.VAL_IMAGES = ""
    # filled from the JSON at training, so that a saved config names its classes without the data
    cfg.DATASETS.CUSTOM.CLASS_NAMES = []
    # names of the classes to train on, [] = all: objects of the others are void, and evaluation is the average recall
    # of both groups (supplement 5, docs/unseen.md)
    cfg.DATASETS.SEEN_CLASSES = []
    # training objects are of class 0, for any model, and evaluation has no classes; needs MODEL.ROI_HEADS.NUM_CLASSES 1
    cfg.DATASETS.CLASS_AGNOSTIC = False

    # training images turned by 0, 90, 180 or 270 degrees: with the flip, the eight symmetries of microscopy
    cfg.INPUT.RANDOM_RIGHT_ANGLES = False
    # brightness, contrast and saturation of training images times 1 - x to 1 + x each, 0 = none
    cfg.INPUT.COLOR_JITTER = 0.0

    # "SGD" (Detectron2's default) or "ADAMW" (better from scratch: design decision 12)
    cfg.SOLVER.OPTIMIZER = "SGD"
    # learning rates as multiples of BASE_LR: of the verification heads, and of backbone and label head; 0 = frozen
    cfg.SOLVER.ROI_HEADS_LR_FACTOR = 1.0
    cfg.SOLVER.LABEL_MAP_LR_FACTOR = 1.0
    # take the batch of IMS_PER_BATCH images in so many parts one after another, with one update: less memory
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # evaluate and store an exponential moving average of the weights with this decay an iteration; 0 = none
    cfg.SOLVER.EMA_DECAY = 0.0

    # evaluation and demo take thresholds.yaml beside MODEL.WEIGHTS, if it is there (docs/tuning.md)
    cfg.TEST.USE_TUNED_THRESHOLDS = True
    # tune on half of DATASETS.TEST[0] after training, before the final evaluation, and write that file
    cfg.TEST.TUNE_THRESHOLDS = False

    # DeepLab-v3's backbone, build_dvis_deeplab_backbone: three keys of Detectron2's DeepLab project, and its pooling
    cfg.MODEL.RESNETS.RES4_DILATION = 1  # 2, with RES5_DILATION 4: output stride 8
    cfg.MODEL.RESNETS.RES5_MULTI_GRID = [1, 2, 4]  # factor of RES5_DILATION in each block of res5
    cfg.MODEL.RESNETS.STEM_TYPE = "deeplab"  # three 3x3 convolutions, or "basic", one of 7x7
    cfg.MODEL.ASPP = CN()
    cfg.MODEL.ASPP.CHANNELS = 256
    cfg.MODEL.ASPP.DILATIONS = [6, 12, 18]  # for output stride 16 (DeepLab-v3); twice that for 8
    cfg.MODEL.ASPP.NORM = "SyncBN"
    cfg.MODEL.ASPP.DROPOUT = 0.1  # of the output, as in DeepLab

    # The fully convolutional head that predicts the label map (section 4)
    cfg.MODEL.LABEL_MAP_HEAD = CN()
    cfg.MODEL.LABEL_MAP_HEAD.IN_FEATURE = "p3"
    # stride of the label map in image pixels; the features are upsampled bilinearly to it
    cfg.MODEL.LABEL_MAP_HEAD.COMMON_STRIDE = 4
    cfg.MODEL.LABEL_MAP_HEAD.CONV_DIM = 256
    # 3x3 convolutions before the upsampling; one more follows it
    cfg.MODEL.LABEL_MAP_HEAD.NUM_CONVS = 3
    cfg.MODEL.LABEL_MAP_HEAD.NORM = "GN"
    # append the pixel's (x, y) in [-1, 1] to the features: a translation-equivariant network cannot
    # tell identical copies apart away from the borders
    cfg.MODEL.LABEL_MAP_HEAD.COORDINATES = False
    # standard deviation of the last convolution's weights at the start: how far apart labels are then
    cfg.MODEL.LABEL_MAP_HEAD.INIT_STD = 0.01

    # The variational loss (section 3.3); every *_WEIGHT multiplies its term, 0 removes it
    cfg.MODEL.VARIATIONAL_LOSS = CN()
    cfg.MODEL.VARIATIONAL_LOSS.HUBER_THETA = 0.1
    cfg.MODEL.VARIATIONAL_LOSS.BINARY_WEIGHT = 3.0
    cfg.MODEL.VARIATIONAL_LOSS.BINARY_MARGIN = 2.0  # m1 of eq. 3
    # average foreground and background apart: sparse objects survive, small ones get fat
    cfg.MODEL.VARIATIONAL_LOSS.BINARY_BALANCE = True
    # a foreground pixel weighs |its instance|^-x: 0 (eq. 3) every pixel the same, 1 every instance; finds small objects
    cfg.MODEL.VARIATIONAL_LOSS.BINARY_AREA_EXPONENT = 0.0
    cfg.MODEL.VARIATIONAL_LOSS.PI_WEIGHT = 1.0
    cfg.MODEL.VARIATIONAL_LOSS.PI_MARGIN = 1.0  # m2 of eq. 5
    # "exact" (all pairs), "stratified" (the paper's window) or "random"
    cfg.MODEL.VARIATIONAL_LOSS.PI_PAIRS = "exact"
    # "instances": every instance weighs the same; "pairs": every pair does
    cfg.MODEL.VARIATIONAL_LOSS.PI_REDUCTION = "instances"
    cfg.MODEL.VARIATIONAL_LOSS.PI_DIFFERENT_WEIGHT = 2.0
    # ((window, weight), ...): mixture of windows in map pixels, 0 = all pairs of the image
    # "stratified": one window, odd, of weight 1; 0 = the paper's 129
    cfg.MODEL.VARIATIONAL_LOSS.PI_WINDOWS = ((0, 1.0),)
    # the windows count from this share of MAX_ITER on, until then all pairs of an image
    cfg.MODEL.VARIATIONAL_LOSS.PI_WINDOWS_START = 0.0
    # same-instance pairs over the whole image whatever the windows, so that labels do not drift in an object
    cfg.MODEL.VARIATIONAL_LOSS.PI_SAME_GLOBAL = False
    cfg.MODEL.VARIATIONAL_LOSS.PI_BACKGROUND = False  # background as one more instance in the pairs (authors)
    # "stratified": every offset up to the centre, every dilation-th beyond, in map pixels; 0 = the paper's 8 and 8
    cfg.MODEL.VARIATIONAL_LOSS.PI_CENTRE = 0
    cfg.MODEL.VARIATIONAL_LOSS.PI_DILATION = 0
    # "stratified": weigh the dilated offsets by the number of pairs each stands for
    cfg.MODEL.VARIATIONAL_LOSS.PI_DENSITY_WEIGHTED = False
    # "cauchy" (eq. 7), "truncated" (eq. 6) or "welsch"
    cfg.MODEL.VARIATIONAL_LOSS.MS_KIND = "cauchy"
    # "welsch" alone: its scale in label units at MS_START and at MAX_ITER, geometric between; () = (1.0, 0.1)
    cfg.MODEL.VARIATIONAL_LOSS.MS_SCALE = ()
    cfg.MODEL.VARIATIONAL_LOSS.MS_WEIGHT = 0.1
    # the regularisation joins at this share of MAX_ITER: earlier, it slows the separation (decision 4)
    cfg.MODEL.VARIATIONAL_LOSS.MS_START = 0.5
    cfg.MODEL.VARIATIONAL_LOSS.QUANT_WEIGHT = 0.1
    cfg.MODEL.VARIATIONAL_LOSS.QUANT_START = 0.5

    # From label map to proposals (section 4, "Discretization")
    cfg.MODEL.MEAN_SHIFT = CN()
    cfg.MODEL.MEAN_SHIFT.BANDWIDTHS = [0.9, 0.4]  # in units of the label
    cfg.MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD = 1.0  # halfway between background and m1
    # which candidates are offered: whole levels, their connected parts, neighbouring levels merged,
    # components of linked neighbours (dvis_d2/modeling/grouping.py)
    cfg.MODEL.MEAN_SHIFT.READINGS = ["levels", "parts", "linked"]
    cfg.MODEL.MEAN_SHIFT.LINK_THRESHOLDS = [0.25]  # each gives components of its own
    # map cells; smaller ones that touch other foreground are dropped
    cfg.MODEL.MEAN_SHIFT.MIN_AREA = 2
    # parts below this share of a level's largest part are dropped from the level
    cfg.MODEL.MEAN_SHIFT.CRUMB_RATIO = 0.05
    cfg.MODEL.MEAN_SHIFT.NMS_THRESH = 0.8  # mask IoU above which a candidate is a duplicate
    cfg.MODEL.MEAN_SHIFT.MAX_PROPOSALS = 100

    # The verification heads (section 4, "Classification and Verification"); their layers are set by
    # Detectron2's ROI_BOX_HEAD and ROI_MASK_HEAD, sampling and matching by its ROI_HEADS
    cfg.MODEL.DVIS_ROI_HEADS = CN()
    # the heads join at this share of MAX_ITER, 0 = train with the label map from the start, 1 = never
    cfg.MODEL.DVIS_ROI_HEADS.START = 0.0
    cfg.MODEL.DVIS_ROI_HEADS.BOX_MARGIN = 0.2  # boxes grow by this share of their size (authors)
    # no class layer: every object is of class 0, its score is the predicted IoU (supplement 5); of
    # ROI_HEADS.NUM_CLASSES only the check of the data is left
    cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC = False
    # weight of the predicted IoU in the score, 0 to 1; the class probability has the rest (supplement 4)
    cfg.MODEL.DVIS_ROI_HEADS.ALPHA = 0.5
    # "sum", ALPHA * IoU + (1 - ALPHA) * class (supplement 4), or "product", IoU^ALPHA * class^(1 - ALPHA)
    cfg.MODEL.DVIS_ROI_HEADS.SCORE_FUSION = "sum"
    # duplicates: "hard" drops masks by ROI_HEADS.NMS_THRESH_TEST, "matrix" lowers their scores (SOLOv2)
    cfg.MODEL.DVIS_ROI_HEADS.NMS = "hard"
    cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC_NMS = False  # masks of different classes are duplicates too
    # IoU that foreground proposals are trained to predict: "proposal", their own (authors), or "refined", that of the
    # mask head's mask
    cfg.MODEL.DVIS_ROI_HEADS.IOU_TARGET = "proposal"
    cfg.MODEL.DVIS_ROI_HEADS.IOU_LOSS_WEIGHT = 1.0
    cfg.MODEL.DVIS_ROI_HEADS.MASK_LOSS_WEIGHT = 1.0
    # verify the mask head's masks of the proposals as well, as more proposals: the heads once more, on twice as many
    cfg.MODEL.DVIS_ROI_HEADS.SECOND_LOOK = False
    # final masks: "label_map" (upsampled soft membership), "head", or "fused" (their mean)
    cfg.MODEL.DVIS_ROI_HEADS.MASK_SOURCE = "head"
    # perturbed copies of every ground-truth mask among the training proposals, so that the heads see
    # every IoU from the first step on
    cfg.MODEL.DVIS_ROI_HEADS.PERTURBED_GT = 2
