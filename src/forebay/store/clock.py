"""The database's clock, for what gateways hold for a while: those of their machines need not agree.

Seconds since 1970 as `time.time()` has them; in SQLite the machine's own, which all who use the file share.
"""

from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class WallClock(FunctionElement[float]):
    """When the statement is at it; not when its transaction began, which may have waited since."""

    type = Double()
    inherit_cache = True


@compiles(WallClock, "postgresql")
def _of_postgresql(_element: WallClock, _compiler: Any, **_options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS double precision)"


@compiles(WallClock, "sqlite")
def _of_sqlite(_element: WallClock, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"
