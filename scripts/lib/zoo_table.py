# SPDX-License-Identifier: GPL-2.0
"""The zoo as data: reads tests/dom0/zoo/table, whose head tells what is in it."""

from __future__ import annotations

import configparser
import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from problem import Problem

FOLDER = Path("/src/tests/dom0/zoo")
PLACE = "/zoo"
"""Where dom0 finds the folder."""
SETTINGS = ("kind", "at", "driver", "modules", "mtu", "xdp", "sleeps", "leaves", "layers", "filesystem")
"""What dom0 is told as the table has it."""
OURS = ("xen_swiotlb_rs_edu",)
"""Drivers that are no stock modules but our tests."""


@dataclass(frozen=True)
class Cell:
    """A device in a layout of memory."""

    device: str
    layout: str
    device_shows: str
    """What the device is."""
    sample: bool
    """Whether scripts/scenarios tries it, too."""
    address: str
    """The device's, on the PCI bus."""
    options: list[str]
    """Of scripts/dom0."""
    settings: dict[str, str]
    """What tests/dom0/zoo/run wants to know, but for the backend."""

    @property
    def name(self) -> str:
        """The one by which a cell is picked."""
        return f"{self.device}-{self.layout}"

    @property
    def shows(self) -> str:
        """What it is about."""
        apertures = (one.partition(":")[0] for one in self.settings["apertures"].split(";"))
        return f"{self.device_shows}; memory {self.layout}, aperture {', '.join(apertures)}"

    @property
    def digest(self) -> str:
        """Another one for a cell that the table has otherwise."""
        return hashlib.sha256(json.dumps([self.options, self.settings]).encode()).hexdigest()[:12]

    def command(self, backend: str) -> str:
        """What dom0 runs; the backend is `ours`, or `c` for the kernel's own."""
        settings = {**self.settings, "backend": backend}
        words = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
        return " ".join([*words, "exec", f"{PLACE}/run"])


def monitor_form(device: str) -> str:
    """A device as QEMU's monitor takes it, from the form that -device takes: a JSON object's inside."""
    driver, *properties = device.split(",")
    values: dict[str, str | bool] = {"driver": driver}
    for text in properties:
        name, _, value = text.partition("=")
        values[name] = {"on": True, "off": False}.get(value, value)
    return json.dumps(values, separators=(",", ":"))[1:-1]


def lines(text: str) -> list[str]:
    """Those that hold something."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def cells_of(table: configparser.ConfigParser, device: str) -> list[Cell]:
    """A device's."""
    row = table[device]
    kind = table[f"kind {row['kind']}"]
    fixed, plugged = lines(row.get("fixed", "")), lines(row.get("plugged", ""))
    options = ["--no-driver", "--monitor", "--timeout", "900", "--files", f"{FOLDER}={PLACE}"]
    options += shlex.split(kind["options"].format(**row))
    for module in row["modules"].split():
        options += ["--include-module", module] if module not in OURS else []
    for text in [*fixed, *plugged]:
        options += ["--device", text]
    for text in lines(row.get("warns", "")):
        options += ["--allow-warning", text]
    settings = {name: row[name] for name in SETTINGS}
    settings["plugged"] = "\n".join(map(monitor_form, plugged))
    found = []
    for section in table.sections():
        what, _, name = section.partition(" ")
        if what != "layout" or not row[name]:
            continue
        apertures = [f"{one}:{table[f'aperture {one}'].get('parameters', '')}" for one in row[name].split()]
        found.append(
            Cell(
                device=device,
                layout=name,
                device_shows=row["shows"],
                sample=name in row.get("sample", "").split(),
                address=row["at"],
                options=[*shlex.split(table[section]["options"]), *options],
                settings={**settings, "apertures": ";".join(apertures)},
            )
        )
    return found


def read() -> list[Cell]:
    """All cells, in the table's order."""
    table = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    try:
        table.read_string((FOLDER / "table").read_text())
        devices = [name for name in table.sections() if " " not in name]
        return [cell for device in devices for cell in cells_of(table, device)]
    except (configparser.Error, KeyError) as error:
        raise Problem(f"tests/dom0/zoo/table cannot be read: {error}") from error
