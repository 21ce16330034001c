"""Publish: the kept images, with their facts, in files of their own; no model runs."""
