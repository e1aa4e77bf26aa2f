"""The variational loss of eq. 2: its terms weighted, scheduled and named."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .losses import binary_loss, mumford_shah_loss, permutation_invariant_loss, quantization_loss
from .options import check_range


class VariationalCriterion(nn.Module):
    """Weighted terms of the loss; a term of weight 0 is absent.

    Args:
        binary_*, pi_*, ms_*, quant_*, theta: :func:`binary_loss`, :func:`permutation_invariant_loss`,
            :func:`mumford_shah_loss` and :func:`quantization_loss` explain what is not said here.
        pi_windows: (side in map pixels, factor) of every window of ``pi_pairs="exact"``, 0 for the whole map.
            ``"stratified"`` accepts one, odd and of factor 1, instead of its own 129; ``"random"`` none.
        pi_center, pi_dilation: of ``"stratified"``; 0 = its own.
        pi_windows_start: iteration from which the windows count; until then all pairs of an image do.
        pi_background: the background forms pairs as one more instance.
        ms_scale: of ``ms_kind="welsch"`` alone, in label units: the scale at ``ms_start`` and at ``ms_end``, between
            which it falls geometrically, so that the term starts smooth and ends counting edges. Empty: (1.0, 0.1),
            from one level of labels to the theta below which labels count as equal.
        ms_end: iteration of the second scale, mostly the last; ``"welsch"`` needs it unless both scales are equal.
        ms_start, quant_start: iteration from which the term counts; until then it is 0 but present.

    ValueError where an argument does not fit; at the first call if it is an option of a term.
    """

    def __init__(
        self,
        *,
        binary_weight: float = 3.0,
        binary_margin: float = 2.0,
        binary_balance: bool = True,
        binary_area_exponent: float = 0.0,
        pi_weight: float = 1.0,
        pi_margin: float = 1.0,
        pi_pairs: str = "exact",
        pi_reduction: str = "instances",
        pi_different_weight: float = 2.0,
        pi_windows: Sequence[tuple[int, float]] = ((0, 1.0),),
        pi_windows_start: int = 0,
        pi_center: int = 0,
        pi_dilation: int = 0,
        pi_background: bool = False,
        ms_weight: float = 0.1,
        ms_kind: str = "cauchy",
        ms_scale: Sequence[float] = (),
        ms_start: int = 0,
        ms_end: int | None = None,
        quant_weight: float = 0.1,
        quant_start: int = 0,
        theta: float = 0.1,
    ) -> None:
        super().__init__()
        self.weights = dict(loss_binary=binary_weight, loss_pi=pi_weight, loss_ms=ms_weight, loss_quant=quant_weight)
        self.starts = {"loss_ms": ms_start, "loss_quant": quant_start}
        self.pi_windows_start = pi_windows_start
        for name, value in (*self.weights.items(), *self.starts.items(), ("pi_windows", pi_windows_start)):
            check_range(**{f"VariationalCriterion: the weight or start of {name}": value})
        self.binary_options: dict[str, Any] = dict(
            margin=binary_margin, theta=theta, balance=binary_balance, area_exponent=binary_area_exponent
        )
        self.pi_options: dict[str, Any] = dict(margin=pi_margin, theta=theta, pairs=pi_pairs, reduction=pi_reduction)
        self.pi_options |= dict(different_weight=pi_different_weight, background_as_instance=pi_background)
        self.pi_options |= dict(center=pi_center or None, dilation=pi_dilation or None)
        try:
            windows = tuple((int(side), float(factor)) for side, factor in pi_windows)
        except (TypeError, ValueError) as error:
            what = f"VariationalCriterion: pi_windows must be pairs of a side and a factor, not {pi_windows}"
            raise ValueError(what) from error
        if windows != ((0, 1.0),):
            one_whole = len(windows) == 1 and windows[0][1] == 1
            self.pi_options["window"] = windows[0][0] if pi_pairs == "stratified" and one_whole else windows
        if ms_scale and ms_kind != "welsch":
            raise ValueError(f"VariationalCriterion: ms_scale {ms_scale} needs ms_kind='welsch', not {ms_kind!r}")
        ms_scale = tuple(ms_scale) or (1.0, 0.1 if ms_kind == "welsch" else 1.0)
        if len(ms_scale) != 2 or not all(0 < scale < math.inf for scale in ms_scale):
            raise ValueError(f"VariationalCriterion: ms_scale must be two positive numbers, not {ms_scale}")
        if ms_end is None and ms_scale[0] != ms_scale[1]:
            raise ValueError(f"VariationalCriterion: ms_scale {ms_scale} changes until ms_end: give that iteration")
        self.ms_kind, self.ms_scale = ms_kind, ms_scale
        self.ms_end = ms_start if ms_end is None else ms_end

    def forward(self, logits: Tensor, instance_ids: Tensor, iteration: int = 0) -> dict[str, Tensor]:
        """Scalars ``loss_binary``, ``loss_pi``, ``loss_ms``, ``loss_quant``, already weighted, at an iteration of the
        training. The keys depend on the weights alone. Maps as for :mod:`losses`, ``logits`` before the ReLU: the first
        two terms take it as it is, so that foreground below 0 has a gradient; the others apply the ReLU."""
        pi_options = self.pi_options | ({"window": None} if iteration < self.pi_windows_start else {})
        (first, last), start = self.ms_scale, self.starts["loss_ms"]
        progress = (iteration - start) / max(self.ms_end - start, 1)
        scale = first * (last / first) ** min(max(progress, 0.0), 1.0)
        terms: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
            "loss_binary": (binary_loss, self.binary_options),
            "loss_pi": (permutation_invariant_loss, pi_options),
            "loss_ms": (mumford_shah_loss, {"kind": self.ms_kind, "scale": scale}),
            "loss_quant": (quantization_loss, {}),
        }
        losses = {}
        for name, (function, options) in terms.items():
            if weight := self.weights[name]:
                waits = iteration < self.starts.get(name, 0)
                loss = (logits.float() * 0).sum() if waits else function(logits, instance_ids, **options)
                losses[name] = weight * loss
        return losses
