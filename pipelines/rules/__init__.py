"""What a list's own columns say of its rows before anything is fetched."""
