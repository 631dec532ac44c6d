"""What a plot on the benchmark's page shows."""

from __future__ import annotations

import re
from xml.etree import ElementTree


def cut_off(page: str) -> list[tuple[float, float]]:
    """Points of a page's plots whose marks are not wholly inside their axes."""
    svg, link = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
    found = []
    for plot in re.findall(r"<svg .*?</svg>", page, re.DOTALL):
        root = ElementTree.fromstring(plot)
        areas = {
            f"url(#{clip.get('id')})": [float(clip[0].attrib[name]) for name in ("x", "y", "width", "height")]
            for clip in root.iter(f"{svg}clipPath")
        }
        marks = {f"#{path.get('id')}": path.attrib["d"] for path in root.iter(f"{svg}path") if path.get("id")}
        for group in root.iter(f"{svg}g"):
            if (area := areas.get(group.get("clip-path", ""))) is None:
                continue
            left, top, width, height = area
            for use in group.findall(f"{svg}use"):
                numbers = re.findall(r"-?[\d.]+", marks[use.attrib[link]])
                radius = max(abs(float(number)) for number in numbers)
                x, y = float(use.attrib["x"]), float(use.attrib["y"])
                inside = left + radius <= x <= left + width - radius
                if not (inside and top + radius <= y <= top + height - radius):
                    found.append((x, y))
    return found
