"""Tests: behaviour, contracts, scenarios, integration; folders mirror the rooms."""
