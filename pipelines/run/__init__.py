"""A run on storage: its record, store, manifests, tables, images, index and lease."""
