"""Print what is installed beside the Python that runs this, as a CycloneDX 1.6 document.

From the installed distributions themselves, so that it cannot tell of anything else; without a time or a random number,
so that the same packages give the same document. The image's stage that installs runs it, with nothing but Python:

    python sbom.py NAME VERSION > sbom.cdx.json
"""

import json
import re
import sys
from importlib.metadata import Distribution, distributions
from typing import Any


def document(name: str, version: str) -> dict[str, Any]:
    """The whole document, about what is called `name`."""
    components = sorted((_component(one) for one in distributions()), key=lambda one: str(one["purl"]))
    about = {"type": "container", "bom-ref": name, "name": name, "version": version}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": about},
        "components": components,
    }


def _component(distribution: Distribution) -> dict[str, Any]:
    name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
    purl = f"pkg:pypi/{name}@{distribution.version}"
    component = {"type": "library", "bom-ref": purl, "name": name, "version": distribution.version, "purl": purl}
    licence = distribution.metadata.get("License-Expression") or ""
    return component | ({"licenses": [{"expression": licence}]} if licence else {})


if __name__ == "__main__":
    json.dump(document(*sys.argv[1:]), sys.stdout, indent=1)
    sys.stdout.write("\n")
