"""`python -m consortia.deploy.health`: a container's health check.

Asks `$CONSORTIA_HEALTH_URL`, trusting `$CONSORTIA_HEALTH_CA` alone; without an address there is nothing to ask.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request

_SECONDS = 3.0


def main() -> int:
    """Return 0 when the service answers 200."""
    url = os.environ.get("CONSORTIA_HEALTH_URL", "")
    if not url:
        return 0
    if not url.startswith("https://"):
        return 2
    context = ssl.create_default_context(cafile=os.environ["CONSORTIA_HEALTH_CA"])
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS, context=context) as answer:  # noqa: S310 - https, above
            return 0 if answer.status == 200 else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
