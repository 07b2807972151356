"""Pose networks: their checkpoints, and the start pose that they predict from an X-ray."""
