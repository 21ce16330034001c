"""What is known of a row: its key, its ledger entry, the facts of its image and caption."""
