"""Encode kept images into the latent cache."""
