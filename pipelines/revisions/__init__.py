"""What happens to a run after it was made: re-cuts, retries, growth, takedowns, clean-ups."""
