"""From a volume and a camera to a DRR and its derivative."""
