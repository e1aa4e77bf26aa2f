import logging

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from .search import store_tuning, tune_thresholds
from .thresholds import apply_thresholds


class TuneThresholds(HookBase):
    """After the last step, tunes the thresholds and stores them beside the weights; the final evaluation, a later
    hook, uses them. A run that stopped early is left alone."""

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg

    def after_train(self):
        if self.trainer.iter + 1 < self.trainer.max_iter:
            return
        model = self.trainer.evaluated_model
        changed = None
        if comm.is_main_process():
            training = model.training
            tuning = tune_thresholds(self.cfg, model)
            model.train(training)
            store_tuning(tuning, self.cfg.OUTPUT_DIR)
            logging.getLogger(__name__).info("%s\n%s", tuning.verdict(), tuning.table())
            changed = tuning.changed
        changed = comm.all_gather(changed)[0]
        apply_thresholds(model, changed)
