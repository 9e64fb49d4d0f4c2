"""The ClickHouse HTTP interface in front of the in-process engine (chDB), for one machine."""
