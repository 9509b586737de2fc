"""Power of a Jetson: the sensors on its rails, through sysfs or in the words of `tegrastats`.

A module has an INA3221 or several, with three rails each; Thor's carrier has an INA238 as well.
JetPack 5 and newer show them as hwmon devices (`in1_label`, `in1_input` in mV, `curr1_input` in mA,
`power1_input` in µW), older ones as iio devices (`rail_name_0`, `in_power0_input` in mW). NVML is
there from Orin on, and answers "not supported" to power, memory and clocks alike.
"""

from __future__ import annotations

import re
import subprocess
import threading
from pathlib import Path

from llx.bench.machine.energy import Missing
from llx.bench.machine.sysfs import number, numbered, text

PERIOD_S = 0.1
MOST_MILLI = 200_000  # of volts and of amperes: no Jetson has more than 200 of either
MOST_MICROWATTS = 2_000_000_000
HWMON, DRIVERS = "sys/class/hwmon", "sys/bus/i2c/drivers"
RELEASE, MODEL = "etc/nv_tegra_release", "proc/device-tree/model"
# A rail that all of a module's power goes through, and the rails that together are all of it where
# there is none: AGX Orin (whose VDDQ_VDD2_1V8AO comes from VIN_SYS_5V0), Thor, AGX Xavier.
WHOLE = ("VIN", "VDD_IN", "POM_5V_IN", "5V_IN")
TOGETHER = (
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
RAIL = re.compile(r"(?:^|\s)([A-Z0-9][A-Z0-9_]*) (\d{1,9})(?:mW)?/\d{1,9}(?:mW)?(?=\s|$)")


def whole_of(names: set[str]) -> tuple[str, ...] | None:
    """The rails that are all of a module's power, among those that it has; None if that is open."""
    for name in WHOLE:
        if name in names:
            return (name,)
    return next((rails for rails in TOGETHER if names.issuperset(rails)), None)


class Rails:
    """The sensors of this Jetson."""

    source = "INA3221"
    period_s = PERIOD_S

    def __init__(self, sensors: dict[str, Sensor], names: tuple[str, ...]) -> None:
        self._sensors = [sensors[name] for name in names]
        self.rail = " + ".join(names)
        if any(sensor.chip == "ina238" for sensor in self._sensors):
            self.source = "INA238"

    def watts(self) -> float | None:
        """The power now; None where one of the rails does not tell."""
        values = [sensor.watts() for sensor in self._sensors]
        return None if None in values else sum(value for value in values if value is not None)

    def close(self) -> None:
        """Nothing is open."""


class Sensor:
    """One rail of one chip: files of its power, or of its voltage and current."""

    def __init__(self, chip: str, power: Path, unit_w: float, volts: Path, amperes: Path) -> None:
        self.chip, self._power, self._unit_w = chip, power, unit_w
        self._volts, self._amperes = volts, amperes

    def watts(self) -> float | None:
        """The power now. A reading below zero, an offset of the sensor, is none."""
        power = number(self._power, MOST_MICROWATTS)
        if power is not None:
            return power * self._unit_w
        millivolts, milliamperes = (
            number(path, MOST_MILLI) for path in (self._volts, self._amperes)
        )
        if millivolts is None or milliamperes is None:
            return None
        return millivolts * milliamperes / 1e6


def find_sensors(root: Path = Path("/")) -> dict[str, Sensor]:
    """The sensors of all rails that have a name."""
    found: dict[str, Sensor] = {}
    for chip in _chips(root):
        kind = text(chip / "name") or ""
        for at in range(1, 4):
            label = text(chip / f"in{at}_label")
            if label is None and at == 1:
                label = text(chip / "label") or ("VIN" if kind == "ina238" else None)
            if label and label != "NC":
                files = (chip / f"{part}{at}_input" for part in ("power", "in", "curr"))
                power, volts, amperes = files
                found.setdefault(label, Sensor(kind, power, 1e-6, volts, amperes))
    for device in (root / DRIVERS).glob("ina3221*/*/iio:device*"):
        for at in range(3):
            label = text(device / f"rail_name_{at}")
            if label and label != "NC":
                power = device / f"in_power{at}_input"
                volts, amperes = (device / f"in_{p}{at}_input" for p in ("voltage", "current"))
                found.setdefault(label, Sensor("ina3221", power, 1e-3, volts, amperes))
    return found


def _chips(root: Path) -> list[Path]:
    chips = numbered(root / HWMON, "hwmon")
    for driver in sorted((root / DRIVERS).glob("ina*")):
        for device in sorted(driver.glob("*-*")):
            chips += numbered(device / "hwmon", "hwmon")
    return [chip for chip in chips if (text(chip / "name") or "").startswith("ina")]


def tegrastats_rails(line: str) -> dict[str, float]:
    """Watts of each rail in a line of `tegrastats`: `VDD_IN 4060mW/4100mW`, now and on average.

    JetPack 4 leaves the unit away. `RAM 1903/7771MB` has another.
    """
    return {name: int(now) / 1e3 for name, now in RAIL.findall(line)}


class Tegrastats:
    """`tegrastats`, which needs no more than to be there; a line of it lasts until the next."""

    source = "tegrastats"
    period_s = PERIOD_S

    def __init__(self, tool: str) -> None:
        self._process = subprocess.Popen(
            [tool, "--interval", str(int(1e3 * PERIOD_S))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.rail = ""
        self._watts: float | None = None
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        said = self._process.stdout
        assert said is not None
        for line in iter(lambda: said.readline(1 << 16), b""):
            rails = tegrastats_rails(line.decode(errors="replace"))
            names = whole_of(set(rails))
            if names and not self.rail:
                self.rail = " + ".join(names)
            same = names is not None and " + ".join(names) == self.rail
            self._watts = sum(rails[name] for name in names or ()) if same else None
            self._first.set()
        self._watts = None
        self._first.set()

    def wait(self, seconds: float) -> bool:
        """Whether it told the power within so many seconds."""
        self._first.wait(seconds)
        return self._watts is not None

    def watts(self) -> float | None:
        """The power in the last line."""
        return self._watts

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._thread.join(timeout=10)
        if self._process.stdout and not self._thread.is_alive():
            self._process.stdout.close()


def find_rails(root: Path, tegrastats: str | None) -> Rails | Tegrastats | Missing | None:
    """A Jetson's sensors, or `tegrastats` where they are out of reach; None where it is none.

    `tegrastats`: where it is, None where it is not.
    """
    sensors = find_sensors(root)
    names = whole_of(set(sensors))
    if names:
        rails = Rails(sensors, names)
        if rails.watts() is not None or tegrastats is None:
            return rails
    if text(root / RELEASE) is None and "Jetson" not in (text(root / MODEL) or ""):
        return None
    if tegrastats:
        follower = Tegrastats(tegrastats)
        if follower.wait(10 * PERIOD_S + 5):
            return follower
        follower.close()
    shown = ", ".join(sorted(sensors))
    return Missing(
        f"which of the rails {shown} are all of it is not known" if shown else "no rail is shown",
        "run it outside of a container, or with /sys and tegrastats in it",
    )
