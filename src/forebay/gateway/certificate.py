"""When does the certificate expire that callers are shown? Read once, as the server reads it: at the start."""

from pathlib import Path


def expiry_of(file: Path) -> float | None:
    """The Unix time at which the first of a file's certificates to expire does; None where it has none to read."""
    from cryptography.x509 import load_pem_x509_certificates  # takes time to load, and only TLS needs it

    try:
        chain = load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError):
        return None  # the server says it better
    return min(one.not_valid_after_utc for one in chain).timestamp()
