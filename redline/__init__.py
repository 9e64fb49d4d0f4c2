"""The kernel: what every room agrees on. It imports no room."""
