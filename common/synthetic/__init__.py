"""Scenes with known ground truth: phantom knees and simulated X-rays."""
