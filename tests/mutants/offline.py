"""Mutants of the offline methods: the losses, what they share, and the stage around them."""

from __future__ import annotations

from mutants import Mutant

ORACLE = "tests/reference/test_offline_oracle.py"
SHARED = f"tests/unit/objectives/test_pairs.py {ORACLE}"
DPO = f"tests/unit/objectives/test_dpo.py {ORACLE}"
IPO = f"tests/unit/objectives/test_ipo.py {ORACLE}"
ORPO = f"tests/unit/objectives/test_orpo.py {ORACLE}"
SIMPO = f"tests/unit/objectives/test_simpo.py {ORACLE}"
CPO = f"tests/unit/objectives/test_cpo.py {ORACLE}"
KTO = f"tests/unit/objectives/test_kto.py {ORACLE}"
TABLE = "tests/learning/test_offline_tabular.py"
STAGE = "tests/learning/test_offline_stage.py"

MUTANTS = [
    # what all share
    Mutant("pairs.py", "self.chosen_P - self.ref_chosen_P", "self.chosen_P", SHARED, "ratio: no reference"),
    Mutant(
        "pairs.py",
        "self.rejected_P - self.ref_rejected_P",
        "self.rejected_P - self.ref_chosen_P",
        SHARED,
        "ratio: the other's reference",
    ),
    Mutant(
        "pairs.py",
        "self.rejected_P / self.rejected_tokens_P",
        "self.rejected_P / self.chosen_tokens_P",
        SHARED,
        "mean: the other's length",
    ),
    Mutant(
        "pairs.py", "logsigmoid(-difference_P)", "logsigmoid(difference_P)", SHARED, "smoothing: no loser"
    ),
    Mutant(
        "pairs.py",
        "-(1 - label_smoothing) * right_P - label_smoothing",
        "-right_P - label_smoothing",
        SHARED,
        "smoothing: half of it",
    ),
    Mutant("pairs.py", "< 0.5:", "< 5:", SHARED, "smoothing: any share taken"),
    Mutant("pairs.py", "if not value > 0", "if value < 0", SHARED, "settings: zero taken"),
    Mutant(
        "pairs.py",
        "loss = (weight_P * loss_P).sum()",
        "loss = loss_P.sum()",
        SHARED,
        "pairs: weights dropped",
    ),
    Mutant(
        "pairs.py",
        "loss = (weight_P * loss_P).sum()",
        "loss = (weight_P * loss_P).mean()",
        SHARED,
        "pairs: mean",
    ),
    Mutant(
        "pairs.py", "(1 + torch.sign(margin_P)) / 2", "(margin_P > 0).to(margin_P)", SHARED, "accuracy: ties"
    ),
    Mutant("pairs.py", "loss = -(weight_P * mean_P)", "loss = (weight_P * mean_P)", SHARED, "sft: sign"),
    Mutant(
        "pairs.py", "mean_P, _ = pairs.mean_logps", "mean_P = pairs.chosen_P", SHARED, "sft: sum of tokens"
    ),
    # DPO and its two forms
    Mutant("dpo.py", "beta * (chosen_P - rejected_P)", "beta * (rejected_P - chosen_P)", DPO, "dpo: sign"),
    Mutant("dpo.py", "beta * (chosen_P - rejected_P)", "(chosen_P - rejected_P)", DPO, "dpo: no beta"),
    Mutant(
        "dpo.py",
        "difference_P - margin_coef * pairs.margin_P",
        "difference_P + margin_coef * pairs.margin_P",
        DPO,
        "margin: sign",
    ),
    Mutant("dpo.py", "- margin_coef * pairs.margin_P", "- pairs.margin_P", DPO, "margin: always on"),
    Mutant(
        "dpo.py",
        "smoothed_nll(difference_P, label_smoothing)",
        "smoothed_nll(difference_P, 0.0)",
        DPO,
        "cdpo: smoothing ignored",
    ),
    Mutant(
        "dpo.py", "right_P + label_smoothing * wrong_P", "right_P - label_smoothing * wrong_P", DPO, "robust"
    ),
    Mutant("dpo.py", "(1 - 2 * label_smoothing)", "(1 - label_smoothing)", DPO, "robust: scale"),
    Mutant(
        "dpo.py",
        "    check_smoothing(label_smoothing)\n",
        "",
        "tests/unit/objectives/test_pairs.py",
        "robust: any share taken",
    ),
    Mutant("dpo.py", "loss_P, beta * chosen_P", "loss_P, chosen_P", DPO, "rewards: no beta"),
    # IPO
    Mutant("ipo.py", "- 1 / (2 * beta)", "- 1 / beta", IPO, "ipo: half"),
    Mutant("ipo.py", "- 1 / (2 * beta)", "+ 1 / (2 * beta)", IPO, "ipo: sign"),
    Mutant("ipo.py", ".square()", ".abs()", IPO, "ipo: not squared"),
    Mutant("ipo.py", 'if form == "mean"', 'if form == "sum"', IPO, "ipo: forms swapped"),
    Mutant(
        "ipo.py",
        "rejected_P / pairs.rejected_tokens_P",
        "rejected_P / pairs.chosen_tokens_P",
        IPO,
        "ipo: length",
    ),
    # KTO
    Mutant("kto.py", "2 * liked_C - 1,", "1 - 2 * liked_C,", KTO, "kto: good is bad"),
    Mutant("kto.py", "desirable_weight * liked_C +", "undesirable_weight * liked_C +", KTO, "kto: weights"),
    Mutant("kto.py", "beta * (ratio_C - baseline)", "beta * ratio_C", KTO, "kto: no baseline"),
    Mutant("kto.py", "beta * (ratio_C - baseline)", "(beta * ratio_C - baseline)", KTO, "kto: beta of z₀"),
    Mutant("kto.py", "(1 - torch.sigmoid(", "(-torch.sigmoid(", KTO, "kto: unbounded below zero"),
    Mutant("kto.py", ".mean().clamp(min=0)", ".mean()", KTO, "baseline: below zero"),
    Mutant("kto.py", ".mean().clamp(min=0)", ".clamp(min=0).mean()", KTO, "baseline: clamped one by one"),
    Mutant("kto.py", "@torch.no_grad()\ndef kl_baseline", "def kl_baseline", KTO, "baseline: gradient"),
    # ORPO
    Mutant("orpo.py", "log_odds(chosen_P) - log", "log_odds(chosen_P) + log", ORPO, "orpo: sign"),
    Mutant(
        "orpo.py", "-beta * logsigmoid(ratio_P)", "-logsigmoid(beta * ratio_P)", ORPO, "orpo: lambda inside"
    ),
    Mutant("orpo.py", "return logp_P - torch.log", "return logp_P + torch.log", ORPO, "orpo: odds"),
    Mutant("orpo.py", "- torch.finfo(logp_P.dtype).eps", "", ORPO, "orpo: infinite at certainty"),
    Mutant("orpo.py", "pairs.mean_logps", "(pairs.chosen_P, pairs.rejected_P)", ORPO, "orpo: sums"),
    # SimPO
    Mutant("simpo.py", "rejected_P - gamma", "rejected_P + gamma", SIMPO, "simpo: sign of gamma"),
    Mutant("simpo.py", "rejected_P - gamma", "rejected_P - beta * gamma", SIMPO, "simpo: gamma inside"),
    Mutant("simpo.py", "in pairs.mean_logps", "in (pairs.chosen_P, pairs.rejected_P)", SIMPO, "simpo: sums"),
    Mutant("simpo.py", "gamma, label_smoothing)", "gamma, 0.0)", SIMPO, "simpo: smoothing ignored"),
    Mutant("simpo.py", "if gamma < 0", "if False", SIMPO, "simpo: negative gamma"),
    # CPO
    Mutant("cpo.py", "beta * (pairs.chosen_P - pairs", "beta * (pairs.chosen_P + pairs", CPO, "cpo: sign"),
    Mutant("cpo.py", "beta * (pairs.chosen_P - pairs", "(pairs.chosen_P - pairs", CPO, "cpo: no beta"),
    Mutant("cpo.py", "difference_P, label_smoothing)", "difference_P, 0.0)", CPO, "cpo: smoothing ignored"),
    Mutant("cpo.py", "loss_P, beta * pairs.chosen_P", "loss_P, pairs.chosen_P", CPO, "cpo: rewards"),
    # what only learning shows, were the oracles wrong too
    Mutant(
        "dpo.py", "beta * (chosen_P - rejected_P)", "2 * beta * (chosen_P - rejected_P)", TABLE, "table: dpo"
    ),
    Mutant("ipo.py", "- 1 / (2 * beta)", "- 1 / beta", TABLE, "table: ipo"),
    Mutant(
        "pairs.py", "- label_smoothing * wrong_P", "- 2 * label_smoothing * wrong_P", TABLE, "table: cdpo"
    ),
    Mutant("kto.py", "2 * liked_C - 1,", "1 - 2 * liked_C,", TABLE, "table: kto"),
    # the stage
    Mutant(
        "stages/offline.py", "[offset + p.rejected for", "[p.rejected for", STAGE, "stage: others' answers"
    ),
    Mutant(
        "stages/offline.py",
        "add(loss, chosen_nll(compared), config.sft_coef)",
        "loss",
        STAGE,
        "stage: no SFT term",
    ),
    Mutant(
        "stages/offline.py",
        "logps.append(answer_logps(self.bench, POLICY, batch)[0])",
        "logps.append(answer_logps(self.bench, None, batch)[0])",
        STAGE,
        "stage: KL of the reference",
    ),
    Mutant("stages/reference.py", '.get("key") == key', '.get("key") != ""', STAGE, "cache: another model's"),
    Mutant(
        "stages/pairs.py", "for b in bad[a.prompt.id]", "for b in bad[a.prompt.id][:1]", STAGE, "crossing"
    ),
]
