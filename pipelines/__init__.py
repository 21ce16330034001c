"""What happens to rows: sources, plan, ledger, steps, and the engine that runs them."""
