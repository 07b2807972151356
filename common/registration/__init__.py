"""From X-rays and structures to poses, their uncertainty and a verdict."""
