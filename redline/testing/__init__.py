"""Stand-ins that ship with Redline, for demos and tests on machines without the real thing."""
