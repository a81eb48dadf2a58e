"""Numbers as Prometheus reads them: https://prometheus.io/docs/instrumenting/exposition_formats/."""

from __future__ import annotations

from collections.abc import Iterable

from p2psyncd.control.messages import Metric

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "p2psync_"


def exposition(metrics: Iterable[Metric]) -> str:
    """Return the text format; samples of one name are put together, in the order of first appearance."""
    families: dict[str, list[Metric]] = {}
    for metric in metrics:
        families.setdefault(metric["name"], []).append(metric)
    lines = []
    for name, samples in families.items():
        help_text = samples[0]["help"].replace("\\", r"\\").replace("\n", r"\n")
        lines += [f"# HELP {PREFIX}{name} {help_text}", f"# TYPE {PREFIX}{name} {samples[0]['type']}"]
        lines += [f"{PREFIX}{name}{labels(sample)} {number(sample['value'])}" for sample in samples]
    return "".join(line + "\n" for line in lines)


def labels(sample: Metric) -> str:
    """Return the labels in braces; nothing if there are none."""
    pairs = [f'{name}="{escape(value)}"' for name, value in sample["labels"].items()]
    return "{" + ",".join(pairs) + "}" if pairs else ""


def escape(value: str) -> str:
    """Return a label's value with what the format reserves escaped, and what is not Unicode replaced."""
    text = value.encode("utf-8", "replace").decode("utf-8")
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def number(value: float) -> str:
    """Return whole numbers without a point, so that counters of bytes stay exact."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
