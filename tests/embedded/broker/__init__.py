"""What only our own broker promises: its files, its limits, its state machines."""
