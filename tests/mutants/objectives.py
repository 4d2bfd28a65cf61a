"""Mutants of the first objectives: KL, PPO, SFT, preferences, best of n, group credit, terms."""

from __future__ import annotations

from mutants import Mutant

PPO_TESTS = "tests/unit/objectives/test_ppo.py tests/reference/test_ppo_oracle.py"
PAIR_TESTS = "tests/unit/objectives/test_bradley_terry.py tests/reference/test_preference_oracle.py"
CREDIT_TESTS = "tests/unit/objectives/test_credit.py tests/reference/test_preference_oracle.py"
KL_TESTS = "tests/unit/objectives/test_kl.py"
BEST_TESTS = "tests/unit/objectives/test_best_of_n.py"
SFT_TESTS = "tests/unit/objectives/test_sft.py"
LEARNING = "tests/learning/test_ppo_tabular.py"

MUTANTS = [
    # KL estimators
    Mutant("kl.py", "return logps - ref_logps", "return ref_logps - logps", KL_TESTS, "k1: sign"),
    Mutant("kl.py", ".square() / 2", ".square()", KL_TESTS, "k2: factor"),
    Mutant("kl.py", "expm1(-d) + d", "expm1(d) - d", KL_TESTS, "k3: direction"),
    Mutant("kl.py", "expm1(-d) + d", "((-d).exp() - 1) + d", KL_TESTS, "k3: cancellation"),
    # policy loss
    Mutant("ppo.py", "unclipped_N = -adv", "unclipped_N = adv", PPO_TESTS, "policy: sign of one branch"),
    Mutant("ppo.py", "torch.maximum(unclipped", "torch.minimum(unclipped", PPO_TESTS, "policy: optimistic"),
    Mutant("ppo.py", "(logps_N - old_logps_N).exp()", "(old_logps_N - logps_N).exp()", PPO_TESTS, "ratio"),
    Mutant("ppo.py", "clamp(1 - clip_range, 1", "clamp(-clip_range, 1", PPO_TESTS, "policy: lower clip"),
    Mutant("ppo.py", "clipped_N).sum()\n", "clipped_N).mean()\n", PPO_TESTS, "policy: mean, not sum"),
    Mutant("ppo.py", "clipped_N > unclipped_N", "clipped_N < unclipped_N", PPO_TESTS, "policy: clipfrac"),
    Mutant(
        "ppo.py",
        "advantages_N = advantages_CT.masked_select(mask_CT)",
        "advantages_N = advantages_CT.nan_to_num().flatten()[: len(logps_N)]",
        PPO_TESTS,
        "policy: advantages of other tokens",
    ),
    Mutant(
        "ppo.py", "(ratio_N.sum(), tokens)", "(ratio_N.sum(), mask_CT.numel())", PPO_TESTS, "policy: pads"
    ),
    # value loss
    Mutant("ppo.py", "torch.maximum(error_N", "torch.minimum(error_N", PPO_TESTS, "value: optimistic"),
    Mutant("ppo.py", "clipped_error_N).sum() / 2", "clipped_error_N).sum()", PPO_TESTS, "value: half"),
    Mutant("ppo.py", "old_values_N - clip_range,", "old_values_N,", PPO_TESTS, "value: lower clip"),
    Mutant("ppo.py", "clipped_error_N > error_N", "clipped_error_N < error_N", PPO_TESTS, "value: clipfrac"),
    Mutant("ppo.py", "add(policy, value, vf_coef)", "add(policy, value)", PPO_TESTS, "ppo: vf_coef dropped"),
    Mutant("ppo.py", "add(policy, value, vf_coef)", "add(value, policy, vf_coef)", PPO_TESTS, "ppo: swapped"),
    # rewards
    Mutant("ppo.py", "-kl_coef * k1", "kl_coef * k1", PPO_TESTS, "rewards: a bonus for leaving"),
    Mutant("ppo.py", "mask_CT.shape[1] - 1 - mask_CT.flip(1)", "mask_CT", PPO_TESTS, "rewards: first token"),
    Mutant(
        "ppo.py", "mask_CT.shape[1] - 1 - mask", "mask_CT.shape[1] - 2 - mask", PPO_TESTS, "rewards: early"
    ),
    Mutant(
        "ppo.py",
        "torch.where(mask_CT, -kl_coef * k1(logps_CT, ref_logps_CT), 0.0)",
        "-kl_coef * k1(logps_CT, ref_logps_CT)",
        PPO_TESTS,
        "rewards: mask dropped",
    ),
    # advantages
    Mutant("ppo.py", "+ gamma * next_value_C", "- gamma * next_value_C", PPO_TESTS, "gae: sign of V next"),
    Mutant(
        "ppo.py", "next_value_C - values_CT[:, t]", "next_value_C + values_CT[:, t]", PPO_TESTS, "gae: sign"
    ),
    Mutant("ppo.py", "gamma * lam * next_adv", "lam * next_adv", PPO_TESTS, "gae: gamma dropped"),
    Mutant("ppo.py", "gamma * next_value_C", "next_value_C", PPO_TESTS, "gae: gamma dropped from delta"),
    Mutant(
        "ppo.py", "torch.where(real_C, values_CT[:, t], next_value_C)", "values_CT[:, t]", PPO_TESTS, "gae: V"
    ),
    Mutant(
        "ppo.py", "next_advantage_C, next_advantage_C)", "next_advantage_C, 0.0)", PPO_TESTS, "gae: holes"
    ),
    Mutant("ppo.py", "torch.where(real_C, next_advantage_C, 0.0)", "next_advantage_C", PPO_TESTS, "gae: pad"),
    Mutant("ppo.py", "advantages_CT + values_CT, 0.0", "advantages_CT - values_CT, 0.0", PPO_TESTS, "gae: R"),
    Mutant("ppo.py", "@torch.no_grad()\n", "", PPO_TESTS, "gae: gradient let through"),
    Mutant(
        "ppo.py", "x_N = x_CT.masked_select(mask_CT)", "x_N = x_CT.nan_to_num()", PPO_TESTS, "whiten: mask"
    ),
    Mutant("ppo.py", "x_N.var(correction=0)", "x_N.var()", PPO_TESTS, "whiten: N - 1"),
    Mutant(
        "ppo.py", "if shift_mean else", "if not shift_mean else", PPO_TESTS, "whiten: inverted shift_mean"
    ),
    Mutant("ppo.py", ".rsqrt()", ".sqrt()", PPO_TESTS, "whiten: multiplied by the deviation"),
    # the end-of-answer trick, the controller, explained variance
    Mutant("ppo.py", "full_like(scores_C, -penalty)", "full_like(scores_C, penalty)", PPO_TESTS, "end: sign"),
    Mutant("ppo.py", "else scores_C - penalty", "else scores_C + penalty", PPO_TESTS, "end: subtract"),
    Mutant(
        "ppo.py", "where(finished_C, scores_C, un", "where(~finished_C, scores_C, un", PPO_TESTS, "end: who"
    ),
    Mutant("ppo.py", "observed_kl / target - 1", "1 - observed_kl / target", PPO_TESTS, "controller: sign"),
    Mutant("ppo.py", "- 1, -clip), clip)", "- 1, -clip), 1e9)", PPO_TESTS, "controller: no upper clip"),
    Mutant(
        "ppo.py",
        "error * n_episodes / horizon",
        "error * horizon / n_episodes",
        PPO_TESTS,
        "controller: horizon",
    ),
    Mutant("ppo.py", "1 - error / variance", "error / variance", PPO_TESTS, "explained variance"),
    # what only learning shows, were the oracles wrong too
    Mutant("ppo.py", "-kl_coef * k1", "kl_coef * k1", LEARNING, "learning: a bonus for leaving"),
    Mutant(
        "ppo.py", "clipped_N).sum()\n", "clipped_N).sum().neg()\n", LEARNING, "learning: uphill is downhill"
    ),
    Mutant(
        "ppo.py", "observed_kl / target - 1", "1 - observed_kl / target", LEARNING, "learning: controller"
    ),
    Mutant(
        "credit.py", "(scores_C - mean_C) * size", "(mean_C - scores_C) * size", LEARNING, "learning: RLOO"
    ),
    # supervised fine-tuning
    Mutant("sft.py", "nll_C = -torch", "nll_C = torch", SFT_TESTS, "nll: sign"),
    Mutant(
        "sft.py", "torch.where(mask_CT, logps_CT, 0.0)", "logps_CT.nan_to_num()", SFT_TESTS, "nll: gradient"
    ),
    Mutant("sft.py", "(weight_C * nll_C).sum()", "nll_C.sum()", SFT_TESTS, "nll: weights dropped"),
    # Bradley-Terry
    Mutant("bradley_terry.py", "- towards", "+ towards", PAIR_TESTS, "margin: sign"),
    Mutant(
        "bradley_terry.py", "sign(label_P - 0.5) * margin_P", "sign(label_P) * margin_P", PAIR_TESTS, "margin"
    ),
    Mutant("bradley_terry.py", "-target_P * logs", "target_P * logs", PAIR_TESTS, "BT: sign"),
    Mutant(
        "bradley_terry.py", "logsigmoid(-difference_P)", "logsigmoid(difference_P)", PAIR_TESTS, "BT: loser"
    ),
    Mutant(
        "bradley_terry.py", "(1 - label_smoothing) * label_P", "label_P", PAIR_TESTS, "smoothing: half of it"
    ),
    Mutant(
        "bradley_terry.py",
        "target_P = smooth(label_P, label_smoothing)",
        "target_P = label_P",
        PAIR_TESTS,
        "smoothing: accepted and ignored",
    ),
    Mutant(
        "bradley_terry.py",
        "rewards_A_P + rewards_B_P).square()",
        "rewards_A_P - rewards_B_P).square()",
        PAIR_TESTS,
        "centring: of the difference",
    ),
    Mutant(
        "bradley_terry.py", "loss = (weight_P * (nll_P", "loss = ((nll_P", PAIR_TESTS, "BT: weights dropped"
    ),
    Mutant(
        "bradley_terry.py",
        "(1 + torch.sign(margin_P)) / 2",
        "(margin_P >= 0).to(nll_P)",
        PAIR_TESTS,
        "accuracy",
    ),
    Mutant(
        "bradley_terry.py", "weight_P * preferred_P.abs()", "weight_P", PAIR_TESTS, "accuracy: ties counted"
    ),
    # Rao-Kupper
    Mutant(
        "rao_kupper.py", "logsigmoid(difference_P - nu)", "logsigmoid(difference_P + nu)", PAIR_TESTS, "RK: A"
    ),
    Mutant("rao_kupper.py", "return log_A_P, 2 * nu +", "return log_A_P, nu +", PAIR_TESTS, "RK: tie"),
    Mutant("rao_kupper.py", "- (1 - target_P) * log_B_P", "- target_P * log_B_P", PAIR_TESTS, "RK: loser"),
    Mutant("rao_kupper.py", "where(tie_P, -log", "where(tie_P, log", PAIR_TESTS, "RK: sign of ties"),
    Mutant(
        "rao_kupper.py",
        "target_P = smooth(label_P, label_smoothing)",
        "target_P = label_P",
        PAIR_TESTS,
        "RK: smoothing",
    ),
    # best of n
    Mutant("best_of_n.py", "math.log(n) - (n", "math.log(n) + (n", BEST_TESTS, "KL bound: sign"),
    Mutant(
        "best_of_n.py",
        "(rank_N - n + 1) / rank_N",
        "(rank_N - n) / rank_N",
        BEST_TESTS,
        "weights: off by one",
    ),
    Mutant("best_of_n.py", ".cumprod(0).flip(0)", ".cumprod(0)", BEST_TESTS, "weights: worst of n"),
    Mutant("best_of_n.py", "shared_K[tied_N] *", "weight_N *", BEST_TESTS, "mean: ties by order"),
    Mutant("best_of_n.py", "gold_N[order_N]", "gold_N", BEST_TESTS, "mean: gold unsorted"),
    # group credit
    Mutant(
        "credit.py",
        "    return scores_C - mean_C\n",
        "    return scores_C + mean_C\n",
        CREDIT_TESTS,
        "mean: sign",
    ),
    Mutant("credit.py", "size_C / (size_C - 1)).sqrt()", "1.0).sqrt()", CREDIT_TESTS, "std: divides by k"),
    Mutant(
        "credit.py", "deviation_C / (std_C + eps)", "deviation_C * (std_C + eps)", CREDIT_TESTS, "std: times"
    ),
    Mutant(
        "credit.py", "(scores_C - mean_C) * size_C / (size_C - 1)", "scores_C - mean_C", CREDIT_TESTS, "RLOO"
    ),
    Mutant(
        "credit.py",
        "where(mask_CT, advantages_C[:, None], 0.0)",
        "add(advantages_C[:, None], 0.0 * mask_CT)",
        CREDIT_TESTS,
        "to_tokens: mask dropped",
    ),
    Mutant(
        "credit.py", "sum_G[index_C] / size_C", "x_C.mean().expand_as(x_C)", CREDIT_TESTS, "mean of everyone"
    ),
    # terms
    Mutant(
        "terms.py",
        "(first.loss + weight * second.loss",
        "(first.loss + second.loss",
        "tests/unit/objectives/test_terms.py",
        "add: weight",
    ),
    Mutant(
        "terms.py", "if shared:", "if False:", "tests/unit/objectives/test_terms.py", "add: hides a metric"
    ),
    Mutant(
        "terms.py", "> 1:", "> 9:", f"tests/unit/objectives/test_terms.py {PPO_TESTS}", "same_shape: asleep"
    ),
]
