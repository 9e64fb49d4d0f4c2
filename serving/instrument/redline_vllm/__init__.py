"""One exact record per request out of a vLLM server, written as NDJSON for Redline.

Loaded by vLLM's own hooks: the entry point ``vllm.stat_logger_plugins`` sees the engine half of a
request, ``--middleware redline_vllm.middleware.RequestLogMiddleware`` the HTTP half. It does
nothing unless REDLINE_REQUEST_LOG_DIR is set. It refuses to write prompts or answers, to block the
event loop, and to let an error of its own reach vLLM.
"""

__version__ = "0.1.0"
