"""Images from CTs, the training loop and its validation."""
