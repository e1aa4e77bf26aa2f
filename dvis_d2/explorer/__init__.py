"""Label maps in the browser: a local page with sliders for the thresholds (docs/guide/explore.md)."""
