"""Export TokenEstimationV2 telemetry from the database to NDJSON for analysis: the same as `autopack export`."""

import sys

from autopack.cli import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
