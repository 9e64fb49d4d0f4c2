# mypy: disable-error-code="import-not-found"
"""``python -m redline_vllm.keys``: the hash of each API key on standard input, for the keys file.

Keys come from standard input, because arguments are seen by every user of a machine. This file
refuses to print a key.
"""

from __future__ import annotations

import sys

from redline_vllm.settings import read_settings
from redline_vllm.tenants import hash_key


def main() -> int:
    """0: one hash a line; 2: there is no secret to hash with."""
    secret = read_settings().key_hash_secret
    if not secret:
        sys.stderr.write("redline_vllm.keys: set REDLINE_KEY_HASH_SECRET as the server has it\n")
        return 2
    for line in sys.stdin:
        if key := line.strip():
            sys.stdout.write(hash_key(secret, key.encode()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
