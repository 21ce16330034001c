"""Download: URLs become verified crops in a tar, and one facts row for every input row."""
