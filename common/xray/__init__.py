"""X-rays with their detector, read from image or DICOM files, and comparisons of images."""
