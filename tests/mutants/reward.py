"""Mutants of the reward side: graded comparisons, rankings, ratings, steps, Safe RLHF, and the scorers."""

from __future__ import annotations

from mutants import Mutant

ORACLE = "tests/reference/test_reward_oracle.py"
ORDINAL = f"tests/unit/objectives/test_ordinal.py {ORACLE}"
RANKING = f"tests/unit/objectives/test_plackett_luce.py {ORACLE}"
RATING = f"tests/unit/objectives/test_regression.py {ORACLE}"
PROCESS = f"tests/unit/objectives/test_process.py {ORACLE}"
SAFE = f"tests/unit/objectives/test_safe.py {ORACLE}"
SAFE_LEARNING = "tests/learning/test_safe_tabular.py"
RULES = "tests/unit/rewards/test_rules.py"
FUNCTIONS = "tests/unit/rewards/test_functions.py"
COMBINE = "tests/unit/rewards/test_combine.py"

MUTANTS = [
    # ordinal
    Mutant("ordinal.py", "edges_E - scores_C[:, None]", "scores_C[:, None] - edges_E", ORDINAL, "direction"),
    Mutant("ordinal.py", "-torch.expm1(-gaps_E)", "torch.expm1(gaps_E)", ORDINAL, "inner: e^gap - 1"),
    Mutant("ordinal.py", "[-thresholds_M.flip(0), t", "[-thresholds_M, t", ORDINAL, "edges not mirrored"),
    Mutant("ordinal.py", "rewards_A_P - rewards_B_P, edges_E", "rewards_A_P, edges_E", ORDINAL, "B ignored"),
    Mutant("ordinal.py", "nll_P = -logps_PG", "nll_P = logps_PG", ORDINAL, "sign"),
    Mutant("ordinal.py", "gaps_E > 0", "gaps_E >= 0", ORDINAL, "equal edges let through"),
    Mutant("ordinal.py", "thresholds_M > 0", "thresholds_M >= 0", ORDINAL, "a zero threshold let through"),
    Mutant("ordinal.py", "softplus(raw_M).cumsum(0)", "softplus(raw_M.cumsum(0))", ORDINAL, "not ordered"),
    Mutant("ordinal.py", "steps_M + torch.log(", "torch.log(", ORDINAL, "inverse of softplus"),
    Mutant("ordinal.py", "(value_C == value_C.round())", "(value_C == value_C)", ORDINAL, "half grades"),
    Mutant("ordinal.py", "weight_P, center_coef)", "None, center_coef)", ORDINAL, "weights dropped"),
    Mutant("ordinal.py", "loss = -(weight_C * logps", "loss = -(logps", ORDINAL, "rating weights dropped"),
    # Plackett-Luce
    Mutant(
        "plackett_luce.py",
        "left_CC = together_CC & (rank_C[:, None] <= rank_C)",
        "left_CC = together_CC & (rank_C[:, None] >= rank_C)",
        RANKING,
        "worst first",
    ),
    Mutant(
        "plackett_luce.py", "left_CC = together_CC & ", "left_CC = ", RANKING, "all groups in one ranking"
    ),
    Mutant(
        "plackett_luce.py", "1 - earlier_C.to(like) / size_C", "1 - 0 * size_C", RANKING, "Efron = Breslow"
    ),
    Mutant("plackett_luce.py", "tril(diagonal=-1)", "tril()", RANKING, "Efron: one draw ahead"),
    Mutant("plackett_luce.py", "total_C.square() / size_C", "total_C.square()", RANKING, "centring k times"),
    Mutant("plackett_luce.py", "logsumexp(dim=1) - scores_C", "logsumexp(dim=1) + scores_C", RANKING, "sign"),
    Mutant("plackett_luce.py", "(weight_C / size_C).sum()", "weight_C.sum()", RANKING, "count per answer"),
    # regression
    Mutant("regression.py", "torch.where(weight_CA > 0, rating_CA, 0.0)", "rating_CA", RATING, "NaN ratings"),
    Mutant(
        "regression.py", "rating_CA.isnan(), 0.0, w", "rating_CA.isnan(), 1.0, w", RATING, "missing count"
    ),
    Mutant("regression.py", "loss = (weight_CA * error_CA)", "loss = (error_CA)", RATING, "weights dropped"),
    # process
    Mutant("process.py", "(1 - label_N) * logsigmoid(-l", "(1 - label_N) * logsigmoid(l", PROCESS, "sign"),
    Mutant("process.py", "- wrong_CT.long() == 0", "== 0", PROCESS, "the first error itself dropped"),
    Mutant("process.py", "logits_CT, torch.inf)", "logits_CT, 0.0)", PROCESS, "elsewhere counts"),
    Mutant("process.py", "certain_CT.amin(dim=1)", "certain_CT.amax(dim=1)", PROCESS, "min is max"),
    Mutant("process.py", "step_CT.shape[1] - 1 - step", "0 * step_CT.shape[1] + step", PROCESS, "last step"),
    # Safe RLHF
    Mutant(
        "safe.py", "(unsafe_A_P, costs_A_P, -costs_A_P)", "(unsafe_A_P, -costs_A_P, costs_A_P)", SAFE, "s"
    ),
    Mutant("safe.py", "compared.loss + border", "compared.loss", SAFE, "no border"),
    Mutant("safe.py", "- multiplier * cost_adv", "+ multiplier * cost_adv", SAFE, "cost pays"),
    Mutant(
        "safe.py", "- multiplier * cost_adv", "+ multiplier * cost_adv", SAFE_LEARNING, "cost pays, learned"
    ),
    Mutant("safe.py", " / (1 + multiplier)", "", SAFE, "not divided"),
    Mutant(
        "safe.py", "(mean_cost - limit)", "(limit - mean_cost)", SAFE_LEARNING, "multiplier: sign, learned"
    ),
    Mutant(
        "safe.py", "learning_rate * multiplier * (", "learning_rate * (", SAFE, "multiplier: the factor λ"
    ),
    Mutant("safe.py", "math.log(maximum), 700.0", "700.0", SAFE, "multiplier: no maximum"),
    Mutant("safe.py", "max(exponent, -700.0)", "exponent", SAFE, "multiplier: underflows to 0"),
    # scorers
    Mutant("rewards/rules.py", "return -min(outside", "return min(outside", RULES, "length: sign"),
    Mutant("rewards/rules.py", "(pattern, re.DOTALL)", "(pattern)", RULES, "matches: line breaks"),
    Mutant("rewards/rules.py", "compiled.fullmatch if whole", "compiled.match if whole", RULES, "whole"),
    Mutant("rewards/rules.py", "/ len(grams) - 1", "/ len(grams)", RULES, "repetition: offset"),
    Mutant("rewards/functions.py", "return math.nan\n", "return 0.0\n", FUNCTIONS, "None becomes 0"),
    Mutant("rewards/functions.py", "not math.isfinite(number)", "False", FUNCTIONS, "NaN let through"),
    Mutant("rewards/functions.py", "len(rewards) != count", "len(rewards) > count", FUNCTIONS, "too few"),
    Mutant("rewards/functions.py", "} - fixed.keys())", "})", FUNCTIONS, "tags replace columns"),
    Mutant("rewards/combine.py", "c.weight * parts[c.name]", "parts[c.name]", COMBINE, "weights dropped"),
    Mutant("rewards/combine.py", ".nansum(dim=0)", ".sum(dim=0)", COMBINE, "NaN in the sum"),
    Mutant("rewards/combine.py", "mean_C - coef * p", "mean_C + coef * p", COMBINE, "doubt is rewarded"),
    Mutant("rewards/combine.py", "var(dim=0, correction=0)", "var(dim=0)", COMBINE, "variance by k - 1"),
    Mutant("rewards/combine.py", "scores_MC.amin(", "scores_MC.amax(", COMBINE, "best case"),
]
