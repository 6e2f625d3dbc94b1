"""`autopack report`: the verdict, the calls and the writer's health in one HTML file."""
