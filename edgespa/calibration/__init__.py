"""Calibration sets by name: which images, how many, how they are drawn and normalised, said once in a TOML file.

The same name serves ``edgespa prune --calibration`` and the int8 of ``edgespa export --calibration``.
"""

from edgespa.calibration.spec import CalibrationSpec, Named, check, digest_of, find_spec, make, shipped

__all__ = ["CalibrationSpec", "Named", "check", "digest_of", "find_spec", "make", "shipped"]
