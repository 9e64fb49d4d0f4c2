"""What people look at: the built-in web page. It reads ClickHouse and changes nothing."""
