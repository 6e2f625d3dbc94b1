"""The API that answers without a key: a real HTTP server on loopback with recorded or simulated replies."""
