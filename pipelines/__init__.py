"""What happens to rows: sources, plan, ledger, stages, and the engine that runs them."""
