"""The roof: the redline command composes and supervises the rooms."""
