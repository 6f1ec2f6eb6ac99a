"""Bytes and counts as people read them. Pure."""


def readable(size: int) -> str:
    """Bytes: 999 B, 93.4 MB, 14.2 GB; powers of a thousand, as disks are sold."""
    return _scaled(size, "B", ("B", "kB", "MB", "GB", "TB"))


def count(number: int | None) -> str:
    """A count: 135M, 7.24B; empty where it is not known."""
    return "" if number is None else _scaled(number, "", ("", "K", "M", "B", "T")).replace(" ", "")


def _scaled(number: float, plain: str, units: tuple[str, ...]) -> str:
    step = 0
    while number >= 999.5 and step < len(units) - 1:
        number, step = number / 1000, step + 1
    if units[step] == plain:
        return f"{number:.0f} {plain}"
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f} {units[step]}"
