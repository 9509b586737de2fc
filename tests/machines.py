"""Trees of kernel files, as machines show them: written by the documented formats, not recorded.

Formats: the kernel's documents of ina3221, ina238, powercap, cpufreq and cgroups; NVIDIA's
developer guides of Jetson Linux 32, 35, 36 and 38; what users of those have posted.
"""

from __future__ import annotations

from pathlib import Path

JETSON = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n"
}


def _ina3221(folder, at, *rails):
    """Rails of (label, mV, mA). The seventh channel is the sum of the shunts' voltages, in µV."""
    files = {f"{folder}/hwmon{at}/name": "ina3221\n", f"{folder}/hwmon{at}/in7_input": "760\n"}
    files[f"{folder}/hwmon{at}/in7_label"] = "sum of shunt voltages\n"
    for i, (label, millivolts, milliamperes) in enumerate(rails, 1):
        files[f"{folder}/hwmon{at}/in{i}_label"] = f"{label}\n"
        files[f"{folder}/hwmon{at}/in{i}_input"] = f"{millivolts}\n"
        files[f"{folder}/hwmon{at}/curr{i}_input"] = f"{milliamperes}\n"
    return files


HWMON = "sys/class/hwmon"
ORIN_NX = JETSON | _ina3221(  # JetPack 6
    HWMON, 1, ("VDD_IN", 4968, 1216), ("VDD_CPU_GPU_CV", 4968, 320), ("VDD_SOC", 4960, 328)
)
AGX_ORIN = (  # JetPack 5, through the driver's folder
    JETSON
    | _ina3221(
        "sys/bus/i2c/drivers/ina3221/1-0040/hwmon",
        3,
        ("VDD_GPU_SOC", 19000, 200),
        ("VDD_CPU_CV", 19000, 50),
        ("VIN_SYS_5V0", 5000, 900),
    )
    | _ina3221(
        "sys/bus/i2c/drivers/ina3221/1-0041/hwmon",
        4,
        ("NC", 0, 0),
        ("VDDQ_VDD2_1V8AO", 5000, 80),
        ("NC", 0, 0),
    )
)
THOR = (  # JetPack 7: the carrier's INA238 sees all, in µW
    JETSON
    | _ina3221(
        HWMON,
        3,
        ("VDD_GPU", 12000, -32),
        ("VDD_CPU_SOC_MSS", 12000, 540),
        ("VIN_SYS_5V0", 5000, 1300),
    )
    | {
        f"{HWMON}/hwmon4/name": "ina238\n",
        f"{HWMON}/hwmon4/in1_input": "20000\n",
        f"{HWMON}/hwmon4/curr1_input": "1150\n",
        f"{HWMON}/hwmon4/power1_input": "23040000\n",
    }
)
_IIO = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
NANO = JETSON | {  # JetPack 4
    f"{_IIO}/name": "ina3221x\n",
    **{f"{_IIO}/rail_name_{i}": f"POM_5V_{part}\n" for i, part in enumerate(("IN", "GPU", "CPU"))},
    **{f"{_IIO}/in_voltage{i}_input": "5000\n" for i in range(3)},
    **{f"{_IIO}/in_current{i}_input": f"{amps}\n" for i, amps in enumerate((506, 40, 120))},
    **{f"{_IIO}/in_power{i}_input": f"{watts}\n" for i, watts in enumerate((2532, 200, 600))},
}

TEGRASTATS = {  # a line of each, the whole's watts
    "POM_5V_IN": (
        "RAM 1903/3956MB (lfb 2x1MB) SWAP 97/1978MB (cached 5MB) IRAM 0/252kB(lfb 252kB) CPU "
        "[9%@1420,3%@1420,off,off] EMC_FREQ 0% GR3D_FREQ 0% PLL@34C CPU@36.5C PMIC@100C GPU@36C "
        "AO@41C thermal@36.25C POM_5V_IN 2532/2532 POM_5V_GPU 40/40 POM_5V_CPU 612/612",
        2.532,
    ),
    "VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0": (
        "01-24-2023 10:11:12 RAM 13983/62780MB (lfb 424x4MB) SWAP 126/31390MB (cached 0MB) CPU "
        "[90%@2201,100%@2201] EMC_FREQ 1%@2133 GR3D_FREQ 14%@[407,407] VIC_FREQ 115 APE 174 "
        "CV0@73.625C CPU@77.281C tj@77.281C VDD_GPU_SOC 3150mW/2971mW VDD_CPU_CV 14312mW/12415mW "
        "VIN_SYS_5V0 4968mW/5048mW VDDQ_VDD2_1V8AO 1091mW/1091mW",
        22.430,
    ),
    "VDD_IN": (
        "11-14-2024 22:54:33 RAM 3980/7620MB (lfb 4x1MB) SWAP 22/3810MB (cached 0MB) CPU "
        "[11%@729,5%@729,4%@729,6%@729,1%@729,0%@729] GR3D_FREQ 0% cpu@50.312C soc2@49.531C "
        "gpu@50.156C tj@50.312C VDD_IN 4811mW/4851mW VDD_CPU_GPU_CV 518mW/544mW VDD_SOC "
        "1475mW/1476mW",
        4.811,
    ),
    "VIN": (
        "10-02-2026 09:00:01 RAM 6120/125772MB (lfb 12x4MB) SWAP 0/0MB (cached 0MB) CPU [1%@972] "
        "GR3D_FREQ @[0,0,0] cpu@41.2C tj@42.1C VDD_GPU 2356mW/2356mW VDD_CPU_SOC_MSS "
        "6283mW/6280mW VIN_SYS_5V0 6477mW/6477mW VIN 23040mW/23011mW",
        23.040,
    ),
}

_RAPL = "sys/class/powercap"


def _zone(name, label, microjoules, limit=262143328850):
    return {
        f"{_RAPL}/{name}/name": f"{label}\n",
        f"{_RAPL}/{name}/energy_uj": f"{microjoules}\n",
        f"{_RAPL}/{name}/max_energy_range_uj": f"{limit}\n",
    }


RAPL = (
    _zone("intel-rapl:0", "package-0", 1_000_000)
    | _zone("intel-rapl:0:0", "core", 10)
    | _zone("intel-rapl:0:1", "dram", 500_000, 65712999613)
    | _zone("intel-rapl:1", "package-1", 262143000000)
    | _zone("intel-rapl:2", "psys", 77)
    | _zone("intel-rapl-mmio:0", "package-0", 5)
    | {f"{_RAPL}/intel-rapl/enabled": "1\n"}
)
AMD_ENERGY = {
    f"{HWMON}/hwmon2/name": "amd_energy\n",
    f"{HWMON}/hwmon2/energy1_label": "Ecore000\n",
    f"{HWMON}/hwmon2/energy1_input": "5\n",
    f"{HWMON}/hwmon2/energy2_label": "Esocket0\n",
    f"{HWMON}/hwmon2/energy2_input": "9000000\n",
}

_CPU = "sys/devices/system/cpu"
XEON = RAPL | {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Gold 6338\n"
    "flags\t\t: fpu vme avx512f\n",
    "proc/meminfo": "MemTotal:       32874000 kB\nSwapTotal:       2097148 kB\n"
    "SwapFree:        2000000 kB\n",
    "proc/stat": "cpu  1000 10 500 90000 700 20 30 40 0 0\ncpu0 250 2 125 22500 175 5 7 10 0 0\n",
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/cgroup.controllers": "cpuset cpu memory\n",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/memory.max": "17179869184\n",
    "sys/fs/cgroup/cpuset.cpus.effective": "0-3\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 5\nnr_throttled 3\nthrottled_usec 2500000\n",
    f"{_CPU}/smt/active": "1\n",
    f"{_CPU}/intel_pstate/no_turbo": "0\n",
    "sys/firmware/acpi/platform_profile": "balanced\n",
    "sys/devices/system/node/node0/cpulist": "0-1\n",
    "sys/devices/system/node/node1/cpulist": "2-3\n",
    **{
        f"{_CPU}/cpu{i}/{name}": f"{value}\n"
        for i, mhz in enumerate((800, 3200, 2900, 3100))
        for name, value in {
            "cpufreq/scaling_cur_freq": 1000 * mhz,
            "cpufreq/scaling_governor": "powersave",
            "cpufreq/scaling_driver": "intel_pstate",
            "cpufreq/energy_performance_preference": "balance_performance",
            "thermal_throttle/core_throttle_count": i,
            "thermal_throttle/package_throttle_count": 1,
            "topology/physical_package_id": 0,
            "topology/core_id": i // 2,
        }.items()
    },
}
ORIN_SETTINGS = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "var/lib/nvpmodel/status": "pmode:0002\n",
    "etc/nvpmodel.conf": "< PARAM TYPE=FILE NAME=CPU_ONLINE >\n< POWER_MODEL ID=0 NAME=MAXN >\n"
    "CPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MODE_30W >\nCPU_ONLINE CORE_0 1\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "1300500000\n",
    "sys/class/hwmon/hwmon0/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon0/oc1_event_cnt": "2\n",
    "sys/class/hwmon/hwmon0/oc3_event_cnt": "5\n",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write the files under a folder."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
