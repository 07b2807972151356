"""DRRs: renderers from a volume and a camera to an image and its derivative by the pose."""
