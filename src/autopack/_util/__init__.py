"""Small helpers that know nothing of telemetry: text, files, terminals, signals, ids."""
