"""The model servers: version router, simulated fleet, KV sizing."""
