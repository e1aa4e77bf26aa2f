"""What a trained model gets wrong, as one HTML page and as JSON (docs/guide/report.md)."""

from .collect import Judged, judge_images
from .figures import summarize
