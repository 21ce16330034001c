"""What a person looks at: the page and the card of a run, and the life of one of its rows."""
