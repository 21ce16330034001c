"""The shared latent diffusion model and its latent cache: torch and diffusers, never Ray."""
