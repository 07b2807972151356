"""Training of pose networks: images from CTs, the training loop, and validation."""
