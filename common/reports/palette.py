"""Colours of all figures: the palette of Okabe and Ito, made for colour-blind readers too."""

from __future__ import annotations

BLUE, ORANGE, GREEN, VERMILLION = "#0072b2", "#e69f00", "#009e73", "#d55e00"
OUTLINE = ORANGE  # bright on black and on grey
BONE = "#e8dcc0"  # surface of a bone in a 3D scene
FRAME = "#555555"  # edges of the detector and of the X-ray beam
