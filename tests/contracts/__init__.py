"""Suites that run on the embedded server and on the real one alike."""
