"""What NVIDIA's driver says of itself and its cards, asked of the driver's own library: no package is needed."""

import ctypes
import sys
from dataclasses import dataclass

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
MANAGEMENT_LIBRARY = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"


@dataclass(frozen=True)
class Card:
    """One graphics card."""

    name: str
    compute_capability: tuple[int, int]


@dataclass(frozen=True)
class Driver:
    """The installed driver and the cards it serves."""

    cuda_version: tuple[int, int]
    """Newest CUDA that the driver can run, e.g. (12, 4)."""
    cards: tuple[Card, ...]


def driver() -> Driver | None:
    """The driver, or None where there is none or it does not work."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    version, count = ctypes.c_int(), ctypes.c_int()
    if library.cuInit(0) or library.cuDriverGetVersion(ctypes.byref(version)):
        return None
    if library.cuDeviceGetCount(ctypes.byref(count)):
        return None
    cards = tuple(_card(library, index) for index in range(count.value))
    return Driver((version.value // 1000, version.value % 1000 // 10), cards)


def driver_version() -> str | None:
    """The driver's own version, e.g. "550.54.15"; None where NVIDIA's management library does not say."""
    try:
        library = ctypes.CDLL(MANAGEMENT_LIBRARY)
    except OSError:
        return None
    text = ctypes.create_string_buffer(80)  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE
    if library.nvmlInit_v2():
        return None
    try:
        failed = library.nvmlSystemGetDriverVersion(text, len(text))
    finally:
        library.nvmlShutdown()
    return None if failed else text.value.decode(errors="replace")


def _card(library: ctypes.CDLL, index: int) -> Card:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    library.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    return Card(name.value.decode(errors="replace"), (major.value, minor.value))


def diagnosis(needed_cuda: tuple[int, int] = (12, 0)) -> str:
    """One sentence on why CUDA may not work here."""
    found = driver()
    if found is None:
        return "There is no working NVIDIA driver: install one from nvidia.com/drivers, then"
    if not found.cards:
        return "NVIDIA's driver sees no card"
    if found.cuda_version < needed_cuda:
        return (
            f"The driver is too old, CUDA {_dotted(found.cuda_version)} where {_dotted(needed_cuda)} is needed: "
            "update it from nvidia.com/drivers, then"
        )
    return (
        f"The driver is there (CUDA {_dotted(found.cuda_version)}, {found.cards[0].name}), so the libraries of CUDA or "
        "cuDNN are missing or of another version"
    )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
