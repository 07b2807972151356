"""Joints from poses: anatomical frames, joint coordinates with bands, movements and their files."""
