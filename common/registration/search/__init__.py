"""Search: start poses over the pose range, or over all orientations, without a network."""
