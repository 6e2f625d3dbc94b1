"""Compare today's estimator with what really came: the same as `autopack replay`."""

import sys

from autopack.cli import main

if __name__ == "__main__":
    main(["replay", *sys.argv[1:]])
