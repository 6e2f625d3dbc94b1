"""`autopack tail`: events as they land."""
