"""Units of work that failed each time they were tried: told in the log, in the manifest and at the end."""

from collections.abc import Sequence
from typing import Any

from backtracking.core.errors import FailedUnitsError
from backtracking.experiments.executors import Failed
from backtracking.experiments.runs import RunFolder


def report_failed(folder: RunFolder, group: str, failed: Sequence[Failed]) -> None:
    """Write which units of a group failed, or that none did any more, and stop where some did.

    Raises:
        FailedUnitsError: Some failed; the others of the group are done.
    """
    held: dict[str, Any] = dict(folder.manifest().get("failed_units") or {})
    if not failed and group not in held:
        return
    held.pop(group, None)
    if failed:
        held[group] = [{"number": f.unit.number, "attempts": f.attempts, "reason": f.reason} for f in failed]
    folder.write_manifest(failed_units=held)
    for each in failed:
        what = {"group": group, "number": each.unit.number, "attempts": each.attempts, "rows": len(each.unit.rows)}
        folder.log("unit failed", level="error", **what, reason=each.reason)
    if failed:
        names = ", ".join(each.unit.name for each in failed)
        raise FailedUnitsError(
            f"{len(failed)} units of work of {group!r} failed {failed[0].attempts} times each: {names} "
            f"({failed[0].reason}); the rest of {group!r} is kept, and the same command tries these again"
        )
