"""The recipes of the tiny models that ship, and how they are judged."""
