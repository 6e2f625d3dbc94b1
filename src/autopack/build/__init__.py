"""A build: its plan, the call of each phase, the reply, and the run of all phases."""
