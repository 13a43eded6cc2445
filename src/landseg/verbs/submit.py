"""The verb `submit`: class maps → a competition zip that passes every rule, or a zip held against them. It only composes."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from landseg.core.errors import LandsegError
from landseg.core.files import human_bytes, refuse_existing
from landseg.product.submission import Violation, build, expected, lint, refusal

log = logging.getLogger("landseg")


@dataclass(frozen=True)
class Submitted:
    """A zip that was held against the rules; without violations, it passed."""

    zip: Path
    files: int
    sha256: str
    is_new: bool
    classes: int | None
    violations: list[Violation] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The document of ``--json``."""
        violations = [{"file": item.file, "rule": item.rule, "found": item.found} for item in self.violations]
        return {"zip": str(self.zip), "files": self.files, "violations": violations, "sha256": self.sha256}

    def as_text(self) -> str:
        """Lines for a person."""
        if self.violations:
            return "\n".join([f"{self.zip}: {len(self.violations)} violations", *map(str, self.violations)])
        values = (
            f"values 0..{self.classes - 1}" if self.classes else "values other than 255 (give --classes to check them against the classes)"
        )
        lines = [
            f"{self.zip}: {'written and ' if self.is_new else ''}passes: {self.files:,} class maps, one a test image, {values}",
            f"{human_bytes(self.zip.stat().st_size)}, sha256 {self.sha256}",
        ]
        return "\n".join(lines)


def submit(
    predictions: str | Path | None = None,
    images: str | Path | None = None,
    *,
    out: str | Path | None = None,
    check: str | Path | None = None,
    classes: int | None = None,
    overwrite: bool = False,
) -> Submitted:
    """Build and lint a competition zip, or lint one that is there.

    Args:
        predictions: The folder that `predict` wrote; None with `check`.
        images: The test images: dataset folder, folder or zip.
        out: The zip to write.
        check: The zip to lint, in place of `predictions` and `out`.
        classes: Number of classes K; what the predictions say of themselves when None. When nothing says it, only the value 255 is refused.
        overwrite: Replace an existing `out`.

    Raises:
        LandsegError: A rule is broken (`is_gate`; its `result` holds every violation), or the arguments do not fit together.
    """
    if images is None:
        raise LandsegError(
            "--images", "not given", "the test images, for their names and sizes", "name their folder, zip or data set with --images"
        )
    if classes is not None and not 1 <= classes <= 255:
        raise LandsegError("--classes", f"{classes}", "1 to 255 classes", "give their number")
    if check is not None:
        if predictions is not None or out is not None:
            raise LandsegError(
                "--check",
                f"given with {'PREDICTIONS' if predictions is not None else '--out'}",
                "one zip to check, or predictions and --out",
                "leave one out",
            )
        return _check(Path(check), Path(images), classes)
    if predictions is None or out is None:
        raise LandsegError(
            "PREDICTIONS" if predictions is None else "--out", "not given", "predictions and --out, or --check ZIP", "name both"
        )
    place, target = Path(predictions), Path(out)
    if target.is_dir():
        raise LandsegError(target, "it is a folder", "the path of a zip", f"for example --out {target / 'result.zip'}")
    if target.suffix.lower() != ".zip":
        raise LandsegError(
            target, f"it ends in {target.suffix or 'nothing'}", "the path of a zip", f"for example --out {target.with_suffix('.zip')}"
        )
    refuse_existing(target, overwrite=overwrite)
    count = classes if classes is not None else _recorded_classes(place)
    sizes = expected(Path(images))
    build(place, sizes, count, target)
    return Submitted(target, len(sizes), _sha256(target), True, count)


def _check(path: Path, images: Path, classes: int | None) -> Submitted:
    if not path.is_file():
        raise LandsegError(path, "no such file", "the zip to check", "check the path")
    sizes = expected(images)
    violations = lint(path, sizes, classes)
    for item in violations:
        log.debug("%s", item)
    if violations:
        advice = "mend these files, or build the zip with `landseg submit PREDICTIONS --images TEST --out ZIP`"
        raise refusal(path, violations, advice, Submitted(path, len(sizes), _sha256(path), False, classes, violations))
    return Submitted(path, len(sizes), _sha256(path), False, classes)


def _recorded_classes(predictions: Path) -> int | None:
    """How many classes `predictions.json` names; None where there is no such file, as when another tool made the class maps."""
    path = predictions / "predictions.json"
    if (predictions / ".predicting").exists() and not path.exists():
        raise LandsegError(
            predictions, "its prediction was interrupted", "a finished one", "run the same `landseg predict` again, which completes it"
        )
    if not path.exists():
        return None
    try:
        return len(json.loads(path.read_text(encoding="utf-8"))["classes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LandsegError(
            path, f"it cannot be read ({str(error)[:80]})", "the predictions.json that predict wrote", "give --classes, or predict again"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
