"""Access logs of what stands in front of the engines, by mapping files that users can write."""
