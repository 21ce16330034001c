"""The rule language: what a configuration can say of rows, before the fetch and after it."""
