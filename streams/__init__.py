"""The stream processors: from what arrived to what it means, delivered once.

    batch → panes, windows → ledger → partition        pure: one source partition's whole state
    signals, baselines                                 pure: numbers that rules can judge
    delivery, warehouse, publisher, spend, emitter     shells: in order, with retries
    app, membership, continuity                        Faust: who owns which partition, what is next

The only writer of ClickHouse. It imports the kernel and no other room.
"""
