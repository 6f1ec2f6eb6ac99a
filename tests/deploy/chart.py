"""The chart as it is rendered: its objects, and the pods that they make."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from scripts.render_k8s import EXAMPLES, example, render

Object = dict[str, Any]
NAMES = sorted(path.stem for path in EXAMPLES.iterdir())
NAMESPACE, RELEASE = "llm", "demo"


@dataclass(frozen=True)
class Pod:
    """A pod template and the object that it stands in."""

    owner: Object
    template: Object

    def __str__(self) -> str:
        return f"{self.owner['kind']} {self.owner['metadata']['name']} ({self.labels['app.kubernetes.io/component']})"

    @property
    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.template["metadata"]["labels"]
        return found

    @property
    def spec(self) -> Object:
        found: Object = self.template["spec"]
        return found

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def main(self) -> Object:
        """The container that serves."""
        found: Object = self.spec["containers"][0]
        return found

    @property
    def is_worker(self) -> bool:
        """Whether it is another node of an engine, which answers nobody."""
        return self.labels["app.kubernetes.io/component"] == "engine-worker"


class Objects:
    """All that one release consists of."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.files = render(dict(values), RELEASE, NAMESPACE)
        texts = [text for path, text in self.files.items() if path.endswith(".yaml")]
        self.all: list[Object] = [one for text in texts for one in yaml.safe_load_all(text) if one]

    def of(self, *kinds: str) -> list[Object]:
        return [one for one in self.all if one["kind"] in kinds]

    def named(self, kind: str, name: str) -> Object:
        return next(one for one in self.of(kind) if one["metadata"]["name"] == name)

    def pods(self) -> Iterator[Pod]:
        """Those that stay; not the test's."""
        for one in self.of("Deployment"):
            yield Pod(one, one["spec"]["template"])
        for one in self.of("LeaderWorkerSet"):
            parts = one["spec"]["leaderWorkerTemplate"]
            yield from (Pod(one, parts[part]) for part in ("leaderTemplate", "workerTemplate"))

    def selected(self, labels: Mapping[str, str]) -> list[Pod]:
        return [pod for pod in self.pods() if labels.items() <= pod.labels.items()]

    def config(self, file: str) -> str:
        text: str = self.named("ConfigMap", f"{RELEASE}-config")["data"][file]
        return text


@cache
def objects(name: str) -> Objects:
    """An example's, rendered once."""
    return Objects(example(name))
