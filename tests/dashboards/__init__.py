"""Tests of the web page and its data."""
