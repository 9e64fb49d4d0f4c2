"""Reads request logs, engines and GPUs on one machine, and publishes what it read to Kafka.

The log files themselves are the spool: while Kafka is away the tailer does not advance, and
nothing is copied. It refuses to aggregate, to price or to store anything.
"""
