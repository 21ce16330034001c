"""Sampling: from noise and text to images, with any of the usual samplers."""
