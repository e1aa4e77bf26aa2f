"""What ../roi_heads.py is made of: what the heads see and learn, and how their verdicts become detections."""
