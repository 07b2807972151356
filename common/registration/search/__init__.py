"""Start poses where nothing is known about the pose."""
