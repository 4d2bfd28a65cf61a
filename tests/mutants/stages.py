"""Mutants of what wires the newer objectives: switches, places in a batch, cost, resampling, presets."""

from __future__ import annotations

from mutants import Mutant

LOSSES = "tests/unit/stages/test_reward_losses.py"
APART = f"{LOSSES} -k apart"
SWITCH = f"{LOSSES} -k switch"
COSTS = f"{LOSSES} -k cost"
HARM = "tests/unit/data/test_safety.py"
CREDIT = "tests/unit/stages/test_credit_of_methods.py"
SCORERS = f"{LOSSES} -k no_reward"
PRESETS = "tests/unit/test_presets.py"
RESAMPLE = "tests/learning/test_online_stages.py -k replaced"
OFFLINE = "tests/learning/test_offline_stage.py"
REWARD = "stages/reward_losses.py"
METHODS = "stages/methods.py"
ONLINE = "stages/online.py"

MUTANTS = [
    # the reward model's losses: every switch, and the places of answers in a batch
    Mutant(REWARD, "margin_P=c.margin_coef * margin_P", "margin_P=margin_P", SWITCH, "margin_coef ignored"),
    Mutant(REWARD, "label_smoothing=c.label_smoothing", "label_smoothing=0.0", SWITCH, "smoothing ignored"),
    Mutant(
        REWARD,
        "center_coef=c.center_rewards_coefficient,\n    )\n\n\ndef ordinal",
        "center_coef=0.0,\n    )\n\n\ndef ordinal",
        SWITCH,
        "centring ignored (Bradley-Terry)",
    ),
    Mutant(
        REWARD,
        "center_coef=c.center_rewards_coefficient,\n    )\n\n\ndef plackett",
        "center_coef=0.0,\n    )\n\n\ndef plackett",
        SWITCH,
        "centring ignored (ordinal)",
    ),
    Mutant(
        REWARD,
        "center_coef=c.center_rewards_coefficient,\n    )\n\n\ndef regression",
        "center_coef=0.0,\n    )\n\n\ndef regression",
        APART,
        "centring ignored (Plackett-Luce)",
    ),
    Mutant(REWARD, 'c.ties == "rao-kupper" else', 'c.ties != "rao-kupper" else', SWITCH, "ties swapped"),
    Mutant(REWARD, "threshold=c.tie_threshold", "threshold=0.5", SWITCH, "tie_threshold ignored"),
    Mutant(REWARD, "(offset + answer, rank, number,", "(answer, rank, number,", APART, "rankings: places"),
    Mutant(REWARD, "(offset + answer, rank, number,", "(offset + answer, rank, 0,", APART, "rankings: one"),
    Mutant(REWARD, "number, r.weight)", "number, 1.0)", APART, "rankings: weights dropped"),
    Mutant(
        REWARD, "answer_N = torch.tensor([offset +", "answer_N = torch.tensor([0 *", APART, "ratings: places"
    ),
    Mutant(
        REWARD, "answer_S = torch.tensor([offset +", "answer_S = torch.tensor([0 *", APART, "steps: places"
    ),
    Mutant(REWARD, "[s.each for _, s in said])", "[1.0 for _, s in said])", APART, "steps: weights dropped"),
    Mutant(REWARD, "if rank_a <= rank_b", "if rank_a >= rank_b", f"{LOSSES} -k ranked", "card upside down"),
    Mutant(REWARD, "ids[: n + 1]).startswith", "ids[: n + 2]).startswith", f"{LOSSES} -k step_ends", "early"),
    Mutant("stages/compared.py", "a.append(offset + c.a)", "a.append(c.a)", SWITCH, "pairs: places"),
    # cost models
    Mutant("stages/harms.py", "offset + h.worse, offset", "h.worse, offset", APART, "harm: places"),
    Mutant("stages/harms.py", "*h.unsafe, h.weight)", "*h.unsafe[::-1], h.weight)", APART, "harm: swapped"),
    Mutant(
        "stages/harms.py", "(h.worse, h.better, h.label", "(h.better, h.worse, h.label", COSTS, "harm: card"
    ),
    Mutant(
        "stages/harms.py", "(harmful + 1) / (harmless + 1)", "(harmless + 1) / (harmful + 1)", COSTS, "start"
    ),
    Mutant(
        "stages/harms.py",
        "torch.cat([label_P, unsafe_A_P.double(), unsafe_B_P.double()])",
        "torch.cat([label_P, unsafe_B_P.double(), unsafe_A_P.double()])",
        COSTS,
        "probe: labels swapped",
    ),
    Mutant(REWARD, "harm_pairs, False)", "harm_pairs, True)", COSTS, "costs are moved to mean 0"),
    Mutant(
        "stages/scorers.py", "part.weight > 0", "part.weight > 9", SCORERS, "a cost is taken for a reward"
    ),
    Mutant(
        "stages/scorers.py", "if costs and part.weight > 0", "if costs", SCORERS, "negative weights refused"
    ),
    Mutant(
        "data/safety.py",
        "answers[1 - safer], answers[safer]",
        "answers[safer], answers[1 - safer]",
        HARM,
        "A",
    ),
    Mutant(
        "data/safety.py", "not safe[1 - safer], not safe[safer]", "not safe[0], not safe[1]", HARM, "by slot"
    ),
    Mutant(
        "data/safety.py",
        '"rejected_unsafe"), _boolean(values, "chosen_unsafe")',
        '"chosen_unsafe"), _boolean(values, "rejected_unsafe")',
        HARM,
        "unsafe: chosen first",
    ),
    Mutant("data/safety.py", "if unsafe == (False, True) and", "if False and", HARM, "contradictions read"),
    Mutant("data/safety.py", "and not tie:", ":", HARM, "ties contradict"),
    Mutant(
        "data/formats.py",
        "answers[better], answers[1 - better]",
        "answers[1 - better], answers[better]",
        HARM,
        "P",
    ),
    # PPO within a limit on cost
    Mutant(
        METHODS,
        "r.ref_logps_CT, r.mask_CT, 0.0)",
        "r.ref_logps_CT, r.mask_CT, kl_coef)",
        CREDIT,
        "KL in both",
    ),
    Mutant(METHODS, "cost_advantages_CT, r.multiplier)", "cost_advantages_CT, 1.0)", CREDIT, "a fixed price"),
    Mutant(
        METHODS, "cost_returns_CT=cost_returns_CT)", "cost_returns_CT=returns_CT)", CREDIT, "critic's target"
    ),
    Mutant(ONLINE, "limit=config.cost_limit", "limit=0.0", CREDIT, "cost_limit ignored"),
    Mutant(ONLINE, "learning_rate=config.cost_multiplier_rate", "learning_rate=0.1", CREDIT, "rate ignored"),
    Mutant(ONLINE, "            maximum=config.cost_multiplier_max,\n", "", CREDIT, "maximum ignored"),
    Mutant(ONLINE, '*self.extra.get("costs", []), *costs]', "*costs]", CREDIT, "window of one iteration"),
    Mutant(ONLINE, "max(config.cost_window, len(costs))", "config.cost_window", CREDIT, "iterations are cut"),
    Mutant(ONLINE, "mean - config.cost_limit,", "mean,", CREDIT, "excess over nothing"),
    # credit, and what is watched while it runs
    Mutant(
        METHODS,
        "grpo_rewards(c, r, kl_coef), r.group_C)].unique",
        "r.rewards_C, r.group_C)].unique",
        CREDIT,
        "raw",
    ),
    Mutant(METHODS, "scale=c.scale_rewards", 'scale="group"', CREDIT, "scale_rewards ignored"),
    Mutant(METHODS, "<= slack * (1 + size)", "<= 1e9 * (1 + size)", CREDIT, "means are not looked at"),
    Mutant(METHODS, "    centred(whitened_CT[r.mask_CT])\n", "", CREDIT, "PPO's mean is not looked at"),
    Mutant(
        METHODS, "    centred(advantages_CT[r.mask_CT])\n", "", CREDIT, "REINFORCE++'s mean is not looked at"
    ),
    Mutant(
        METHODS,
        "masked_fill(mask_CT, 0)",
        "masked_fill(mask_CT, 0) * 0",
        CREDIT,
        "gradients are not looked at",
    ),
    # DAPO's resampling
    Mutant(
        ONLINE,
        "self.roll_out(number, rounds, missing)",
        "self.roll_out(number, 0, missing)",
        RESAMPLE,
        "same",
    ),
    Mutant(ONLINE, "number * turns + again", "number * turns", RESAMPLE, "the same prompts again"),
    Mutant(
        ONLINE,
        "parts = [(first, useful_groups(config, first, kl_coef))]",
        "parts = [(first, [0])]",
        RESAMPLE,
        "0",
    ),
    Mutant(
        "stages/rollouts.py",
        'tensors["group_C"] = torch.tensor',
        'tensors["unused"] = torch.tensor',
        RESAMPLE,
        "groups",
    ),
    # presets
    Mutant(
        "config/presets.py",
        "{name: value, **found[section]}",
        "{**found[section], name: value}",
        PRESETS,
        "beats",
    ),
    Mutant(
        "config/presets.py",
        "found.setdefault(dotted, value)",
        "found[dotted] = value",
        PRESETS,
        "beats flags",
    ),
    Mutant(
        "config/presets.py",
        "if method is None else with_preset",
        "if True else with_preset",
        PRESETS,
        "unused",
    ),
    # data of another kind
    Mutant(
        "stages/pairs.py",
        "r.grades[a] < r.grades[b]]",
        "r.grades[a] > r.grades[b]]",
        f"{OFFLINE} -k weighs",
        "worst",
    ),
    Mutant(
        "stages/pairs.py",
        "weight=r.weight / len(decided)",
        "weight=r.weight",
        f"{OFFLINE} -k weighs",
        "weights",
    ),
    Mutant(
        "data/formats.py",
        'if known.issuperset(needed)), "")',
        'if False), "")',
        f"{OFFLINE} -k its_name",
        "hints",
    ),
]
