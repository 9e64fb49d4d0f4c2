"""The version router for machines without Kubernetes: splits, streams, rolls back."""
