"""``redline demo``: a simulated fleet on the embedded stack, incidents, and what came of them."""
