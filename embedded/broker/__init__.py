"""A single-node broker that speaks enough of the Kafka protocol for unmodified clients.

It keeps records on disk and survives SIGKILL, so that one machine needs neither Docker nor Java.
It refuses to be a cluster: no replication, no transactions, no TLS or SASL, no quotas, no ACLs.
"""
