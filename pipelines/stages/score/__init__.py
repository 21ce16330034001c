"""Score images: one CLIP forward per image feeds every score."""
