"""placeholder until engines land"""


def serve() -> None:
    """Serve a model."""
