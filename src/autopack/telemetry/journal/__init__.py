"""The write-ahead journal: accepted events in memory-mapped files that outlive the process."""
