"""The contract of the ClickHouse HTTP interface."""
