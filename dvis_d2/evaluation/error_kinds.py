"""What the errors of a model are and what each kind costs: TIDE's six (Bolya et al., ECCV 2020) and DVIS's own.

A kind's cost is the gain in AP50 if an oracle put all errors of that kind right and left the others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .comparison import Comparison, compare_masks

POSITIVE, BACKGROUND = 0.5, 0.1  # TIDE's IoU thresholds
TIDE = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
# of an object that no detection stands for: which part lost it; then of a detection
NO_FOREGROUND, MERGED, TORN = "not foreground", "merged by the label map", "torn by the label map"
HEADS, WRONG_CLASS, DUPLICATE = "lost by the heads", "wrong class", "duplicate"
UNKNOWN = "missed in a tile"
OWN = (NO_FOREGROUND, MERGED, TORN, HEADS, WRONG_CLASS, DUPLICATE, UNKNOWN)


@dataclass
class ImageRecord:
    """One image: D detections, best first, and G objects, as COCO RLE; `causes` says of each object which part would
    have lost it, one of `OWN` (:func:`label_map_cause`)."""

    size: tuple[int, int]
    found: list[dict]
    classes: list[int]
    scores: list[float]
    objects: list[dict]
    object_classes: list[int]
    crowd: list[bool]
    causes: list[str] = field(default_factory=list)


@dataclass
class Errors:
    """Of one image: what is wrong with each detection, of `TIDE`, "" for nothing, or None for one in a crowd, and with
    each object, of `OWN`, "" for nothing; the object that a corrected detection would stand for, or -1."""

    comparison: Comparison
    found: list[str | None]
    objects: list[str]
    corrected: list[int]
    missed: list[bool]  # TIDE's, of each object


def label_map_cause(foreground: np.ndarray, overlap: np.ndarray, area: tuple[np.ndarray, np.ndarray]) -> list[str]:
    """Which part loses each of G objects that is not found, of its share in the foreground (G,), in [0, 1], the area
    that it shares with each proposal (K, G), and both areas: `area` is a pair, (K,) and (G,)."""
    proposed, objects = area
    causes = []
    for g, size in enumerate(objects):
        shared = overlap[:, g]
        iou = shared / np.maximum(proposed + size - shared, 1e-9)
        best = int(iou.argmax()) if len(iou) else -1
        if foreground[g] < 0.5 or best < 0:
            causes.append(NO_FOREGROUND)
        elif iou[best] >= POSITIVE:
            causes.append(HEADS)
        else:
            causes.append(MERGED if shared[best] >= 0.5 * size else TORN)
    return causes


def find_errors(record: ImageRecord) -> Errors:
    """What is wrong in one image, in the order of TIDE's program."""
    classes, own = np.array(record.classes, int), np.array(record.object_classes, int)
    result = compare_masks(record.found, classes.tolist(), record.objects, own.tolist(), record.crowd)
    crowd = np.array(record.crowd, bool).reshape(-1)
    kinds: list[str | None] = []
    corrected = []
    for d, kind in enumerate(classes):
        same, other = (np.where(mask & ~crowd, result.iou[d], 0) for mask in (own == kind, own != kind))
        most, most_other = same.max(initial=0), other.max(initial=0)
        target = -1
        if result.match[d] >= 0 or not result.found[d]:
            kinds.append("" if result.match[d] >= 0 else None)
        elif BACKGROUND <= most <= POSITIVE:
            kinds.append("Loc")
            target = int(same.argmax())
        elif most_other >= POSITIVE:
            kinds.append("Cls")
            target = int(other.argmax())
        else:
            kinds.append("Dupe" if most >= POSITIVE else "Bkg" if max(most, most_other) <= BACKGROUND else "Both")
        corrected.append(target)
    hit = np.isin(np.arange(len(own)), result.match)
    near = np.isin(np.arange(len(own)), corrected)
    missed = (~hit & ~near & ~crowd).tolist()
    seen = (result.iou >= POSITIVE) & (own[None] != classes[:, None])
    causes = record.causes or [UNKNOWN] * len(own)
    lost = [WRONG_CLASS if seen[:, g].any() else causes[g] for g in range(len(own))]
    objects = ["" if hit[g] or crowd[g] else lost[g] for g in range(len(own))]
    return Errors(result, kinds, objects, corrected, missed)


def error_costs(records: Sequence[ImageRecord], errors: Sequence[Errors]) -> dict[str, dict[str, dict[str, float]]]:
    """{"tide" and "own": {kind: {"count", "cost": AP50 points}}}, and {"all": {"ap50": ...}}."""
    plain = _ap50(records, errors)
    tide = {kind: {"count": _count(errors, kind), "cost": _ap50(records, errors, kind) - plain} for kind in TIDE}
    own: dict[str, dict[str, float]] = {}
    for kind in OWN:
        count = tide["Dupe"]["count"] if kind == DUPLICATE else sum(e.objects.count(kind) for e in errors)
        fixed = {DUPLICATE: "Dupe", WRONG_CLASS: "Cls"}.get(kind, kind)
        if count or kind != UNKNOWN:
            own[kind] = {"count": count, "cost": _ap50(records, errors, fixed) - plain}
    return {"all": {"ap50": {"value": plain}}, "tide": tide, "own": own}


def _count(errors: Iterable[Errors], kind: str) -> int:
    return sum(sum(e.missed) if kind == "Miss" else e.found.count(kind) for e in errors)


def _ap50(records: Sequence[ImageRecord], errors: Sequence[Errors], fixed: str = "") -> float:
    """AP at IoU 0.5 in 0..100, with the errors of one kind put right."""
    rows: list[tuple[float, int, bool]] = []
    totals: dict[int, int] = {}
    for record, error in zip(records, errors, strict=True):
        for g, kind in enumerate(record.object_classes):
            gone = error.missed[g] if fixed == "Miss" else bool(fixed) and error.objects[g] == fixed
            if not record.crowd[g] and not gone:
                totals[kind] = totals.get(kind, 0) + 1
        taken = set(error.comparison.match.tolist())
        for d, wrong in enumerate(error.found):
            stands, kind = not wrong, record.classes[d]
            if wrong is None or (wrong == fixed and wrong in ("Both", "Dupe", "Bkg")):
                continue
            if wrong == fixed and wrong in ("Cls", "Loc"):
                if error.corrected[d] in taken:
                    continue  # put right, it would be a duplicate
                taken.add(error.corrected[d])
                stands, kind = True, record.object_classes[error.corrected[d]]
            rows.append((record.scores[d], kind, stands))
    aps = []
    for kind, total in totals.items():
        own = sorted((row for row in rows if row[1] == kind), key=lambda row: -row[0])
        right = np.cumsum([row[2] for row in own])
        precision = np.append(np.maximum.accumulate((right / np.arange(1, len(own) + 1))[::-1])[::-1], 0)
        aps.append(precision[np.searchsorted(right / total, np.linspace(0, 1, 101) - 1e-9)].mean() if own else 0)
    return 100 * float(np.mean(aps)) if aps else 0.0
