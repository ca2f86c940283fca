"""The HTTP server: an engine that runs several requests at once, and llama-server's dialect in front of it."""
