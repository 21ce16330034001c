"""What a GPU reaches and what could fail on one: `python -m jobs.bench gpu`; see README.md."""
