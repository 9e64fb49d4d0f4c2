"""The embedded stack as users run it: real processes, real sockets."""
