"""The built-in web page, and Grafana as code."""
