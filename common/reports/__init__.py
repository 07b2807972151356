"""Figures, charts, 3D scenes, animations and web pages that show results."""
