"""Names that Kubernetes and Compose take, made of those that models have. Pure."""

import re

MOST = 30  # characters: what a release's name, "-canary" and a pod's own part leave of 63


def label_of(model: str) -> str:
    """`Qwen/Qwen2.5-0.5B-Instruct` is `qwen2-5-0-5b-instruct`."""
    last = model.rstrip("/").rpartition("/")[2].lower()
    label = re.sub(r"[^a-z0-9]+", "-", last).strip("-")
    return (label if label[:1].isalpha() else f"m-{label}").strip("-")[:MOST].rstrip("-")


def labels_of(models: list[str]) -> list[str]:
    """A label for each, no two alike."""
    found: list[str] = []
    for model in models:
        label, number = label_of(model), 2
        while label in found:
            end = f"-{number}"
            label, number = label_of(model)[: MOST - len(end)].rstrip("-") + end, number + 1
        found.append(label)
    return found
