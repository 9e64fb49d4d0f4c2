"""Read logs, engines, GPUs and probes; publish; lose nothing."""
