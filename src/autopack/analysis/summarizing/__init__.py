"""`autopack summary`: the verdict, and how its figures developed."""
