"""Figures, charts, scenes and pages that show results."""
