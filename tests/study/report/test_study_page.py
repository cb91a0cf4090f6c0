"""The page of a study: the numbers of study.json and no others, warnings first, one file that asks for nothing."""

import csv
import json
import math
import re
import shutil
from collections import Counter

import numpy as np
import pytest
import yaml

from medfl.cli.commands.report_command import report
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.plain_text import shortened
from medfl.report.chart_style import TOKENS
from medfl.study.analysis import result, save
from medfl.study.report import study_charts
from medfl.study.report.study_limitations import disagreement, study_limits
from medfl.study.report.study_page import chain, sentences, study_html, write_study_report
from medfl.study.report.study_results import read_study
from medfl.study.run_figures import STABILITY
from medfl.study.study_file import ALL, Planned, StudyFile, StudyPlan
from medfl.study.study_tables import RunRows, Tables
from medfl.study.text_tables import ONE_SEED, headline, text_tables
from tests.pages import Page

pytestmark = pytest.mark.usefixtures("charts")
METHODS = {"fedavg": [], "ecgr": [{"name": "ecgr", "select": "norm"}], "prox": ["fedprox"]}
SITES = ("south", "west")
ROUNDS = 3
PIPELINE = {
    "name": "p",
    "seed": 5,
    "task": {"classes": ["lung_aca", "lung_n", "colon_n"]},
    "data": {"source": "tissue", "size": 32},
    "sites": {"generate": {"count": 3, "held_out": 2}},
    "model": {"backbone": "test_byobnet"},
    "training": {"rounds": ROUNDS},
}


SEEDS = (1, 2, 3, 4, 5)


class Made:
    """A study folder written by hand: the study's own tables and result, with figures drawn from seeds.

    Every figure of a run is a function of the names of partition, method, seed and fold.
    """

    timed = False
    one_deal = False
    skill = 0.03
    rounds = ROUNDS

    def __init__(
        self,
        pipeline,
        methods=METHODS,
        seeds=(1, 2),
        partitions=("even",),
        folds=("",),
        brackets=True,
        about="By hand.",
    ):
        spec = StudyFile(
            name="made",
            description=about,
            pipeline="p.yaml",
            seeds=list(seeds),
            methods={name: arm if isinstance(arm, dict) else {"method": arm} for name, arm in methods.items()},
            partitions={name: {} for name in partitions},
            brackets=brackets,
            leave_one_site_out=folds != ("",),
        )
        names = [(p, m, s, f) for p in partitions for s in seeds for m in spec.arms() for f in folds]
        own = {seed: drawn(pipeline, seed) for seed in seeds}
        runs = [Planned(p, m, s, f, own[s], f"{i:012x}") for i, (p, m, s, f) in enumerate(names)]
        self.study, self.pipeline, self.folds = StudyPlan(spec, tuple(runs)), pipeline, folds

    def write(self, folder, without=(), failed=None):
        """Write the tables and study.json of the runs whose titles are not in `without`."""
        done = Tables({run.key: self.rows(run) for run in self.study.runs if run.title not in without})
        folder.mkdir(parents=True, exist_ok=True)
        done.save(folder, self.study.runs)
        save(folder, result(self.study, done, failed or {}))
        return folder

    def rows(self, run):
        arms = self.study.file.arms()
        of_method = list(arms).index(run.method)
        alone = arms[run.method].baseline == "local_only"
        rng = np.random.default_rng([run.seed, of_method, *map(ord, run.partition + run.fold)])
        shared = np.random.default_rng([run.seed, *map(ord, run.partition + run.fold)]).normal(0, 0.02)
        level = 0.84 + shared + self.skill * (of_method % 5) + rng.normal(0, 0.01)
        level = 0.7 + shared if alone else 0.95 + shared / 2 if arms[run.method].baseline == "centralised" else level
        unseen = [run.fold] if run.fold else SITES if self.pipeline.held_out_sites else ()
        found = {name: float(np.clip(level + rng.normal(0, 0.015), 0, 1)) for name in unseen}
        train = {f"site-0{i}": level + 0.02 * i for i in range(1, 4) if f"site-0{i}" != run.fold}
        values = {
            "chain": "+".join(str(link) for link in arms[run.method].chain) or "fedavg",
            "rounds": self.rounds,
            "data": "d" * 12 if self.one_deal else f"{run.seed}{run.fold}{run.partition}"[:12],
            "val_mean_auroc": level,
            **{f"{role}_mean_ece{x}": rng.uniform(0, 0.2) for role in ("train", "held_out") for x in ("", "_before")},
            **{name: rng.uniform(0.1, 2.0) for name in STABILITY},
            "rounds_to_target": 2 if level > 0.87 else None,
            "megabytes": 12.5,
            "temperature": 1.5,
            "failures": 0,
            "threads": 1,
            "device": "x86_64",
            "medfl": "0.1.0",
            "torch": "2.15.0",
            "timm": "1.0.31",
        }
        for role, named in (("held_out", found), ("train", train)):
            values[f"{role}_mean_auroc"] = sum(named.values()) / len(named) if named else None
            values[f"{role}_worst_auroc"] = min(named.values(), default=None)
        if alone:
            values |= dict.fromkeys(("drift", "coherence", "update_cosine", "accumulated_variance"))
        clock = self.timed and not alone
        values["virtual_seconds"] = 10.0 * self.rounds * (1 + of_method) if clock else None
        sites = [self.site(name, "held_out", value) for name, value in found.items() if not alone]
        sites += [self.site(name, "train", min(value, 1.0)) for name, value in train.items()]
        curve = [self.round(t, level, clock and 1 + of_method, rng) for t in range(self.rounds + 1)]
        return RunRows(text(values), sites, curve)

    @staticmethod
    def site(name, role, auroc):
        row = {"site": name, "role": role, "model": "global", "n": 100, "groups": 25, "auroc": auroc}
        return text(row | {"ece": 0.1, "auroc_low": auroc - 0.05, "auroc_high": min(auroc + 0.03, 1.0)})

    def round(self, t, level, pace, rng):
        auroc = level - 0.3 * math.exp(-4 * t / self.rounds) + rng.normal(0, 0.01)
        # The clock stands at the end of the round; the last measurement takes no time.
        seconds = 10.0 * pace * min(t + 1, self.rounds) if pace else None
        return text({"round": t, "mean_auroc": auroc, "virtual_seconds": seconds})


def drawn(pipeline, seed):
    """The pipeline with institutions of a seed's own."""
    train = [site.model_copy(update={"patches": 100 + seed}) for site in pipeline.sites.train]
    return pipeline.model_copy(update={"sites": pipeline.sites.model_copy(update={"train": train})})


def text(values):
    return {k: "" if v is None else f"{v:.9g}" if isinstance(v, float) else str(v) for k, v in values.items()}


def loaded(folder, **sites):
    path = folder / f"p{len(sites)}.yaml"
    path.write_text(yaml.safe_dump(PIPELINE | {"sites": {"generate": PIPELINE["sites"]["generate"] | sites}}))
    return load_pipeline(path)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return loaded(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def whole(pipeline, tmp_path_factory):
    """A finished study on a virtual clock with two partitions and the brackets: its folder, its page, study.json."""
    made = Made(pipeline, {"fedavg": [], "ecgr": METHODS["ecgr"]}, SEEDS, ("even", "skew"))
    made.timed = True
    folder = made.write(tmp_path_factory.mktemp("study") / "whole")
    page = Page(write_study_report(folder).read_text())
    return folder, page, json.loads((folder / "study.json").read_text())


@pytest.fixture(scope="module")
def left_out(pipeline, tmp_path_factory):
    """A study that leaves every site out in turn, with two seeds: its folder and its page."""
    made = Made(
        pipeline,
        {"fedavg": [], "alone": {"baseline": "local_only"}},
        (1, 2),
        folds=("site-01", "site-02"),
        brackets=False,
    )
    folder = made.write(tmp_path_factory.mktemp("study") / "folds")
    return folder, Page(study_html(folder))


def page_of(folder, found=None):
    if found is not None:
        (folder / "study.json").write_text(json.dumps(found))
    return Page(study_html(folder))


def csv_rows(folder, name, **wanted):
    with (folder / f"{name}.csv").open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if all(row[key] == value for key, value in wanted.items())]


def three(value):
    return f"{value:.3f}"


# ------------------------------------------------------------------------------------------------ the same numbers


def test_the_tables_are_those_that_the_study_prints(whole):
    _, page, found = whole
    sections = [key for key in page.tables if key.startswith("partition")]
    assert list(found["partitions"]) == ["even", "skew", ALL]
    assert len(sections) == 3
    for key, (name, partition) in zip(sections, found["partitions"].items(), strict=True):
        results, against, stability = text_tables({**found, "partitions": {name: partition}})
        on_page = page.tables[key]
        assert on_page[0][1:] == [list(row) for row in results.rows]
        assert [table[1:] for table in on_page if table[0] == list(against.columns)] == [against.rows]
        assert [table[1:] for table in on_page if table[0] == list(stability.columns)] == [stability.rows]


def test_pictures_say_the_figures_of_study_json(whole):
    _, page, found = whole
    part = found["partitions"]["skew"]
    said = next(label for label in page.labels if label.startswith("Mean AUROC at held-out sites by method in skew"))
    for method, entry in part["methods"].items():
        mean = entry["figures"]["held_out_mean_auroc"]
        assert f"{method} {three(mean['mean'])} [{three(mean['ci'][0])}, {three(mean['ci'][1])}]" in said
    for arm in ("local_only", "centralised"):
        assert f"{arm} lies at {three(part['brackets'][arm])}" in said
    said = next(label for label in page.labels if label.startswith("Mean difference") and "in skew" in label)
    for method, entry in part["comparisons"].items():
        mean, (low, high) = entry["difference"]["mean"], entry["difference"]["ci"]
        assert f"{method} {mean:+.3f} [{low:+.3f}, {high:+.3f}]" in said
    said = next(label for label in page.labels if label.startswith("Wins") and "in skew" in label)
    entry = part["comparisons"]["ecgr"]
    assert f"ecgr {entry['wins']}/{entry['ties']}/{entry['losses']}" in said
    assert "local_only" not in said  # its models were measured at no held-out site one by one
    said = next(label for label in page.labels if label.startswith("Drift by method in skew"))
    assert f"ecgr {part['methods']['ecgr']['figures']['drift']['mean']:.3g}" in said


def test_seeds_sites_and_differences_of_stability_are_the_tables(whole):
    folder, page, found = whole
    part, on_page = found["partitions"]["even"], page.tables["partition-1"]
    seeds = next({row[0]: row[1:] for row in table[1:]} for table in on_page if "seed 1" in table[0])
    for method, entry in part["methods"].items():
        assert seeds[method] == [three(entry["values"][f"even {seed}"]) for seed in SEEDS]
        runs = csv_rows(folder, "runs", partition="even", method=method)
        assert seeds[method] == [three(float(row["held_out_mean_auroc"])) for row in runs]
    sites = next({row[0]: row[1:] for row in table[1:]} for table in on_page if table[0][1:] == list(SITES))
    assert sites["ecgr"] == ["/".join(map(str, part["comparisons"]["ecgr"]["by_site"][site])) for site in SITES]
    moved = next({row[0]: row[1:] for row in table[1:]} for table in on_page if "drift [95 %]" in table[0])
    mean = part["comparisons"]["ecgr"]["figures"]["drift"]
    assert moved["ecgr"][1] == f"{mean['mean']:+.3g} [{mean['ci'][0]:+.3g}, {mean['ci'][1]:+.3g}]"


def test_the_headline_and_the_differences_at_a_glance(whole):
    _, page, found = whole
    said = page.texts["result"]
    methods = found["partitions"]["even"]["methods"]
    value, best = max((methods[m]["figures"]["held_out_mean_auroc"]["mean"], m) for m in ("fedavg", "ecgr"))
    assert f"even: highest mean AUROC at held-out sites with {best}, {three(value)}, between local_only 0." in said
    cells = page.rows("result")
    for row, name in enumerate(found["partitions"]):
        for method, entry in found["partitions"][name]["comparisons"].items():
            low, high = entry["difference"]["ci"]
            mark = "▲\u00a0" if low > 0 else "▼\u00a0" if high < 0 else ""
            assert cells[method][row] == f"{mark}{entry['difference']['mean']:+.3f}"
    assert cells["local_only"][0].startswith("▼")
    assert cells["centralised"][0].startswith("▲")


def test_endpoints_stand_above_what_is_secondary(pipeline, tmp_path):
    made = Made(pipeline, METHODS, SEEDS, ("even", "skew"), brackets=False)
    endpoints = {"primary": [{"figure": "held_out_mean_auroc", "test": "equivalence", "margin": 0.1}]}
    spec = StudyFile.model_validate(made.study.file.model_dump(exclude_none=True) | {"endpoints": endpoints})
    made.study = StudyPlan(spec, made.study.runs)
    page = page_of(made.write(tmp_path / "s"))
    said = page.texts["result"]
    assert said.index("Primary: ecgr against fedavg") < said.index("Everything else is secondary")
    assert said.index("Everything else is secondary") < said.index("even: highest")
    (primary, strata, *_) = page.tables["result"]
    assert [row[:2] for row in primary[1:]] == [["ecgr", "fedavg"], ["prox", "fedavg"]]
    assert primary[1][8] == "equivalent"
    assert strata[0][3:] == ["even", "skew"]
    assert "Only the primary endpoints are." in said


def test_seeds_of_listed_sites_are_one_federation(pipeline, tmp_path):
    made = Made(pipeline, METHODS, SEEDS, brackets=False)
    same = tuple(Planned(r.partition, r.method, r.seed, r.fold, pipeline, r.key) for r in made.study.runs)
    made.study = StudyPlan(made.study.file, same)
    folder = made.write(tmp_path / "s")
    said = page_of(folder).texts["result"]
    assert "One federation says nothing of which is better: 5 distinct ones are needed." in said
    assert "One federation." in said
    made.study = StudyPlan(made.study.file.model_copy(update={"unit": "seed"}), same)
    said = page_of(made.write(folder)).texts["result"]
    assert "These sites alone." in said
    assert "the interval of the difference" in said


def test_nothing_is_said_of_which_is_better_under_five_repeats(pipeline, tmp_path):
    made = Made(pipeline, METHODS, (1, 2), brackets=False)
    folder = made.write(tmp_path / "s")
    found = json.loads((folder / "study.json").read_text())
    entry = found["partitions"]["even"]["comparisons"]["ecgr"]
    entry["difference"]["ci"] = [-0.2, -0.1]
    entry["figures"]["held_out_mean_auroc"] = entry["difference"]
    page = page_of(folder, found)
    said = page.texts["result"]
    assert "2 federations say nothing of which is better: 5 distinct ones are needed." in said
    for word in ("highest mean", "above zero", "below zero", "includes zero"):
        assert word not in said
    assert "Few federations." in said
    lines = headline(found)
    assert len(lines) == 1
    assert "highest" not in lines[0]
    for mean in (m["figures"]["held_out_mean_auroc"] for m in found["partitions"]["even"]["methods"].values()):
        assert 0 < mean["ci"][0] < mean["ci"][1] < 1


def test_an_interval_of_an_earlier_version_is_brought_inside_its_bounds(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "s")
    found = json.loads((folder / "study.json").read_text())
    entry = found["partitions"]["even"]["methods"]["ecgr"]["figures"]["held_out_mean_auroc"]
    entry["ci"] = [entry["mean"] - 0.9, entry["mean"] + 0.9]
    (folder / "study.json").write_text(json.dumps(found))
    low, high = read_study(folder).partitions["even"]["methods"]["ecgr"]["figures"]["held_out_mean_auroc"]["ci"]
    assert 0 < low < entry["mean"] < high < 1


def test_where_the_intervals_lie(whole, tmp_path):
    folder, _, found = whole
    shutil.copytree(folder, tmp_path / "s")
    found = json.loads(json.dumps(found))
    for name, ci in (("even", [0.001, 0.2]), ("skew", [-0.2, -0.001]), (ALL, [-0.1, 0.1])):
        found["partitions"][name]["comparisons"]["ecgr"]["difference"]["ci"] = ci
    (tmp_path / "s" / "study.json").write_text(json.dumps(found))
    said = list(sentences(read_study(tmp_path / "s")))
    assert said[0].endswith("Against fedavg, the interval of the difference lies above zero for ecgr.")
    assert said[1].endswith("Against fedavg, the interval of the difference lies below zero for ecgr.")
    assert said[2] == "All partitions: Against fedavg, the interval of the difference includes zero for ecgr."


def test_an_unseen_site_has_its_intervals(left_out):
    folder, page = left_out
    found = json.loads((folder / "study.json").read_text())["partitions"]["even"]["unseen"]
    (table,) = [table for table in page.tables["partition-1"] if table[0][0] == "unseen site"]
    assert [row[:2] for row in table[1:]] == [[s, m] for s in ("site-01", "site-02") for m in ("fedavg", "alone")]
    for site, method, seeds, groups, auroc, over_groups, moved in table[1:]:
        runs = csv_rows(folder, "runs", method=method, fold=site)
        mean = sum(float(row["held_out_mean_auroc"]) for row in runs) / 2
        rows = csv_rows(folder, "sites", method=method, fold=site, site=site)
        assert seeds == "2"
        if method == "alone":
            assert (rows, groups, auroc, over_groups) == ([], "-", f"{three(mean)} [n/a]", "[n/a]")
            assert moved.startswith("-0.")
            continue
        stated = found[site]["fedavg"]["auroc"]
        assert auroc == f"{three(mean)} [{three(stated['ci'][0])}, {three(stated['ci'][1])}]"
        assert stated["mean"] == pytest.approx(mean)
        low, high = min(float(row["auroc_low"]) for row in rows), max(float(row["auroc_high"]) for row in rows)
        assert (groups, over_groups, moved) == ("25", f"[{three(low)}, {three(high)}]", "-")
    said = next(label for label in page.labels if "site-02 as the unseen site" in label)
    assert f"fedavg {table[3][4]}" in said
    rows = [row for site in found for row in csv_rows(folder, "sites", method="fedavg", fold=site, site=site)]
    low = min(rows, key=lambda row: float(row["auroc"]))
    said = f"The lowest AUROC at a site left out was {three(float(low['auroc']))}, at {low['site']} with fedavg"
    assert said in page.texts["result"]


def test_one_method_left_out_everywhere_is_one_picture(pipeline, tmp_path):
    made = Made(pipeline, {"ecgr": ["ecgr"]}, (7,), folds=("site-01", "site-02", "site-03"), brackets=False)
    folder = made.write(tmp_path / "s")
    page = page_of(folder)
    (table,) = [table for table in page.tables["partition-1"] if table[0][0] == "unseen site"]
    assert [row[0] for row in table[1:]] == ["site-01", "site-02", "site-03"]
    (said,) = [label for label in page.labels if "as the unseen one, ecgr" in label]
    assert all(f"{row[0]} {row[4]}" in said for row in table[1:])
    ends = [csv_rows(folder, "sites", site=row[0], fold=row[0])[0] for row in table[1:]]
    for row, own in zip(table[1:], ends, strict=True):
        assert row[4] == "{} [{}, {}]".format(*(three(float(own[key])) for key in ("auroc", "auroc_low", "auroc_high")))
    assert page.raw == study_html(shutil.copytree(folder, tmp_path / "elsewhere" / "s"))
    assert "One seed." in told(folder)


# ------------------------------------------------------------------------------------------------------- curves


CURVES = """partition,method,seed,fold,key,round,mean_auroc,virtual_seconds
p,a,1,,k1,0,0.5,10
p,a,1,,k1,1,,20
p,a,1,,k1,2,0.7,20
p,a,2,,k2,0,0.6,30
p,a,2,,k2,1,0.9,45
p,a,2,,k2,2,0.8,45
"""
RUNS = """partition,method,seed,fold,key,data,virtual_seconds,failures,temperature
p,a,1,,k1,d1,20,0,
p,a,2,,k2,d1,45,0,
"""


EMPTY = {"methods": {}, "brackets": {}, "comparisons": {}, "unseen": {}}


@pytest.fixture
def by_hand(tmp_path):
    """Two runs of one method whose curves are stated above."""
    found = {"name": "n", "figure": "held_out_mean_auroc", "reference": "a", "seeds": [1, 2], "planned": 2, "done": 2}
    found |= {"one_seed": False}
    (tmp_path / "study.json").write_text(json.dumps(found | {"methods": {"a": []}, "partitions": {"p": EMPTY}}))
    (tmp_path / "curves.csv").write_text(CURVES)
    (tmp_path / "sites.csv").write_text("partition,method,seed,fold,key\n")
    (tmp_path / "runs.csv").write_text(RUNS)
    return tmp_path


def test_a_curve_over_rounds_has_the_range_of_the_seeds(by_hand):
    course = read_study(by_hand).curves.by_round("p", "a")
    assert list(course.x) == [0, 2]  # seed 1 was not measured in round 1
    assert list(course.mean) == pytest.approx([0.55, 0.75])
    assert (list(course.low), list(course.high)) == ([0.5, 0.7], [0.6, 0.8])
    assert course.seeds == ["1", "2"]
    curves = read_study(by_hand).curves
    assert list(curves.by_round("p", "a", ["2"]).mean) == [0.6, 0.9, 0.8]
    assert curves.by_round("p", "a", ["2", "3"]) is None  # other seeds are no company for these
    assert curves.by_round("p", "b") is None


def test_a_curve_over_time_shows_models_when_they_are_there(by_hand):
    # The model of round 2 is there when round 1 ends: after 20 s in seed 1, where seed 2 still has its first model.
    course = read_study(by_hand).curves.by_time("p", "a")
    at = dict(zip(course.x, zip(course.low, course.high, strict=True), strict=True))
    assert max(at) == 20
    assert at[0] == (0.5, 0.6)
    assert at[max(x for x in at if x < 20)] == (0.5, 0.6)
    assert at[20] == (0.6, 0.7)


def test_folds_are_averaged_before_seeds(by_hand):
    text_ = CURVES.replace("p,a,2,,", "p,a,1,f,")
    (by_hand / "curves.csv").write_text(text_)
    course = read_study(by_hand).curves.by_round("p", "a")
    assert course.seeds == ["1"]
    assert list(course.mean) == list(course.low) == list(course.high) == pytest.approx([0.55, 0.75])


def test_curves_are_drawn_over_rounds_and_over_time(whole):
    folder, page, _ = whole
    last = [float(row["mean_auroc"]) for row in csv_rows(folder, "curves", partition="even", method="ecgr", round="3")]
    mean, low, high = sum(last) / len(SEEDS), min(last), max(last)
    ends = [label for label in page.labels if label.startswith("Learning curves") and ", ecgr: " in label]
    assert f"{three(mean)} at round 3, seeds from {three(low)} to {three(high)}." in ends[0]
    assert ends[1].startswith("Learning curves over virtual time even")
    assert f"{three(mean)} at 60 s, seeds from {three(low)} to {three(high)}." in ends[1]  # 3 rounds of 20 s
    assert not [label for label in page.labels if label.startswith("Learning curves") and ALL in label]


# ------------------------------------------------------------------------------------------- one file, nothing asked


def test_the_page_asks_for_nothing_and_its_charts_are_the_pages(whole):
    _, page, _ = whole
    for tag, found in page.tags:
        address = found.get("href", "#")
        assert address.startswith("#") or re.match(r"https://(arxiv\.org/abs|doi\.org)/", address)
        assert tag not in ("script", "link", "img", "iframe")
        assert not [name for name in found if name.startswith("on")]
    ids = Counter(page.values("id"))
    assert max(ids.values()) == 1
    assert {a[1:] for a in page.values("href") if a.startswith("#")} <= set(ids)
    assert max(Counter(page.labels).values()) == 1
    drawn = page.raw[page.raw.index("<svg") : page.raw.rindex("</svg>")]
    assert set(re.findall(r"(?:fill|stroke): (?!none|url)([^;\"]+)", drawn)) <= {f"var(--{t})" for t in TOKENS}


def test_methods_are_cited_and_named_by_their_chain(whole):
    _, page, _ = whole
    assert page.rows("methods")["ecgr"] == ["ecgr (select norm)", "", "10"]
    assert page.rows("methods")["fedavg"] == ["FedAvg", "reference", "10"]
    cited = set(page.values("href"))
    assert {f"https://arxiv.org/abs/{n}" for n in ("1602.05629", "2601.03584", "1706.04599")} <= cited
    assert "https://arxiv.org/abs/1812.06127" not in cited
    assert chain(["fedprox", {"name": "ecgr", "keep": 0.5}]) == "fedprox + ecgr (keep 0.5)"
    assert page.tables["record"][0][1:] == [["0.1.0", "2.15.0", "1.0.31", "x86_64", "1", "40"]]


def test_hostile_names_are_text(pipeline, tmp_path):
    evil, quote = "<script>alert(1)</script>", "a\"onload='x' $\\frac$ #010a5c & a very long name"
    made = Made(pipeline, {evil: [], quote: ["ecgr"]}, (1, 2), (quote,), brackets=False, about=evil)
    page = page_of(made.write(tmp_path, failed={f"{evil} · seed 1": f"{evil} in /srv/patches/x.png"}))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    assert evil in page.texts[""]
    assert list(page.rows("partition-1")) == [evil, quote]
    assert f"Against {evil}" in page.texts["partition-1"]
    assert shortened(quote, study_charts.LONGEST) in page.texts["partition-1"]
    assert page.rows("record")[f"{evil} · seed 1"]
    assert "/srv/patches" not in page.raw


def test_sixteen_methods_and_five_seeds_stay_small(pipeline, tmp_path):
    made = Made(pipeline, {f"method-number-{i}": [] for i in range(14)}, (1, 2, 3, 4, 5))
    made.rounds = 12
    page = page_of(made.write(tmp_path))
    assert len(page.rows("partition-1")) == 16
    assert len(page.raw.encode()) * 10 < 5_000_000  # six partitions, all of them together, and virtual time


# ------------------------------------------------------------------------------- unfinished, one seed, nothing, neither


def test_one_seed_and_missing_runs_are_said_above_everything(pipeline, tmp_path):
    without = ["even · prox · seed 1"]
    made = Made(pipeline, METHODS, (1,), brackets=False)
    page = page_of(made.write(tmp_path, without, {without[0]: "5 rounds in a row had no quorum"}))
    above = page.raw.partition("<h1>")[0]
    assert ONE_SEED in above
    assert "NOT FINISHED: 2 of 3 runs are done" in above
    assert page.tables["record"][0][1] == [without[0], "5 rounds in a row had no quorum"]
    assert "1 of 3 runs are not done; fewer than of other methods of prox (0 of 1)" in page.texts["result"]
    assert list(page.rows("partition-1")) == ["fedavg", "ecgr"]
    assert not [label for label in page.labels if "prox" in label]
    assert "one seed, no interval" in page.texts["partition-1"]


def test_a_study_without_a_run_has_a_page(pipeline, tmp_path):
    made = Made(pipeline)
    page = page_of(made.write(tmp_path, [run.title for run in made.study.runs]))
    assert "NOT FINISHED: 0 of 10 runs are done" in page.texts[""]
    assert "No run is done yet." in page.texts["result"]
    assert page.labels == []


def test_a_page_of_two_moments_says_so(whole, tmp_path):
    folder, page, _ = whole
    assert "NOT OF ONE MOMENT" not in page.raw
    later = shutil.copytree(folder, tmp_path / "s")
    for name in ("runs", "sites", "curves"):
        kept = [line for line in (later / f"{name}.csv").read_text().splitlines() if "skew,ecgr,3" not in line]
        (later / f"{name}.csv").write_text("\n".join(kept) + "\n")
    assert "study.json tells of 40 runs, runs.csv holds 39" in disagreement(read_study(later))


def test_what_is_no_study_and_no_run_is_refused_in_a_sentence(by_hand, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        MedflError, match=r"neither a run folder \(no pipeline.yaml.*nor a study folder \(no study.json"
    ):
        report(str(tmp_path / "empty"))
    for asked in ({"site": "west"}, {"with_patches": True}):
        with pytest.raises(MedflError, match="are for a single run"):
            report(str(by_hand), **asked)
    (by_hand / "study.json").write_text('{"name": "n"}')
    with pytest.raises(MedflError, match=r"study\.json lacks .*methods"):
        report(str(by_hand))
    (by_hand / "study.json").unlink()
    with pytest.raises(MedflError, match=r"has no study\.json yet; `medfl study STUDY.yaml --out"):
        report(str(by_hand))


def test_the_command_writes_where_it_is_told(pipeline, tmp_path, capsys):
    folder = Made(pipeline, {"fedavg": []}, (1,), brackets=False).write(tmp_path / "s")
    report(str(folder), out=str(tmp_path / "mine.html"))
    assert str(tmp_path / "mine.html") in capsys.readouterr().out
    assert not (folder / "report.html").exists()
    with pytest.raises(MedflError, match="name another file with --out"):
        write_study_report(folder, tmp_path / "no" / "such" / "folder.html")
    (folder / "runs.csv").write_text("partition,method\na,b\n")
    with pytest.raises(MedflError, match=r"runs\.csv is no table"):
        study_html(folder)


# ----------------------------------------------------------------------------------------- what it does not show


def told(folder):
    return {name for name, _ in study_limits(read_study(folder))}


def test_limits_follow_from_the_tables(whole, pipeline, tmp_path):
    always = {"Other hospitals.", "Benefit to anyone."}
    first = told(whole[0])
    assert always | {"Other patches every time.", "Wins are no test.", "No real clock.", "Settings."} <= first
    assert not {"Runs are missing.", "No brackets.", "No unseen site.", "Highest is not best.", "One seed."} & first

    made = Made(loaded(tmp_path, held_out=0), METHODS, (1, 2, 3, 4, 5), brackets=False)
    made.one_deal = True
    second = told(made.write(tmp_path / "own"))
    assert (
        always | {"The same patients every time.", "No brackets.", "No unseen site.", "Highest is not best."} <= second
    )
    assert not {"Few federations.", "Other patches every time.", "No real clock.", "Pairs on different data."} & second

    runs = (tmp_path / "own" / "runs.csv").read_text().splitlines()
    runs[2] = runs[2].replace("d" * 12, "e" * 12)
    (tmp_path / "own" / "runs.csv").write_text("\n".join(runs) + "\n")
    found = dict(study_limits(read_study(tmp_path / "own")))
    assert "(even, seed 1)" in found["Pairs on different data."]


# ------------------------------------------------------------------------------------------------------- charts


def test_what_lies_beyond_the_scale_ends_in_an_arrow():
    near = [study_charts.Dots("a", 0.0, (-0.01, 0.01), [0.0, 0.01]), study_charts.Dots("b", 0.02)]
    far = study_charts.Dots("far", -5.0, (-6.0, -4.0), [-5.0], minor=True)
    span = study_charts.span_of(near)
    assert span == (-0.01, 0.02)
    assert study_charts.span_of([study_charts.Dots("wide", 0.0, (-9.0, 9.0), [-0.1, 0.1])]) == pytest.approx(
        (-0.3, 0.3)
    )
    assert study_charts.span_of([study_charts.Dots("none", None)]) == (0.0, 1.0)
    arrow = 'd="M -2.5 -0 L 2.5 2.5 L 2.5 -2.5 z"'
    arrows = [
        study_charts.dots(rows, name="n", finding="what it says", xlabel="x", span=span).count(arrow)
        for rows in (near, [*near, far])
    ]
    assert arrows == [0, 1]


def test_a_wide_range_is_logarithmic():
    for low, ticks in ((0.001, {"0.001", "1", "1000"}), (10.0, {"10", "30", "100", "300", "1000"})):
        rows = [study_charts.Dots("a", low), study_charts.Dots("b", 1000.0)]
        picture = study_charts.dots(rows, name="n", finding="what it says", xlabel="x", log=True)
        assert ticks <= set(re.findall(r">([\d.]+)</text>", picture))
