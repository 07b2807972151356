"""Scenes with known truth: phantoms and simulated X-rays."""
