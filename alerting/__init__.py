"""Rules, states, Slack, signed webhooks and actions."""
