"""Compares the screens on pages with those that people have seen."""

import re

from terminal import Unexpected

# What is another in every run, and what stands for it.
VARYING = [
    (re.compile(r"age1[0-9a-z]{10,}"), "age1…"),
    (re.compile(r"age1[0-9a-z]+…"), "age1…"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"\b[0-9a-f]{8}-…"), "ID"),
    (re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{16})\b"), "HEX"),
    (re.compile(r"\b[0-9a-f]{4,}…"), "HEX"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"), "TIME"),
    (re.compile(r"\d{4}-\d\d-\d\d"), "DATE"),
    (re.compile(r"https://(?:127\.0\.0\.1|db\d):\d+"), "URL"),
    (re.compile(r"km:v(\d+):[A-Za-z0-9_-]+…?"), r"km:v\1:…"),
    (re.compile(r"[─═┄╌]+"), "─"),
]


def plain(line):
    for pattern, word in VARYING:
        line = pattern.sub(word, line)
    return " ".join(line.split())


def screens_of(text):
    """Every screen on a page: (the line that was typed, the lines that follow)."""
    for block in re.findall(r"^ *```\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        for screen in re.split(r"^(?= *[a-z]+\$ )", block, flags=re.MULTILINE):
            lines = [line for line in map(plain, screen.splitlines()) if line]
            if lines and re.match(r"[a-z]+\$ ", lines[0]):
                yield lines[0], [line for line in lines[1:] if line != "…"]


def check_pages(paths, test, screens):
    """Every screen on the pages that name this test was seen by somebody."""
    seen = [(plain(line), {plain(part) for part in screen.splitlines()}) for line, screen, _ in screens]
    checked, wrong = 0, []
    for path in sorted(paths):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        if test not in text:
            continue
        for line, shown in screens_of(text):
            checked += 1
            # In any order: nodes answer when they can. … stands for lines left out.
            if not any(typed == line and set(shown) <= lines for typed, lines in seen):
                wrong.append("\n".join([f"{path}: nobody has seen this:", line, *shown]))
    if wrong or not checked:
        raise Unexpected("\n\n".join(wrong) or "no page shows a screen")
