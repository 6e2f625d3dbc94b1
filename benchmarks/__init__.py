"""What autopack costs, measured. The file makes a package of it: pyarrow 17 installs a package of the same name."""
