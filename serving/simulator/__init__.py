"""The simulated fleet: engines that behave, answer and log as vLLM servers do, without a GPU."""
