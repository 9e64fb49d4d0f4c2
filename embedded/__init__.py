"""What stands in for Kafka and ClickHouse on one machine."""
