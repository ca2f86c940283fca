"""Journeys of the page in a real browser: `make test-e2e`. Not part of `make test`: they need Chromium."""
