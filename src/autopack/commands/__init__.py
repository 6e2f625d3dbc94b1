"""One module for each `autopack …` command: parse, wire, print. What they share begins with an underscore."""
