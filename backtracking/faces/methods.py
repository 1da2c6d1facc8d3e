"""How a run's numbers are defined, in plain sentences with the run's own parameters."""

from backtracking.core.cluster_intervals import RESAMPLES
from backtracking.experiments.config import Config
from backtracking.experiments.selection import control_clearance
from backtracking.faces.report_content import MANY
from backtracking.measures.text_harm import TEXTS


def common_methods(config: Config) -> tuple[str, ...]:
    """Sampling, rates, grading, intervals and pairing: what every run has."""
    settings, section, triggers = config.settings(), config.generation, ", ".join(config.lexicon().strict)
    return (
        f"Sampling: {section.num_samples_per_prompt} completions per problem and condition, temperature "
        f"{settings.temperature:g}, top-p {settings.top_p:g}, at most {settings.max_new_tokens} tokens, prompt variant "
        f"{config.variant()}. The noise of a token depends on seed {settings.seed}, problem, sample and position "
        "alone, so conditions share it and a row is the same in any batch.",
        f"Backtracking: a completion counts if it writes one of the strict triggers ({triggers}) as a turn of its own "
        "reasoning, not as part of another phrase, a quotation or the question. Positions are those of the sampled "
        "token ids.",
        "Grading: the last answer that a completion states is compared with the gold answer of its own problem as a "
        "number. A completion is right, wrong, unparsed or truncated; accuracy is the share of right ones among all.",
        f"Intervals: 95 %, from {RESAMPLES} bootstrap resamples of whole problems, widened for few problems and rare "
        "outcomes; where all outcomes agree, Clopper and Pearson's with one observation per problem. Samples of one "
        "problem are never treated as independent.",
        "Differences: condition minus baseline over pairs of the same problem, sample and noise. P-values flip the "
        "sign of whole problems and are two-sided; Holm's method adjusts them over the conditions of a sweep.",
        f"Accuracy is non-inferior where the whole interval of its difference lies above "
        f"−{100 * config.analysis.accuracy_margin:g} points. It is flagged, and not compared, where the unparsed or "
        "truncated share differs between the arms.",
    )


def phase_methods(config: Config) -> tuple[str, ...]:
    """What both phases add: decision points, lens, scan, selection, random ablations."""
    analysis, ablation = config.analysis, config.ablation_generation
    kl = "" if analysis.max_control_kl is None else (
        f", disturbs ordinary text by at most {analysis.max_control_kl:g} nats (KL divergence at the controls)"
    )  # fmt: skip
    harm = "" if analysis.max_text_kl is None else (
        "Nor is a site selected that harms ordinary text where it is off throughout, as in the arms: up to "
        f"{TEXTS} baseline completions, spread over problems, are read again with the site multiplied by "
        f"{ablation.scale:g} at every sampled token, and the upper end of the interval of the mean KL divergence from "
        f"the baseline must not exceed {analysis.max_text_kl:g} nats per token. It is taken at the tokens more than "
        f"{control_clearance(analysis)} from every trigger, over the distributions of all tokens that begin none; no "
        "outcome of an arm has a part in it. "
    )  # fmt: skip
    heads = " and every attention head" if analysis.scan_heads else ""
    drawn = (
        f"{ablation.random_draws} sets of sites drawn at random with the kinds and numbers of the selected ones are "
        "switched off in the same way; the share of them that move backtracking at least as far, up or down, the "
        "selected set counted among them, is its two-sided rank p-value; how many of them go so far in its direction "
        "is said beside it, and so is how many sets break the text: those under which accuracy falls by more than that "
        f"margin, and those under which more than {100 * MANY:g} % of completions are cut off before an answer or "
        "have no readable one, or more than that end in a loop. They stay in the null distribution. The sets share no "
        "site with the selected one where the model has enough such sets, and count in no adjustment for several tests."
    )
    return (
        *common_methods(config),
        f"Decision points: up to {analysis.max_events} first onsets of the baseline, read at the position that "
        "predicts the trigger; controls are positions of baseline completions more than "
        f"{control_clearance(analysis)} tokens from every trigger, matched by "
        f"{' and '.join(analysis.control_match)}, in other completions than their event's where one fits, and read "
        "for their event's token.",
        "Logit lens: the residual stream after each layer through the final norm and the unembedding, once; the last "
        "layer must equal the model's own logits.",
        f"Ablation scan: each site ({' and '.join(analysis.ablation_components)} of every scanned layer{heads}) is "
        f"multiplied by zero at the {analysis.scan_window} positions that end in the decision; the change of the "
        "log-probability of all tokens that begin a trigger is tested by problem, with Benjamini and Hochberg's method "
        "over all cells.",
        f"Selection: at most {analysis.topk_layers_for_generation} of each kind, the strongest first, of the sites "
        f"whose ablation lowers that log-probability by at least {analysis.min_change:g} nats, significantly more than "
        f"at the controls (q ≤ {analysis.significance:g}){kl}. {harm}The selected sites are then tested on the same "
        "problems; a phase 2 on other problems (phase2.phase1_run_id) tests the selection on new ones.",
        "Word or behaviour: a correction without the word is seen where a completion has no trigger of any kind and "
        "works an expression of plain numbers out twice with different values; corrections in words or by another "
        "route are not seen. Its share is compared with the baseline's in the same pairs as the triggers. The "
        "correction is said to stay where its rise, whose interval lies above zero, makes up for half or more of the "
        "triggers lost, and to stay in part where it makes up for less.",
        f"Ablation while sampling: the selected sites are multiplied by {ablation.scale:g} at every position of a "
        f"sampled token. {drawn if ablation.enabled else ''} The ban removes every token that begins a trigger from "
        "the choice and touches nothing inside; a trigger spelt letter by letter passes it, and is warned of.",
    )  # fmt: skip
