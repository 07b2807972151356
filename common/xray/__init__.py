"""X-ray images with their detector: read, calibrated, compared."""
