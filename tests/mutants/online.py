"""Mutants of the on-policy methods beside PPO: GRPO, REINFORCE, online DPO, XPO, importance weights, ptx."""

from __future__ import annotations

from mutants import Mutant

ORACLE = "tests/reference/test_online_oracle.py"
GRPO_TESTS = f"tests/unit/objectives/test_grpo.py {ORACLE}"
REINFORCE_TESTS = f"tests/unit/objectives/test_reinforce.py {ORACLE}"
PAIR_TESTS = f"tests/unit/objectives/test_online_dpo.py {ORACLE}"
IMPORTANCE_TESTS = f"tests/unit/objectives/test_importance.py {ORACLE}"
STAGES = "tests/learning/test_online_stages.py"

MUTANTS = [
    # GRPO: advantages and filters
    Mutant("grpo.py", "scores_C.std() + eps", "scores_C.std(correction=0) + eps", GRPO_TESTS, "batch: ddof"),
    Mutant("grpo.py", 'if scale == "none" else', 'if scale != "none" else', GRPO_TESTS, "scale: swapped"),
    Mutant("grpo.py", "highest_G > lowest_G", "highest_G >= lowest_G", GRPO_TESTS, "filter keeps all"),
    Mutant("grpo.py", '"amin", include', '"amax", include', GRPO_TESTS, "filter drops all"),
    Mutant(
        "grpo.py", "(max_length - buffer)) / buffer", "max_length) / buffer", GRPO_TESTS, "overlong: late"
    ),
    Mutant("grpo.py", ".clamp(0, 1)", ".clamp(max=1)", GRPO_TESTS, "overlong: a bonus for being short"),
    # GRPO: weights
    Mutant(
        "grpo.py",
        'if loss_type == "grpo" else weights_C',
        "if True else weights_C",
        GRPO_TESTS,
        "dapo: 1/|y|",
    ),
    Mutant("grpo.py", "float(sum(lengths))", "float(len(lengths))", GRPO_TESTS, "dapo: count"),
    Mutant("grpo.py", 'max_length if loss_type == "dr_grpo" else 1', "1", GRPO_TESTS, "dr_grpo: count"),
    # GRPO: clipped loss
    Mutant("grpo.py", "torch.maximum(unclipped", "torch.minimum(unclipped", GRPO_TESTS, "optimistic"),
    Mutant(
        "grpo.py",
        "clamp(1 - clip_low, 1 + clip_high)",
        "clamp(1 - clip_high, 1 + clip_low)",
        GRPO_TESTS,
        "clips",
    ),
    Mutant("grpo.py", 'if level == "sequence":', 'if level == "token":', GRPO_TESTS, "levels swapped"),
    Mutant(
        "grpo.py",
        "mean_C = log_ratio_CT.sum(1) / mask_CT.sum(1).clamp(min=1)",
        "mean_C = log_ratio_CT.sum(1)",
        GRPO_TESTS,
        "GSPO: the product, not the geometric mean",
    ),
    Mutant("grpo.py", "-advantages_CT * ratio_CT\n", "advantages_CT * ratio_CT\n", GRPO_TESTS, "sign"),
    Mutant("grpo.py", "(clipped_CT > unclipped_CT)", "(clipped_CT < unclipped_CT)", GRPO_TESTS, "clipfrac"),
    Mutant("grpo.py", "(ratio_CT * mask_CT).sum()", "ratio_CT.sum()", GRPO_TESTS, "ratio over the padding"),
    Mutant("grpo.py", "tokens_CT.square().sum() / 2", "tokens_CT.square().sum()", GRPO_TESTS, "approxkl"),
    # GRPO: KL in the loss
    Mutant("grpo.py", 'if estimator == "k2" else', 'if estimator != "k2" else', GRPO_TESTS, "estimators"),
    Mutant(
        "grpo.py", 'if estimator == "k3_corrected"', 'if estimator == "k3"', GRPO_TESTS, "which is corrected"
    ),
    Mutant(
        "grpo.py",
        "(logps_CT - _real(old_logps_CT, mask_CT)).exp() * kl_CT",
        "(logps_CT - _real(old_logps_CT, mask_CT)).detach().exp() * kl_CT",
        "tests/learning/test_online_tabular.py",
        "the ratio's gradient is lost",
    ),
    Mutant("grpo.py", "add(policy, leash, kl_coef)", "add(policy, leash)", GRPO_TESTS, "β dropped"),
    Mutant(
        "grpo.py",
        "old_logps_CT, mask_CT, estimator=kl_estimator, weights_C=weights_C",
        "old_logps_CT, mask_CT, estimator=kl_estimator",
        GRPO_TESTS,
        "KL without weights",
    ),
    # REINFORCE
    Mutant(
        "reinforce.py",
        "scores_C - kl_coef * torch",
        "scores_C + kl_coef * torch",
        REINFORCE_TESTS,
        "KL: sign",
    ),
    Mutant(
        "reinforce.py",
        "torch.where(mask_CT, k1(logps_CT, ref_logps_CT), 0.0).sum(1)",
        "k1(logps_CT, ref_logps_CT).sum(1)",
        REINFORCE_TESTS,
        "KL of the padding",
    ),
    Mutant("reinforce.py", "return leave_one_out(", "return group_mean(", REINFORCE_TESTS, "RLOO: baseline"),
    Mutant(
        "reinforce.py", "log_ratio_CT.sum(1).exp()", "log_ratio_CT.mean(1).exp()", REINFORCE_TESTS, "ratio"
    ),
    Mutant(
        "reinforce.py", "torch.maximum(unclipped", "torch.minimum(unclipped", REINFORCE_TESTS, "optimistic"
    ),
    Mutant(
        "reinforce.py", "(clipped_C > unclipped_C)", "(clipped_C < unclipped_C)", REINFORCE_TESTS, "clipfrac"
    ),
    Mutant("reinforce.py", "if group_C is not None", "if group_C is None", REINFORCE_TESTS, "baseline"),
    Mutant("reinforce.py", "gamma=gamma, lam=1.0", "gamma=gamma, lam=0.95", REINFORCE_TESTS, "λ"),
    Mutant("reinforce.py", "gamma=gamma, lam", "gamma=1.0, lam", REINFORCE_TESTS, "γ dropped"),
    Mutant(
        "reinforce.py",
        "return whiten(returns_CT, mask_CT)",
        "return returns_CT",
        REINFORCE_TESTS,
        "whitening",
    ),
    # online DPO and XPO
    Mutant("online_dpo.py", "scores_C[members].argmin()", "scores_C[members].argmax()", PAIR_TESTS, "worst"),
    Mutant(
        "online_dpo.py",
        "if scores_C[members[best]] > scores_C[members[worst]]:",
        "if True:",
        PAIR_TESTS,
        "ties are pairs",
    ),
    Mutant(
        "online_dpo.py",
        "torch.where(gap_P > 0, first_P",
        "torch.where(gap_P < 0, first_P",
        PAIR_TESTS,
        "better",
    ),
    Mutant(
        "online_dpo.py", "decided_P = gap_P != 0", "decided_P = gap_P == gap_P", PAIR_TESTS, "ties are kept"
    ),
    Mutant(
        "online_dpo.py",
        "chosen_P, rejected_P = pairs",
        "rejected_P, chosen_P = pairs",
        PAIR_TESTS,
        "upside down",
    ),
    Mutant("online_dpo.py", "torch.where(mask_CT, logps_CT, 0.0)", "logps_CT", PAIR_TESTS, "padding"),
    Mutant(
        "xpo.py",
        "logps_CT, mask_CT, explore_P), alpha)",
        "logps_CT, mask_CT, explore_P), -alpha)",
        PAIR_TESTS,
        "pessimism",
    ),
    Mutant("xpo.py", "logps_C[explore_P].sum()", "logps_C.sum()", PAIR_TESTS, "every answer is explored"),
    # importance weights, ptx
    Mutant(
        "importance.py",
        "logps_CT - sampler_logps_CT, 0.0",
        "sampler_logps_CT - logps_CT, 0.0",
        IMPORTANCE_TESTS,
        "upside down",
    ),
    Mutant("importance.py", ".exp().clamp(max=cap)", ".exp()", IMPORTANCE_TESTS, "no cap"),
    Mutant(
        "importance.py", 'if level == "sequence"', 'if level == "token"', IMPORTANCE_TESTS, "levels swapped"
    ),
    Mutant(
        "importance.py",
        "k3(sampler_logps_CT[mask_CT], logps_CT[mask_CT])",
        "k3(logps_CT[mask_CT], sampler_logps_CT[mask_CT])",
        IMPORTANCE_TESTS,
        "direction",
    ),
    Mutant("ptx.py", "coef * count / tokens", "coef * tokens / count", ORACLE, "ptx: scale"),
    # the stages
    Mutant(
        "stages/rollouts.py",
        "if drift != 0.0:",
        "if drift > 1e9:",
        f"{STAGES} -k step_0",
        "a policy that moved",
    ),
    Mutant(
        "stages/rollouts.py",
        "sampled_CT[row, : len(answer.logps)] = torch",
        "sampled_CT[row, : len(answer.logps)] = 0 * torch",
        f"{STAGES} -k micro",
        "old log-probs of zero",
    ),
    Mutant(
        "stages/methods.py",
        "rewards_C - c.overlong_penalty",
        "rewards_C + c.overlong_penalty",
        f"{STAGES} -k overlong",
        "overlong: a bonus",
    ),
    Mutant(
        "stages/methods.py",
        "keep_C & r.finished_C",
        "keep_C & ~r.finished_C",
        f"{STAGES} -k cut_off",
        "only unfinished answers train",
    ),
    Mutant(
        "stages/methods.py",
        "advantages_CT * weights_CT",
        "advantages_CT",
        "tests/learning/test_online_stages.py -k weighed",
        "importance weights are made but not used",
    ),
    Mutant(
        "stages/methods.py",
        "return len(lengths) / 2",
        "return len(lengths) * 2",
        "tests/unit/stages/test_credit_of_methods.py -k divided",
        "pairs",
    ),
    Mutant(
        "stages/online.py",
        "seed=mix_seed(c.seed, number, 1)",
        "seed=mix_seed(c.seed, number)",
        f"{STAGES} -k xpo_compares",
        "policy and reference draw the same answers",
    ),
    Mutant(
        "stages/best_of_n.py",
        "int(scores_K.argmax())",
        "int(scores_K.argmin())",
        f"{STAGES} -k keeps_the_best",
        "worst of n",
    ),
]
