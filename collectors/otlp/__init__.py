"""vLLM's spans as a source: an OTLP/HTTP receiver and the spool that its requests wait in."""
