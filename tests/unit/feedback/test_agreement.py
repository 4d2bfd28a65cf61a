import json
import math

import evalica
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from statsmodels.stats.inter_rater import cohens_kappa

from accord.errors import DataError
from accord.evaluation.intervals import share
from accord.feedback.agreement import Rating, agreement, ceiling, read_ratings_csv, single_label_ceiling
from accord.records import Judgement
from data_paths import shared_data

LEVELS = ("nominal", "ordinal", "interval", "ratio")

# Krippendorff's own example: four coders, twelve units, * missing.
KRIPPENDORFF = {
    "A": "1 2 3 3 2 1 4 1 2 * * *",
    "B": "1 2 3 3 2 2 4 1 2 5 * 3",
    "C": "* 3 3 3 2 3 4 2 2 5 1 *",
    "D": "1 2 3 3 2 4 4 1 2 5 1 *",
}
PUBLISHED = {"nominal": 0.743, "ordinal": 0.815, "interval": 0.849, "ratio": 0.797}


def ratings_of(table):
    """Long form of a table: one row of values per rater, None for missing."""
    return [
        Rating(f"u{u}", f"r{r}", v)
        for r, row in enumerate(table)
        for u, v in enumerate(row)
        if v is not None
    ]  # fmt: skip


def krippendorff_table():
    return [[None if v == "*" else float(v) for v in row.split()] for row in KRIPPENDORFF.values()]


tables = st.integers(2, 4).flatmap(
    lambda raters: st.lists(
        st.lists(st.none() | st.integers(0, 5).map(float), min_size=raters, max_size=raters),
        min_size=1,
        max_size=12,
    ).map(lambda units: [list(row) for row in zip(*units, strict=True)])
)


def alpha_of(ratings, level):
    return agreement(ratings, level=level, n_boot=0).alpha


# ------------------------------------------------------------------------------ alpha against others


@pytest.mark.parametrize("level", LEVELS)
def test_krippendorffs_own_table(level):
    found = agreement(ratings_of(krippendorff_table()), level=level)
    assert found.alpha == pytest.approx(PUBLISHED[level], abs=5e-4)
    assert found.alpha_low < found.alpha < found.alpha_high <= 1
    assert (found.n_units, found.n_raters, found.n_values, found.n_pairable) == (12, 4, 41, 40)
    # By hand, unit by unit: for each value, the share of the others that equal it.
    assert found.raw == pytest.approx((3 + 4 * 5 + 3 + 2 + 2 + 4 * 0 + 1 + 1) / 40, abs=1e-12)


@pytest.mark.parametrize("level", LEVELS)
@given(table=tables)
@settings(max_examples=60, deadline=None)
def test_alpha_equals_evalica(level, table):
    ours = agreement(ratings_of(table), level=level, n_boot=0)
    pairable = [u for u in zip(*table, strict=True) if sum(v is not None for v in u) > 1]
    if len({v for u in pairable for v in u if v is not None}) < 2:
        assert ours.alpha is None and ours.alpha_undefined_because
        return
    frame = pd.DataFrame(np.array([[np.nan if v is None else v for v in row] for row in table]))
    assert ours.alpha == pytest.approx(evalica.alpha(frame, distance=level).alpha, abs=1e-9)
    assert ours.alpha_undefined_because == ""


def test_nominal_alpha_is_cohens_kappa_but_for_the_small_sample_and_the_shared_marginals():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 4000)
    a, b = (np.where(rng.random(4000) < 0.7, truth, rng.integers(0, 3, 4000)) for _ in range(2))
    kappa = cohens_kappa(np.histogram2d(a, b, bins=3)[0]).kappa
    assert alpha_of(ratings_of([a.tolist(), b.tolist()]), "nominal") == pytest.approx(kappa, abs=1e-3)


def test_pandalms_published_kappas_and_what_our_numbers_say_of_the_same_labels():
    rows = json.loads((shared_data("pandalm_test") / "testset-v1.json").read_text())
    votes = {k: [row[f"annotator{k}"] for row in rows] for k in (1, 2, 3)}
    for (i, j), published in {(1, 2): 0.85, (1, 3): 0.88, (2, 3): 0.86}.items():
        table = np.zeros((3, 3))
        np.add.at(table, (votes[i], votes[j]), 1)
        kappa = cohens_kappa(table).kappa
        assert kappa == pytest.approx(published, abs=0.006)
        pair = agreement(ratings_of([votes[i], votes[j]]), level="nominal", n_boot=0)
        assert pair.raw == pytest.approx(np.trace(table) / len(rows), abs=1e-12)
        assert pair.alpha == pytest.approx(kappa, abs=2e-3)
    everyone = agreement(ratings_of(list(votes.values())), level="nominal")
    frame = pd.DataFrame(np.array(list(votes.values()), dtype=float))
    assert everyone.alpha == pytest.approx(evalica.alpha(frame).alpha, abs=1e-9)
    assert everyone.raw == pytest.approx(
        np.mean([[a == b, a == c, b == c] for a, b, c in zip(*votes.values(), strict=True)])
    )
    assert everyone.raw_low < everyone.raw < everyone.raw_high
    assert everyone.n_values == everyone.n_pairable == 3 * len(rows)


# ------------------------------------------------------------------------------------- invariances


@pytest.mark.parametrize("level", LEVELS)
@given(table=tables, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_names_and_order_mean_nothing(level, table, seed):
    ratings = ratings_of(table)
    order = np.random.default_rng(seed).permutation(len(ratings))
    renamed = [Rating(ratings[i].unit[::-1] + "x", "z" + ratings[i].rater, ratings[i].value) for i in order]
    one, other = agreement(ratings, level=level, n_boot=0), agreement(renamed, level=level, n_boot=0)
    assert (one.alpha is None) == (other.alpha is None)
    assert (one.raw, one.alpha) == (
        pytest.approx(other.raw, abs=1e-12),
        pytest.approx(other.alpha, abs=1e-12),
    )


@given(table=tables, scale=st.floats(0.1, 1e6), shift=st.floats(-1e6, 1e6), flip=st.booleans())
@settings(max_examples=60, deadline=None)
def test_each_level_feels_only_what_it_should(table, scale, shift, flip):
    ratings = ratings_of(table)

    def mapped(f):
        return [Rating(r.unit, r.rater, f(r.value)) for r in ratings]

    def same(level, f):
        one, other = alpha_of(ratings, level), alpha_of(mapped(f), level)
        assert (one is None) == (other is None)
        assert one is None or one == pytest.approx(other, abs=1e-7)

    same("nominal", lambda v: f"label {(v * 5 + 3) % 7}")
    same("ordinal", lambda v: math.exp(v) + 2)
    same("interval", lambda v: (-scale if flip else scale) * v + shift)
    same("ratio", lambda v: scale * v)


def test_levels_differ_where_they_should():
    near, far = [[1.0, 1, 2, 4, 4], [1.0, 2, 2, 4, 4]], [[1.0, 1, 2, 4, 4], [1.0, 4, 2, 4, 4]]
    assert alpha_of(ratings_of(near), "interval") > alpha_of(ratings_of(far), "interval") + 0.3


# ------------------------------------------------------------------------- what cannot be told, said


def test_unanimous_data_has_no_alpha_but_an_honest_raw_interval():
    found = agreement([Rating(f"u{u}", r, "good") for u in range(8) for r in "ab"])
    assert found.alpha is found.alpha_low is found.alpha_high is None
    assert "'good'" in found.alpha_undefined_because and "nothing varies" in found.alpha_undefined_because
    assert found.raw == found.raw_high == 1.0
    assert 0.5 < found.raw_low < 0.75  # Wilson for 8 of 8 gives 0.676, not 1


def test_no_unit_with_two_values():
    found = agreement([Rating("u1", "a", "x"), Rating("u2", "b", "y")])
    assert found.alpha is found.raw is found.raw_low is None
    assert found.alpha_undefined_because.startswith("no unit has values of two raters")
    assert (found.n_units, found.n_values, found.n_pairable) == (2, 2, 0)
    assert agreement([]).alpha is None


def test_perfect_agreement_claims_no_certain_alpha():
    found = agreement([Rating(f"u{u}", r, str(u % 2)) for u in range(6) for r in "ab"])
    assert found.alpha == pytest.approx(1.0)
    assert found.alpha_low is None and found.raw_low < 0.7


def test_one_unit_has_no_interval():
    found = agreement([Rating("u", "a", "x"), Rating("u", "b", "y"), Rating("u", "c", "y")])
    assert found.raw == pytest.approx(1 / 3) and found.raw_low is found.alpha_low is None
    # By hand: o = 2 unequal ordered pairs of each colour; D_o = 4/2/3, D_e = (9-5)/(3·2).
    assert found.alpha == pytest.approx(1 - (4 / 2 / 3) / (4 / 6))


def test_json_holds_plain_values():
    found = agreement(ratings_of(krippendorff_table()), level="ordinal").to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["level"] == "ordinal"


def test_the_seed_fixes_the_interval():
    ratings = ratings_of(krippendorff_table())
    assert agreement(ratings, seed=1) == agreement(ratings, seed=1)
    assert agreement(ratings, seed=1).alpha_low != agreement(ratings, seed=2, n_boot=50).alpha_low


@pytest.mark.parametrize(
    ("ratings", "level", "message"),
    [
        ([Rating("u", "a", 1.0), Rating("u", "a", 2.0)], "interval", "'a' has two values for unit 'u'"),
        ([Rating("u", "a", "x")], "ordinal", "'x' is not a number"),
        ([Rating("u", "a", math.nan)], "interval", "not a finite number"),
        ([Rating("u", "a", -1.0)], "ratio", "negative"),
        ([], "cardinal", "must be one of nominal, ordinal, interval, ratio"),
    ],
)
def test_unusable_ratings(ratings, level, message):
    with pytest.raises(DataError, match=message):
        agreement(ratings, level=level)


def test_the_interval_is_the_one_that_evaluation_gives_to_shares():
    """Two modules that may not import each other resample; their bounds must not drift apart."""
    labels = np.random.default_rng(0).choice(list("xyz"), (9, 8), p=[0.6, 0.3, 0.1])
    found = agreement([Rating(f"u{u}", f"r{r}", labels[u, r]) for u in range(9) for r in range(8)], seed=4)
    agreed = [[(np.sum(row == v) - 1) / 7 for v in row] for row in labels]
    theirs = share(np.ravel(agreed), np.repeat(np.arange(9), 8).tolist(), seed=4)
    assert found.raw == pytest.approx(theirs.value)
    assert (found.raw_low, found.raw_high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_alpha_has_no_interval_when_resamples_are_often_unanimous():
    ratings = [Rating(f"u{u}", r, "x") for u in range(10) for r in "ab"]
    found = agreement([*ratings, Rating("odd", "a", "x"), Rating("odd", "b", "y")])
    assert found.alpha is not None and found.raw_low is not None
    assert found.alpha_low is found.alpha_high is None  # a third of the resamples leave the odd unit out


def test_intervals_over_units_cover_the_truth():
    rng = np.random.default_rng(0)
    covered, n_sims = {"raw": 0, "alpha": 0}, 250
    # Two labels, both equally common; a rater errs on unit u with a chance of its own.
    q = rng.choice([0.0, 0.1, 0.4], 1_000_000)
    true_raw = np.mean(q**2 + (1 - q) ** 2)
    for seed in range(n_sims):
        chance = rng.choice([0.0, 0.1, 0.4], 60)
        truth = rng.random(60) < 0.5
        table = [(truth ^ (rng.random(60) < chance)).tolist() for _ in range(3)]
        found = agreement(ratings_of(table), n_boot=200, seed=seed)
        covered["raw"] += found.raw_low <= true_raw <= found.raw_high
        covered["alpha"] += found.alpha_low <= 2 * true_raw - 1 <= found.alpha_high
    assert all(0.90 <= hits / n_sims <= 0.985 for hits in covered.values()), covered


# ------------------------------------------------------------------------------------- the ceiling


def test_ceiling_of_equally_hard_pairs():
    for p, raw in [(0.755, 0.63), (0.836, 0.726), (0.869, 0.773)]:  # HH, InstructGPT, its held-out raters
        assert single_label_ceiling(raw) == pytest.approx(p, abs=1e-3)
    assert single_label_ceiling(0.5) == 0.5 and single_label_ceiling(1.0) == 1.0
    assert single_label_ceiling(0.49) is None
    with pytest.raises(DataError, match="between 0 and 1"):
        single_label_ceiling(63.0)


def judgement(item, rater, strength, *, prompt=None, revision=1):
    return Judgement(
        id=f"{item}-{rater}-{revision}", item_id=f"i{item}", rater=f"r{rater}", rater_kind="simulated",
        prompt_id=f"p{item if prompt is None else prompt}", completion_ids=("a", "b"), strength=strength,
        shown=(0, 1), guideline="g", seconds=1.0, revision=revision,
    )  # fmt: skip


def judged(p_i, raters, rng):
    """Every pair judged by that many fresh raters, who prefer slot 0 with probability p_i."""
    votes = rng.random((len(p_i), raters)) < np.asarray(p_i)[:, None]
    return [judgement(i, r, 1 if votes[i, r] else -1) for i in range(len(p_i)) for r in range(raters)]


N = 12_000
DIFFICULTIES = {
    # name: (p_i, lowest and highest error of `value`, in the large; sampling adds about 0.006)
    "beta, hard": (lambda rng: rng.beta(2.0, 2.0, N), 0.0, 0.0),
    "beta, easy": (lambda rng: rng.beta(0.4, 0.4, N), 0.0, 0.0),
    "logistic of a normal": (lambda rng: expit(2 * rng.normal(size=N)), -0.0025, 0.0),
    "all equally hard": (lambda rng: rng.choice([0.2, 0.8], N), -0.039, -0.025),
    "certain or a coin toss": (lambda rng: rng.choice([0.0, 0.5, 0.5, 0.5, 1.0], N), 0.02, 0.088),
}


@pytest.mark.parametrize("raters", [2, 3])
@pytest.mark.parametrize("name", DIFFICULTIES)
def test_ceiling_is_the_bayes_accuracy_against_one_label(name, raters):
    draw, low, high = DIFFICULTIES[name]
    rng = np.random.default_rng(7)
    p_i = draw(rng)
    found = ceiling(judged(p_i, raters, rng), n_boot=200)
    truth = np.maximum(p_i, 1 - p_i).mean()
    assert low - 0.012 <= found.value - truth <= high + 0.012
    assert found.at_least - 0.012 <= truth <= found.at_most + 0.012
    assert found.at_least <= found.low < found.value < found.high
    assert (found.n, found.n_pairs, found.n_prompts) == (raters * N, N, N)


def test_ceiling_interval_covers_the_truth_though_prompts_share_their_difficulty():
    rng = np.random.default_rng(3)
    covered, n_sims = 0, 150
    everywhere = np.random.default_rng(1).beta(0.5, 0.5, 1_000_000)
    truth = np.maximum(everywhere, 1 - everywhere).mean()
    for seed in range(n_sims):
        p_prompt = rng.beta(0.5, 0.5, 60)
        votes = rng.random((60, 4, 2)) < p_prompt[:, None, None]  # four pairs a prompt, alike in difficulty
        data = [
            judgement(4 * g + k, r, 1 if votes[g, k, r] else -1, prompt=g)
            for g in range(60) for k in range(4) for r in range(2)
        ]  # fmt: skip
        found = ceiling(data, n_boot=200, seed=seed)
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / n_sims <= 0.99


def test_few_raters_who_also_give_the_held_out_labels():
    """The docstring's caveat: the A that matters then exceeds the one seen by (1 - A) / R at most."""
    rng = np.random.default_rng(5)
    votes = rng.random((400, 5)) < rng.beta(1, 1, 400)[:, None]  # five raters who never waver
    data = [judgement(i, r, 1 if votes[i, r] else -1) for i in range(400) for r in range(5)]
    seen = ceiling(data, n_boot=0)
    p_i = votes.mean(1)
    matters = np.mean(p_i**2 + (1 - p_i) ** 2)
    assert matters - seen.at_least == pytest.approx((1 - seen.at_least) / 5)
    assert seen.low is seen.high is None


def test_ceiling_leaves_ties_out_and_takes_the_last_revision():
    data = [
        judgement(0, 0, 2), judgement(0, 1, 1), judgement(0, 2, 0),  # two agree, one tie
        judgement(1, 0, 3), judgement(1, 1, 1), judgement(1, 1, -2, revision=2),  # disagree in the end
        judgement(2, 0, 1), judgement(2, 1, 0),  # one decided: tells nothing
    ]  # fmt: skip
    found = ceiling(data)
    assert (found.n, found.n_pairs, found.at_least) == (4, 2, 0.5)
    assert found.value == 0.5
    assert ceiling(data[::-1]).value == 0.5
    assert ceiling(data[:2]).value == 1.0


def test_no_ceiling_without_shared_pairs():
    found = ceiling([judgement(0, 0, 1), judgement(1, 1, -1), judgement(2, 0, 0), judgement(2, 1, 0)])
    assert found.value is None and found.undefined_because.startswith("no pair was decided")
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["value"] is None


def test_ceiling_is_never_below_a_coin_toss():
    found = ceiling([judgement(i, r, 1 if r else -1) for i in range(20) for r in range(2)])
    assert found.value == found.at_least == found.at_most == 0.5


# ----------------------------------------------------------------------------------------- reading


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "ratings.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_reading_a_csv_gives_what_alpha_needs(tmp_path):
    lines = ["note,coder,text,score"]
    lines += [
        f'"two\nlines",{rater},u{u}, {"" if v == "*" else v} '
        for rater, row in KRIPPENDORFF.items()
        for u, v in enumerate(row.split())
    ]
    ratings = read_ratings_csv(write(tmp_path, "\n".join(lines)), "text", "coder", "score", "ordinal")
    assert len(ratings) == 41 and ratings[0] == Rating("u0", "A", 1.0)
    assert alpha_of(ratings, "ordinal") == pytest.approx(0.815, abs=5e-4)
    as_text = read_ratings_csv(write(tmp_path, "\n".join(lines)), "text", "coder", "score")
    assert as_text[0].value == "1" and alpha_of(as_text, "nominal") == pytest.approx(0.743, abs=5e-4)


def test_a_byte_order_mark_and_windows_lines_are_no_obstacle(tmp_path):
    path = write(tmp_path, "unit,rater,value\r\nu,a,1\r\n\r\nu,b,2\r\n", "utf-8-sig")
    assert [r.value for r in read_ratings_csv(path, "unit", "rater", "value", "interval")] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "level", "message"),
    [
        ("item,who,score\n", "nominal", r"no column 'unit'; the columns are: item, who, score"),
        ("", "nominal", r"no column 'unit'; the columns are: \(none\)"),
        ("unit,rater,value,value\n", "nominal", "more than one column 'value'"),
        ("unit,rater,value\nu,a,1\nu,b,good\n", "ordinal", r"line 3, column 'value': 'good' is not a number"),
        ("unit,rater,value\nu,a,nan\n", "interval", r"line 2, column 'value': 'nan' is not a finite number"),
        ("unit,rater,value\nu,a,1_5\n", "interval", r"line 2, column 'value': '1_5' is not a number"),
        ("unit,rater,value\nu,a,-1\n", "ratio", r"line 2, column 'value': '-1' is negative"),
        (
            'unit,rater,value\nu,a,"x\ny"\nu,b,x\nu,a,z\n',
            "nominal",
            r"lines 2 and 5: rater 'a' has two values",
        ),
        ("unit,rater,value\nu,,x\n", "nominal", r"line 2, column 'rater': empty"),
        ("unit,rater,value\nu,a,x\nu,b\n", "nominal", r"line 3: 2 cells, but the header has 3"),
        ('unit,rater,value\nu,a,"x\n', "nominal", r"not proper CSV"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, text, level, message):
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=message) as caught:
        read_ratings_csv(path, "unit", "rater", "value", level)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv: cannot be read: No such file"):
        read_ratings_csv(tmp_path / "nowhere.csv", "unit", "rater", "value")
    with pytest.raises(DataError, match="not UTF-8"):
        read_ratings_csv(write(tmp_path, "unit,rater,value\nü,a,x\n", "latin-1"), "unit", "rater", "value")
