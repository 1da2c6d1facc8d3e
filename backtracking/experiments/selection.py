"""Which sites the scan of a run selects, and the file that keeps them."""

import json
from dataclasses import dataclass

from backtracking.core.errors import DamagedFileError, InputError
from backtracking.core.sites import Site
from backtracking.experiments.study import Study
from backtracking.measures.ablation_scan import AblationScan
from backtracking.workspace.guarded import write_text

SELECTED, ADOPTED = "selected_sites.json", "adopted_sites.json"
"""What the run's own scan selected, and what phase 2 took over from another run."""


@dataclass(frozen=True)
class SelectedSites:
    """The sites that the scan found to write the trigger, kind by kind and within a kind the strongest first.

    The kinds are the components in the order of `analysis.ablation_components`, then heads. An attention layer of which
    a head is selected is left out.
    """

    sites: tuple[Site, ...]
    significant: int
    """Sites whose ablation lowers the log-probability of any trigger, significantly more at onsets than at controls."""
    tested: int
    """Sites that were scanned."""
    note: str
    """What a reader must know, such as that no site is significant; else empty."""


def save_selection(study: Study, selection: SelectedSites) -> None:
    """Write the selection where later steps, and a phase 2 elsewhere, find it."""
    text = {"sites": [str(site) for site in selection.sites], "note": selection.note,
            "significant": selection.significant, "tested": selection.tested}  # fmt: skip
    write_text(study.folder.path / "tables" / SELECTED, json.dumps(text, indent=2) + "\n")


def saved_selection(study: Study, name: str = SELECTED) -> SelectedSites:
    """The selection that the scan of this run has written.

    Raises:
        InputError: There is none yet, or its file is damaged.
    """
    file = study.folder.path / "tables" / name
    if not file.is_file():
        raise InputError(f"{study.folder.run_id} has no selected sites; run: backtracking ablation-scan")
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        return SelectedSites(tuple(map(Site.parse, held["sites"])), held["significant"], held["tested"], held["note"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        again = "run: backtracking ablation-scan" if name == SELECTED else "remove it, and give --phase1-run-id again"
        raise DamagedFileError(file, str(error), again) from error


def select(study: Study, scan: AblationScan) -> SelectedSites:
    """The strongest significant sites of each component; heads stand for their layer where they were scanned."""
    analysis = study.config.analysis
    found = scan.select(
        analysis.topk_layers_for_generation,
        level=analysis.significance,
        quantity="trigger_log_prob",
        against_controls=bool(scan.points.controls),
        max_control_kl=analysis.max_control_kl if scan.points.controls else None,
        min_change=analysis.min_change,
    )
    significant, tested = sum(g.significant for g in found.groups), sum(g.tested for g in found.groups)
    with_heads = {site.layer for site in found.sites if site.head is not None}
    sites = tuple(s for s in found.sites if s.head is not None or s.component != "attn" or s.layer not in with_heads)
    if sites:
        return SelectedSites(sites, significant, tested, "")
    table = scan.to_pandas()
    rows = table.loc[table["quantity"] == "trigger_log_prob"].to_dict("records")
    strongest = str(min(rows, key=lambda row: row["change"])["site"])
    note = (
        f"no site is significant, large enough and harmless to ordinary text; {strongest}, the most negative one, is "
        "ablated all the same, as an exploration"
    )
    return SelectedSites((Site.parse(strongest),), 0, tested, note)
