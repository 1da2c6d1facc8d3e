"""Which sites the scan of a run selects, and the file that keeps them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pandas as pd

from backtracking.core.completions import Completions
from backtracking.core.errors import DamagedFileError, InputError
from backtracking.core.interventions import Condition
from backtracking.core.sites import Site
from backtracking.core.statistics import Estimate
from backtracking.experiments.ablation_arms import targeted_condition
from backtracking.experiments.config_sections import AnalysisSection
from backtracking.experiments.study import Study
from backtracking.measures.decision_points import CLEARANCE
from backtracking.measures.scan_selection import LeftOut, Selection
from backtracking.measures.scan_tables import AblationScan
from backtracking.measures.text_harm import TextHarm, text_harm
from backtracking.model.tokens import tokens_that_begin
from backtracking.workspace.guarded import write_text

SELECTED, ADOPTED = "selected_sites.json", "adopted_sites.json"
"""What the run's own scan selected, and what phase 2 took over from another run."""
TEXT_HARM = "text_harm"
"""Table of what the candidates do to ordinary text."""


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
    left_out: tuple[LeftOut, ...] = ()
    """Sites that write the trigger too, and were left out for the harm they do to ordinary text."""

    def lines(self) -> tuple[str, ...]:
        """What was selected, what was left out, and the note, a line each."""
        found = [f"selected: {', '.join(map(str, self.sites))}"]
        if self.left_out:
            found.append(f"left out for harm to ordinary text: {', '.join(map(str, self.left_out))}")
        return (*found, self.note) if self.note else tuple(found)


def control_clearance(analysis: AnalysisSection) -> int:
    """Tokens that a control keeps from every trigger: the window of the scan, too, holds none."""
    return max(CLEARANCE, analysis.scan_window)


def save_selection(study: Study, selection: SelectedSites) -> None:
    """Write the selection where later steps, and a phase 2 elsewhere, find it."""
    left_out = [asdict(each) | {"site": str(each.site)} for each in selection.left_out]
    text = {"sites": [str(site) for site in selection.sites], "note": selection.note, "left_out": left_out,
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
        held = {"left_out": []} | json.loads(file.read_text(encoding="utf-8"))  # earlier versions did not say
        return SelectedSites(
            sites=tuple(map(Site.parse, held["sites"])),
            significant=held["significant"],
            tested=held["tested"],
            note=held["note"],
            left_out=tuple(LeftOut(**each | {"site": Site.parse(each["site"])}) for each in held["left_out"]),
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        again = "run: backtracking ablation-scan" if name == SELECTED else "remove it, and give --phase1-run-id again"
        raise DamagedFileError(file, str(error), again) from error


def select(study: Study, scan: AblationScan, completions: Completions) -> SelectedSites:
    """The strongest significant sites of each component; heads stand for their layer where they were scanned.

    Those that would be selected are switched off throughout the run's own baseline completions first, as in the arms:
    what that does to ordinary text is written to `tables/text_harm.csv`, last that of all selected sites together.
    With `analysis.max_text_kl` null nothing of this is done.
    """
    limit = study.config.analysis.max_text_kl
    if limit is None:
        return _selected(study, scan, None)
    candidates = _found(study, scan, len(scan.sites), None).sites
    harm = _harm(study, completions, [targeted_condition(study, (site,), str(site)) for site in candidates])
    selection = _selected(study, scan, harm)
    together = targeted_condition(study, selection.sites)
    joint = _harm(study, completions, [together])
    study.folder.save_table(TEXT_HARM, pd.concat([harm.to_pandas(), joint.to_pandas()], ignore_index=True))
    notes = [each for each in (selection.note, _harm_note(joint.of(together.name), limit)) if each]
    return replace(selection, note="; ".join(notes))


def _harm(study: Study, completions: Completions, arms: Sequence[Condition]) -> TextHarm:
    lexicon = study.config.lexicon()
    return text_harm(
        study.model,
        list(completions),
        arms,
        trigger_ids=tokens_that_begin(study.model.tokenizer, lexicon.strict),
        lexicon=lexicon,
        clearance=control_clearance(study.config.analysis),
        seed=study.config.run.seed,
        progress=study.progress,
    )


def _found(study: Study, scan: AblationScan, most: int, harm: TextHarm | None) -> Selection:
    analysis = study.config.analysis
    return scan.select(
        most,
        level=analysis.significance,
        quantity="trigger_log_prob",
        against_controls=bool(scan.points.controls),
        max_control_kl=analysis.max_control_kl if scan.points.controls else None,
        min_change=analysis.min_change,
        harm=harm,
        max_text_kl=None if harm is None else analysis.max_text_kl,
    )


def _selected(study: Study, scan: AblationScan, harm: TextHarm | None) -> SelectedSites:
    found = _found(study, scan, study.config.analysis.topk_layers_for_generation, harm)
    significant, tested = sum(g.significant for g in found.groups), sum(g.tested for g in found.groups)
    with_heads = {site.layer for site in found.sites if site.head is not None}
    sites = tuple(s for s in found.sites if s.head is not None or s.component != "attn" or s.layer not in with_heads)
    if sites:
        return SelectedSites(sites, significant, tested, "", found.left_out)
    mild = [str(each.site) for each in found.left_out if each.where == "throughout"]
    table = scan.to_pandas()
    rows = table.loc[(table["quantity"] == "trigger_log_prob") & (table["site"].isin(mild) | (not mild))]
    strongest = str(min(rows.to_dict("records"), key=lambda row: row["change"])["site"])
    which = "the most negative of those that are so at the controls" if mild else "the most negative one"
    note = (
        f"no site is significant, large enough and harmless to ordinary text; {strongest}, {which}, is ablated all the "
        "same, as an exploration"
    )
    return SelectedSites((Site.parse(strongest),), 0, tested, note, found.left_out)


def _harm_note(together: Estimate, limit: float) -> str:
    """What a reader must know of the harm that the selected sites do together, if anything."""
    if not together.n:
        return (
            "no token of the baseline completions that were read is far enough from every trigger to be ordinary text, "
            "so that harm throughout was not measured"
        )
    if not together.high > limit:
        return ""
    return (
        f"switched off throughout, the selected sites disturb ordinary text by {together.value:.2g} "
        f"[{together.low:.2g}, {together.high:.2g}] nats per token, where analysis.max_text_kl allows {limit:g}: what "
        "their ablation changes need not be about backtracking"
    )
