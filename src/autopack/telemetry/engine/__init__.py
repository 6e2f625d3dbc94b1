"""From queue to database: the queue, the worker that drains it, retries, dead letters."""
