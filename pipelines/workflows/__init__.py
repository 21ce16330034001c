"""Curate and generate: a configuration becomes steps."""
