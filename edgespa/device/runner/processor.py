"""What the processor says of itself."""

from __future__ import annotations

from pathlib import Path

HALF_ARM, HALF_X86, BRAIN_ARM = "asimdhp", "avx512_fp16", "bf16"
BRAIN_X86 = ("avx512_bf16", "amx_bf16")


def processor_flags() -> set[str]:
    """Names of what it has, as Linux calls them; none elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    lines = [line for line in text.splitlines() if line.partition(":")[0].strip() in ("flags", "Features")]
    return set(lines[0].partition(":")[2].split()) if lines else set()
