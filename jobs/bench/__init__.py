"""What the job costs beside others' and beside the sum of its parts; run by jobs.bench."""
