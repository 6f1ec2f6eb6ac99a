"""Whether the process in this container works, for HEALTHCHECK: ends with 0 where the URL answers 200.

python health.py http://127.0.0.1:8000/health
"""

import ssl
import sys
import urllib.request

# The certificate is for the name that callers use; this asks the process beside it.
unverified = ssl.create_default_context()
unverified.check_hostname = False
unverified.verify_mode = ssl.CERT_NONE
try:
    urllib.request.urlopen(sys.argv[1], timeout=4, context=unverified)  # noqa: S310
except OSError as failure:
    sys.exit(f"{sys.argv[1]}: {failure}")
