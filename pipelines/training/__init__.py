"""Training jobs: a latent diffusion model from caches, on one process or many."""
