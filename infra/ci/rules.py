"""The alert rules once more, as an object for the Prometheus operator: kustomize reads nothing outside of its folder.

`python -m infra.ci.rules` writes it.
"""

from collections.abc import Iterator
from pathlib import Path

SOURCE = "infra/observability/alerts.yml"
FILE = "infra/k8s/components/monitoring/rules.yaml"

_HEAD = f"""\
# Made from {SOURCE} by `python -m infra.ci.rules`: change that one.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: headway
  labels: {{app.kubernetes.io/name: headway, app.kubernetes.io/part-of: headway}}
spec:
"""


def renewed(root: Path) -> str:
    """The whole file as it should be."""
    lines = (root / SOURCE).read_text().splitlines()
    return _HEAD + "".join(f"  {line}".rstrip() + "\n" for line in lines)


def problems(root: Path) -> Iterator[str]:
    if (root / SOURCE).exists() and (not (root / FILE).exists() or renewed(root) != (root / FILE).read_text()):
        yield f"{FILE}: not what {SOURCE} says; run `python -m infra.ci.rules`"


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[2]
    (here / FILE).write_text(renewed(here))
