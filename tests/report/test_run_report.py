"""The report: the numbers of the run folder and no others, one file that asks for nothing, a site's page its own."""

import base64
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

from medfl.cli.commands.report_command import report
from medfl.errors import MedflError
from medfl.metrics import format_interval
from medfl.metrics.formatting import format_count
from medfl.metrics.group_figures import group_figures
from medfl.metrics.site_figures import pooled, site_figures
from medfl.pipeline import patch_gallery
from medfl.pipeline.load_pipeline import load_pipeline
from medfl.pipeline.patch_gallery import with_patches
from medfl.pipeline.run import run
from medfl.plain_text import visible
from medfl.report import charts, html_blocks, results_sections
from medfl.report.chart_style import TOKENS
from medfl.report.html_page import PageSection, render_page
from medfl.report.limitations import limits, several
from medfl.report.run_report import report_html, write_report
from medfl.report.run_results import read_evidence
from medfl.runs.headline import headline
from medfl.runs.registration import note_registration
from tests.odd_names import hidden, odd_names
from tests.pages import Page
from tests.paths import ROOT
from tests.runfolders import CLASSES, FakeRun
from tests.tiny import write_tiny

pytestmark = pytest.mark.usefixtures("charts")

MALIGNANT = ("lung_aca", "lung_scc")
TRAIN, HELD_OUT = ("alpine-clinic", "bayside-centre"), ("coastal-laboratory", "delta-institute")


class Run(FakeRun):
    """A finished run folder with all that a run leaves: calibration, operating points, pooled figures, curves."""

    extra: dict = {}  # noqa: RUF012
    patches = 120

    def found(self, site):
        rng = np.random.default_rng([self.seed, sum(site.encode())])
        labels = rng.integers(0, len(CLASSES), self.patches)
        logits = rng.normal(size=(self.patches, len(CLASSES))) + self.skill * np.eye(len(CLASSES))[labels]
        after, before = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (logits / 1.5, logits))
        thresholds = dict.fromkeys([*CLASSES, "malignant"], 0.25)
        groups = np.arange(self.patches) // 5
        return site_figures(
            after, before, labels, groups, CLASSES, malignant=MALIGNANT, thresholds=thresholds, resamples=100
        )

    def summary(self):
        found = {site: self.found(site) for site in self.roles}
        sites = {site: {"role": role, **found[site].figures} for site, role in self.roles.items()}
        curves = {site: {"role": role, **found[site].curves} for site, role in self.roles.items()}
        (self.folder / "curves.json").write_text(json.dumps({"classes": CLASSES, "sites": curves}))
        of = {role: [n for n, r in self.roles.items() if r == role] for role in ("train", "held_out")}
        fit = {"temperature": 1.5, "patches": 77, "sites": list(self.train), "nll_before": 0.9, "nll_after": 0.8}
        thresholds = dict.fromkeys([*CLASSES, "malignant"], 0.25)
        return super().summary() | {
            "method": "+".join(map(str, self.method)),
            "sites": sites,
            "held_out": group_figures(sites, "held_out"),
            "train_sites": group_figures(sites, "train"),
            "temperature": 1.5,
            "calibration": fit,
            "operating": {"sensitivity": 0.95, "patches": 77, "thresholds": thresholds},
            "pooled": {r: pooled({n: found[n].sums for n in names}, CLASSES) for r, names in of.items()},
            **self.extra,
        }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run folder, its page and its summary."""
    folder = tmp_path_factory.mktemp("report") / "whole"
    failing = [(1, "bayside-centre", "RuntimeError: /srv/secret/patient.png is not finite")]
    finished = Run(folder, TRAIN, HELD_OUT, failing=failing, monitored=True).begin().play()
    (folder / "summary.json").write_text(json.dumps(finished.summary()))
    return folder, Page(report_html(folder)), json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """The folder of a run of one round, one training site and one held out."""
    return finish(Run(tmp_path_factory.mktemp("report") / "little", TRAIN[:1], HELD_OUT[:1], rounds=1).begin().play())


def finish(run_):
    """Write summary and curves of a played run; returns its folder."""
    (run_.folder / "summary.json").write_text(json.dumps(run_.summary()))
    return run_.folder


def three(value):
    return "n/a" if value is None else f"{value:.3f}"


# ------------------------------------------------------------------------------------------------ the same numbers


def test_the_site_table_is_the_summary(whole):
    _, page, summary = whole
    rows = page.rows("sites")
    assert list(rows) == [*TRAIN, *HELD_OUT]
    for name, entry in summary["sites"].items():
        few = entry["few_groups"]
        assert rows[name] == [
            entry["role"].replace("_", "-"),
            str(entry["n"]),
            str(entry["n_groups"]),
            str(len(entry["supported_classes"])),
            format_interval(entry["auroc"], entry["auroc_ci"], few_groups=few),
            three(entry["balanced_accuracy"]),
            three(entry["ece_before"]),
            format_interval(entry["ece"], entry["ece_ci"]),
            three(entry["debiased_ece"]),
            three(entry["ece_noise"]),
            three(entry["brier"]),
            three(entry["nll"]),
        ]
        assert entry["ece_before"] != entry["ece"]


def test_the_headline_is_the_summary(whole):
    _, page, summary = whole
    text, held_out = page.texts["result"], summary["held_out"]
    worst = summary["sites"][held_out["worst_site"]]
    assert held_out["worst_site"] in text
    for value, ci in ((held_out["mean_auroc"], held_out["mean_auroc_ci"]), (worst["auroc"], worst["auroc_ci"])):
        number, _, interval = format_interval(value, ci).partition(" ")
        assert f"{number} {interval}" in text
    assert f"{three(held_out['mean_ece_before'])} → {three(held_out['mean_ece'])}" in text
    assert f"worst {three(held_out['worst_ece_before'])} → {three(held_out['worst_ece'])}" in text


def test_operating_points_pooled_figures_and_matrices_are_the_summary(whole):
    _, page, summary = whole
    points = page.tables["roc"][0][1:]
    assert [row[:2] for row in points] == [[name, t] for name in HELD_OUT for t in (*CLASSES, "malignant")]
    for name, target, threshold, positives, negatives, sensitivity, specificity in points:
        point = summary["sites"][name]["operating"][target]
        assert (threshold, positives, negatives) == ("0.250", str(point["positives"]), str(point["negatives"]))
        assert sensitivity == format_interval(point["sensitivity"], point["sensitivity_ci"])
        assert specificity == format_interval(point["specificity"], point["specificity_ci"])
    rows, part = page.rows("pooled"), summary["pooled"]["held_out"]
    assert rows["AUROC"][0].startswith(f"{three(part['auroc'])} (to within ")
    assert rows["ECE, before → after"][0] == f"{three(part['ece_before'])} → {three(part['ece'])}"
    assert rows["Brier"] == [three(summary["pooled"][role]["brier"]) for role in ("held_out", "train")]
    for name in HELD_OUT:
        label = next(text for text in page.labels if text.startswith(f"Confusion matrix of {name}"))
        right = sum(summary["sites"][name]["confusion"][i][i] for i in range(len(CLASSES)))
        assert f"{right} of {summary['sites'][name]['n']} patches right" in label


def test_heat_maps_say_the_figures_and_colour_by_them(whole):
    _, page, summary = whole
    metrics, classes = page.rows("heat-map", 0), page.rows("heat-map", 1)
    for name, entry in summary["sites"].items():
        keys = ("auroc", "balanced_accuracy", "accuracy", "ece", "classwise_ece", "brier", "nll")
        assert metrics[name] == [three(entry[key]) for key in keys]
        assert classes[name] == [three(entry["auroc_per_class"][c]) for c in CLASSES]
    depths = [float(style.removeprefix("--depth:")) for style in page.values("style") if "--depth" in style]
    first = summary["sites"][TRAIN[0]]
    assert depths[0] == pytest.approx((1 - first["auroc"]) / 0.5, abs=6e-4)
    assert depths[6] == pytest.approx(min(1, first["nll"] / math.log(3)), abs=6e-4)
    assert all(0 <= depth <= 1 for depth in depths)


def test_charts_state_their_finding(whole):
    folder, page, summary = whole
    entry = summary["sites"]["coastal-laboratory"]
    auroc = format_interval(entry["auroc_per_class"]["lung_n"], entry["auroc_per_class_ci"]["lung_n"])
    assert any(label.startswith(f"ROC curve of lung_n at coastal-laboratory: {auroc}") for label in page.labels)
    before, after = three(entry["ece_before"]), three(entry["ece"])
    said = next(label for label in page.labels if label.startswith("Reliability at coastal-laboratory"))
    assert f"ECE {before} before calibration, {after} after" in said
    assert re.search(r"(over|under)-confident", said)
    records = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    start = records[0]["sites"]["alpine-clinic"]["val"]["auroc"]
    assert any(f"AUROC at alpine-clinic: {start:.3f} at round 0" in label for label in page.labels)
    assert any(label.startswith("Monitored test AUROC at delta-institute") for label in page.labels)
    assert "monitoring" in page.texts["curves"]
    assert "20 lung_aca, 21 lung_n, 22 lung_scc" in next(
        label for label in page.labels if label.startswith("Patches at delta-institute")
    )


def test_a_mean_confidence_above_the_accuracy_is_called_over_confident():
    from medfl.report.diagnostics import _means

    bins = {"count": [1, 0, 3], "confidence": [0.2, None, 0.9], "accuracy": [1.0, None, 1 / 3]}
    assert _means(bins) == (pytest.approx(2.9 / 4), pytest.approx(0.5))


# ------------------------------------------------------------------------------------------- one file, nothing asked


def test_no_request_leaves_the_page(whole):
    _, page, _ = whole
    assert {tag for tag, _ in page.tags}.isdisjoint(
        {"script", "link", "img", "image", "iframe", "object", "embed", "base", "form", "audio", "video", "source"}
    )
    assert not page.values("src", "srcset", "poster", "data", "action", "background", "xlink:href")
    for tag, found in page.tags:
        address = found.get("href", "#")
        assert address.startswith("#") or (tag == "a" and re.match(r"https://(arxiv\.org/abs|doi\.org)/", address))
        assert not [name for name in found if name.startswith("on")]
    assert "@import" not in page.raw
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)", page.raw))
    policy = next(f["content"] for t, f in page.tags if f.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_ids_are_unique_and_found(whole):
    _, page, _ = whole
    ids = Counter(page.values("id"))
    assert max(ids.values()) == 1
    targets = {a[1:] for a in page.values("href") if a.startswith("#")} | set(re.findall(r"url\(#([^)]*)", page.raw))
    assert targets <= set(ids)


def test_charts_take_their_colours_from_the_page_and_are_pictures_to_a_reader(whole):
    _, page, _ = whole
    svg = page.raw[page.raw.index("<svg") : page.raw.rindex("</svg>")]
    assert set(re.findall(r"(?:fill|stroke): (?!none|url)([^;\"]+)", svg)) <= {f"var(--{token})" for token in TOKENS}
    style = page.raw[: page.raw.index("</style>")]
    light, dark = style.split("prefers-color-scheme: dark")
    assert all(f"--{token}:" in light and f"--{token}:" in dark for token in TOKENS)
    pictures = [found for tag, found in page.tags if tag == "svg"]
    assert len(pictures) > 20
    assert all(found["role"] == "img" and len(found["aria-label"]) > 25 for found in pictures)
    assert max(Counter(page.labels).values()) == 1


def test_hostile_names_are_text(tmp_path):
    evil, steering = "<script>alert(1)", "a\"onload='x' $\\frac$ #010a5c \x1b[2J\u202e\x9b"
    made = Run(tmp_path / "evil", (evil, steering), (f"{evil}{steering}",), rounds=1, failing=[(0, evil, evil)])
    quote = visible(steering)
    made.site = lambda name: {"name": name, "description": evil}
    made.pipeline = lambda: Run.pipeline(made) | {"description": evil, "name": evil}
    made.extra = {"pipeline": evil}
    folder = finish(made.begin().play())
    whole = Page(report_html(folder))
    for page in (whole, Page(report_html(folder, evil))):
        assert "script" not in {tag for tag, _ in page.tags}
        assert not [name for _, found in page.tags for name in found if name.startswith("on")]
        assert evil in page.texts[""]
        assert evil in page.texts["sites"]
    assert list(whole.rows("sites")) == [evil, quote, f"{evil}{quote}"]
    assert f"{evil}{quote}" in whole.tables["roc"][0][1][0]
    assert not hidden(whole.raw)


@pytest.mark.parametrize("kind", ["bars", "matrix"])
def test_class_names_are_shown_as_they_are(kind):
    names = ["<b>&", "$x^2$ #010a5c"]
    finding, section = '4 "of" <5>', "x" if kind == "matrix" else ""
    if kind == "matrix":
        matrix = html_blocks.matrix(names, [[3, 1], [0, None]], finding)
        page = Page(f"<section id=x>{matrix}</section>")
        assert [row[1:] for row in page.tables["x"][0][1:]] == [["3", "1"], ["0", format_count(None)]]
    else:
        page = Page(charts.bars([(name, [1, 2]) for name in names] * 2, name="k", finding=finding))
    assert [tag for tag, _ in page.tags if tag == "b"] == []
    assert page.texts[section].count("<b>&") == 2
    assert page.texts[section].count("$x^2$ #010a5c") == 2
    assert page.labels == ['4 "of" <5>']


def test_charts_take_names_of_any_kind(recwarn):
    names = odd_names(40, seed=4)
    drawn = (
        charts.bars([(name, [1, 2]) for name in names], name=names[0], finding=names[9]),
        charts.bars([(name, [2, 1]) for name in names[9:14]], name=names[10], finding=names[11]),
    )
    for picture in drawn:
        root = ElementTree.fromstring(picture)
        assert not hidden(picture, lines=False)
        assert {element.tag for element in root.iter()} <= {
            "svg",
            "g",
            "path",
            "defs",
            "use",
            "text",
            "clipPath",
            "rect",
        }
    bars = Page(drawn[0]).texts[""]
    assert all(visible(name) in bars for name in names)
    assert not recwarn.list


def test_local_paths_and_free_text_stay_behind(whole):
    folder, page, _ = whole
    assert str(folder.parent) not in page.raw
    assert "/srv/patches" not in page.raw
    assert "patient.png" not in page.raw
    assert page.tables["conduct"][0][1] == ["bayside-centre", "1", "round", "not finite"]


def test_two_renderings_are_the_same_bytes(little, tmp_path):
    other = shutil.copytree(little, tmp_path / "elsewhere" / "two")
    first = write_report(little).read_bytes()
    (tmp_path / "matplotlibrc").write_text(
        "font.size: 20\nlines.color: red\naxes.facecolor: yellow\nsvg.fonttype: path\n"
    )
    code = "import sys; from pathlib import Path; from medfl.report.run_report import report_html as r; "
    code += "sys.stdout.buffer.write(r(Path(sys.argv[1])).encode())"
    settings = os.environ | {"PYTHONHASHSEED": "3", "MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(other)], cwd=ROOT, env=settings, capture_output=True, check=True
    )
    assert done.stdout == first


def test_many_sites_and_rounds_stay_small(tmp_path):
    """250 kB a site, so that a page of twenty stays under the 5 MB that the documentation promises."""
    train, held_out = [f"training-{i:02d}" for i in range(8)], [f"held-out-{i}" for i in range(2)]
    made = Run(tmp_path / "large", train, held_out, rounds=100, monitored=True)
    made.measured = lambda site, t, split, resamples=0: {"auroc": 0.5 + 0.4 * t / 100, "ece": 0.1}
    made.begin().play()
    made.measured = lambda *a: Run.measured(made, *a)
    html = report_html(finish(made))
    assert len(html.encode()) < 2_500_000
    assert len(Page(html).labels) > 40


# ------------------------------------------------------------------------------------------------------- one site


@pytest.mark.parametrize("site", [TRAIN[1], HELD_OUT[0]])
def test_a_sites_page_tells_of_no_other_site(whole, site):
    folder, everything, summary = whole
    html = report_html(folder, site)
    page = Page(html)
    assert not [name for name in (*TRAIN, *HELD_OUT) if name != site and name in html]
    assert list(page.rows("sites")) == [site]
    assert page.rows("sites")[site][4] == format_interval(
        summary["sites"][site]["auroc"], summary["sites"][site]["auroc_ci"]
    )
    assert {"result", "class-mix", "reliability", "roc", "confusion"} <= set(page.tables)
    assert not {"pooled", "stability", "heat-map"} & set(page.tables)
    assert {row[0] for row in page.tables["roc"][0][1:]} == {site}
    assert ("not finite" in html) == (site == TRAIN[1])
    assert "77 validation patches" in everything.texts["reliability"]
    assert "77 validation patches" not in html
    assert f"Patches of {site}" in page.texts[""]


def test_files_are_named_after_what_they_hold(little, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("medfl.report.run_report._page", lambda evidence, patches: f"the page of {evidence.site}")
    folder = little
    report(str(folder))
    assert write_report(folder, site=TRAIN[0]) == folder / f"report-{TRAIN[0]}.html"
    report(str(folder), out=str(tmp_path / "mine.html"))
    assert (tmp_path / "mine.html").read_text() == (folder / "report.html").read_text()
    assert str(tmp_path / "mine.html") in capsys.readouterr().out
    with pytest.raises(MedflError, match="name another file with --out"):
        write_report(folder, tmp_path / "no" / "such" / "folder.html")
    with pytest.raises(MedflError, match=r"has no site alpine-clinc.*Did you mean \"alpine-clinic\""):
        report_html(folder, "alpine-clinc")


# --------------------------------------------------------------------------------------------- runs of other kinds


def test_an_unfinished_run_says_how_to_finish_it(tmp_path):
    folder = Run(tmp_path / "cut", TRAIN).begin().play(1).folder
    with pytest.raises(MedflError, match=f"finish it with `medfl resume {re.escape(str(folder))}`"):
        write_report(folder)
    with pytest.raises(MedflError, match="no run folder"):
        write_report(tmp_path)


def test_a_run_of_before_calibration_has_its_page(tmp_path):
    page = Page(report_html(finish(FakeRun(tmp_path / "old", TRAIN[:1], HELD_OUT[:1]).begin().play())))
    assert page.tables["sites"][0][0][-5:] == ["ECE [95 %]", "debiased ECE", "noise alone", "Brier", "NLL"]
    assert "Not calibrated." in page.texts["result"]
    assert "No operating point." in page.texts["result"]
    assert not {"roc", "pooled"} & set(page.tables)


def test_one_round_one_site_and_a_lost_measurement(little, tmp_path):
    folder = shutil.copytree(little, tmp_path / "lost")
    summary = json.loads((folder / "summary.json").read_text())
    del summary["sites"][HELD_OUT[0]]
    summary["held_out"] = group_figures(summary["sites"], "held_out")
    summary["pooled"]["held_out"] = None
    (folder / "summary.json").write_text(json.dumps(summary))
    page = Page(report_html(folder))
    assert f"failed there: {HELD_OUT[0]}" in page.texts["sites"]
    assert "Training sites, worst AUROC" in page.texts["result"]
    assert HELD_OUT[0] in Page(report_html(folder, HELD_OUT[0])).texts[""]


def test_local_only_shows_every_model_everywhere(tmp_path):
    made = Run(tmp_path / "alone", TRAIN, HELD_OUT, method=["local_only"])
    folder = finish(made.begin().play())
    summary = json.loads((folder / "summary.json").read_text())
    for name in HELD_OUT:
        del summary["sites"][name]
    matrix = {a: {b: 0.5 + 0.1 * i + 0.01 * j for j, b in enumerate((*TRAIN, *HELD_OUT))} for i, a in enumerate(TRAIN)}
    matrix[TRAIN[0]][HELD_OUT[1]] = None
    summary |= {"cross_site_auroc": matrix, "temperature": None, "pooled": None, "operating": None, "calibration": None}
    summary["temperatures"] = {TRAIN[0]: 1.25, TRAIN[1]: 0.75}
    summary["held_out"] |= {"mean_auroc_ci": None}
    (folder / "summary.json").write_text(json.dumps(summary))
    page = Page(report_html(folder))
    assert page.rows("sites", 1) == {a: [three(v) for v in row.values()] for a, row in matrix.items()}
    assert "temperature 1.250" in page.texts["reliability"]
    assert "every site trained alone" in page.texts["result"]
    assert "FedAvg:" not in page.texts["configuration"]
    own = report_html(folder, TRAIN[1])
    assert not [name for name in (TRAIN[0], *HELD_OUT) if name in own]


def test_models_that_stay_at_a_site_and_ages_of_arrivals(tmp_path):
    made = Run(tmp_path / "own", TRAIN, HELD_OUT[:1], method=[{"name": "fedbuff", "buffer": 2}])
    record = made.record
    made.record = lambda t: (
        record(t)
        | {
            "virtual_seconds": 3.0 * t,
            "sites": {name: entry | {"age": t} for name, entry in record(t)["sites"].items()},
        }
    )
    folder = finish(made.begin().play())
    summary = json.loads((folder / "summary.json").read_text())
    summary["sites"][TRAIN[0]]["models"] = {"aligned": summary["sites"][TRAIN[1]]}
    (folder / "summary.json").write_text(json.dumps(summary | {"virtual_seconds": 1234.0}))
    page = Page(report_html(folder))
    own, other = summary["sites"][TRAIN[0]], summary["sites"][TRAIN[1]]
    shown = [format_interval(e["auroc"], e["auroc_ci"], few_groups=e["few_groups"]) for e in (own, other)]
    assert page.rows("sites", 1) == {TRAIN[0]: shown}
    assert any(label.startswith("Age of arrivals (mean, in merges): 0.000 in round 0, 3.000") for label in page.labels)
    assert "Virtual time: 1,234 s" in page.texts["stability"]


# ------------------------------------------------------------------------------------------- what it does not show


def told(folder, site=None):
    return {name for name, _ in limits(read_evidence(folder, site))}


def test_limits_follow_from_the_facts(whole, tmp_path):
    folder, _, _ = whole
    always = {"One training seed.", "Other hospitals.", "Benefit to anyone."}
    assert always <= told(folder)
    assert always <= told(folder, TRAIN[0])
    assert {"Simulated institutions.", "Few unseen sites.", "Failures.", "Test data was watched."} <= told(folder)
    assert {"No brackets.", "Unknown magnification."} <= told(folder)
    assert not {"Leaky splits.", "No patient.", "No unseen site.", "Not calibrated.", "Few source groups."} & told(
        folder
    )
    assert "Failures." not in told(folder, TRAIN[0])

    made = Run(tmp_path / "worse", TRAIN, (), leaky=True)
    made.extra = {"mpp": 0.5}
    made.patches = 15  # three groups
    base = made.pipeline()
    base["data"] |= {"source": "tissue", "mode": "own"}
    made.pipeline = lambda: base
    worse = told(finish(made.begin().play()))
    assert {"Leaky splits.", "No patient.", "No unseen site.", "Few source groups."} <= worse
    assert not {"Simulated institutions.", "Unknown magnification.", "Failures.", "Test data was watched."} & worse


def test_calibration_that_made_things_worse_is_said(whole):
    folder, _, summary = whole
    raised = {name for name, entry in summary["sites"].items() if entry["ece"] > entry["ece_before"]}
    sentence = dict(limits(read_evidence(folder))).get("Calibration everywhere.", "")
    assert {name for name in (*TRAIN, *HELD_OUT) if name in sentence} == raised


def test_many_names_are_cut_short():
    assert several(["a", "b"]) == "a, b"
    assert several(list("abcdefg")) == "a, b, c, d, e and 2 more"


def test_citations_follow_the_method_and_the_data(whole, tmp_path):
    _, page, _ = whole
    assert "https://arxiv.org/abs/2601.03584" in page.values("href")
    assert "https://arxiv.org/abs/1912.12142" not in page.values("href")
    made = Run(tmp_path / "lc", TRAIN[:1], (), rounds=1, method=["fedprox"])
    base = made.pipeline()
    base["data"] |= {"source": "lc25000"}
    made.pipeline = lambda: base
    cited = Page(report_html(finish(made.begin().play()))).values("href")
    assert {
        "https://arxiv.org/abs/1912.12142",
        "https://doi.org/10.1007/978-3-031-73748-0_2",
        "https://arxiv.org/abs/1812.06127",
    } <= set(cited)


def test_papers_are_those_of_the_summary(little, tmp_path):
    folder = shutil.copytree(little, tmp_path / "own")
    summary = json.loads((folder / "summary.json").read_text())
    summary["papers"] = {"theirs": "doi:10.1000/1", "ours": "arXiv:2601.03584"}
    (folder / "summary.json").write_text(json.dumps(summary))
    cited = Page(report_html(folder)).values("href")
    assert {"https://doi.org/10.1000/1", "https://arxiv.org/abs/2601.03584"} <= set(cited)


# ------------------------------------------------------------------------------------------------------- patches


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A run on a little generated tissue."""
    sites = {"generate": {"count": 2, "held_out": 1, "patches": 22, "dirichlet_alpha": 5.0}}
    # The sites of fedbn keep layers to themselves, without which their mistakes would be others.
    changes = {"sites": sites, "method": ["fedbn"], "training": {"rounds": 1}}
    path = write_tiny(tmp_path_factory.mktemp("pipelines"), **changes)
    return run(load_pipeline(path), tmp_path_factory.mktemp("runs") / "tiny").folder.path


def test_patches_only_when_asked_for(real):
    summary = json.loads((real / "summary.json").read_text())
    plain = Page(write_report(real).read_text())
    assert "data:image" not in plain.raw
    assert "img" not in {tag for tag, _ in plain.tags}
    target = write_report(real, extras=with_patches)
    assert target == real / "report-with-patches.html"
    assert "data:image" not in (real / "report.html").read_text()
    page = Page(target.read_text())
    wrong = {
        name: sum(map(sum, entry["confusion"])) - sum(entry["confusion"][i][i] for i in range(3))
        for name, entry in summary["sites"].items()
    }
    assert sum(wrong.values()) > 0
    counted = {int(found) for found in re.findall(r"(\d+) of \d+ test patches misclassified", page.texts["patches"])}
    assert counted == {count for count in wrong.values() if count}
    pictures = page.values("src")
    assert all(address.startswith("data:image/jpeg;base64,") for address in pictures)
    assert len(wrong) < len(pictures) <= sum(8 + min(count, 8) for count in wrong.values())
    assert len(set(pictures)) > len(wrong)
    assert all(re.match(r"lung_aca|lung_n|colon_n", words) for words in page.values("alt"))
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2]))))
    assert shown.shape == (32, 32, 3)
    assert shown.std() > 10


def test_a_sites_patches_are_its_own(real):
    one, *others = json.loads((real / "summary.json").read_text())["sites"]
    page = Page(write_report(real, site=one, extras=with_patches).read_text())
    assert page.values("src")
    assert not [name for name in others if name in page.raw]
    named = re.findall(r'<span class="file">([^<]+)</span>', page.raw)
    assert len(named) == len(page.values("src"))
    assert 'class="file"' not in (real / "report-with-patches.html").read_text()


def test_no_two_patches_of_a_gallery_are_of_one_group_or_alike():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    images[3] = np.rot90(images[0])[:, ::-1]  # the same patch turned over, in a group of its own
    images[5] = 128
    store = SimpleNamespace(images=images, groups=np.array([0, 1, 1, 2, 3, 4]))
    assert list(patch_gallery._distinct(store, np.arange(6))) == [0, 1, 4, 5]


def test_patches_of_another_engine_or_of_changed_data_are_refused(real, tmp_path):
    there = shutil.copytree(real, tmp_path / "there")
    summary = json.loads((there / "summary.json").read_text())
    del summary["digests"]  # which would say first that a file was edited
    (there / "summary.json").write_text(json.dumps(summary | {"engine": "nvflare"}))
    with pytest.raises(MedflError, match="ran on the nvflare engine"):
        write_report(there, extras=with_patches)
    assert "data:image" not in report_html(there, "site-01")
    (there / "summary.json").write_text(json.dumps(summary | {"engine": "in-process"}))
    table = (there / "allocation_summary.csv").read_text()
    (there / "allocation_summary.csv").write_text(
        re.sub(r",(\d+),(\d+),(\w+)$", r",\1,9999,\3", table, count=1, flags=re.M)
    )
    with pytest.raises(MedflError, match="has changed since the run"):
        write_report(there, extras=with_patches)


# ------------------------------------------------------------------------------------------------ pieces for others


def test_a_page_of_ones_own():
    section = PageSection("one", "A & B", html_blocks.table(["", "x"], [["<i>", "1"]]), "read < this")
    page = Page(render_page("T <1>", [section], facts=["f"], notice="n"))
    assert "i" not in {tag for tag, _ in page.tags}
    assert page.rows("one") == {"<i>": ["1"]}
    assert "A & Bread < this" in re.sub(r"\s*\n\s*", "", page.texts["one"])
    assert "T <1>" in page.texts[""]


def test_lines_with_gaps_bands_and_single_points():
    gap = charts.Line([0, 1, 2, 3], [0.1, None, 0.3, 0.4])
    path = re.search(r'<path d="([^"]*)"[^>]*stroke: var\(--after\)', charts.lines([gap], name="a", finding="f"))
    assert path
    assert path[1].count("M") == 2  # the line is broken where there is no value
    band = charts.lines([charts.Line([0, 1], [0.1, 0.2], "c1", low=[0, 0.1], high=[0.2, 0.3])], name="b", finding="f")
    assert "var(--c1)" in band
    assert "use" in charts.lines([charts.Line([5], [0.5])], name="c", finding="f", mark=5)
    assert "<svg" in charts.lines([], name="d", finding="nothing")


def test_the_ninth_class_is_told_from_the_first():
    picture = charts.bars([("train", [1] * 9)], name="k", finding="f")
    assert picture.count("<pattern") == 1
    assert picture == charts.bars([("train", [1] * 9)], name="k", finding="f")
    assert picture != charts.bars([("train", [1] * 9)], name="other", finding="f")


def test_the_first_screen_says_what_is_missed(whole):
    _, page, summary = whole
    first = headline(summary)
    result = page.texts["result"]
    assert first.malignant.missed
    assert result.index(first.sentence) < result.index("AUROC")
    for rate in (first.malignant, first.recall):
        assert f"{rate.site}, {rate.hits} of {rate.patches}" in result
    assert "nothing was asked of this model" in result


def test_the_registered_name_and_the_gates_stand_on_the_page(tmp_path):
    run_ = Run(tmp_path / "r", TRAIN[:1], HELD_OUT[:1], rounds=1).begin().play()
    finish(run_)
    path = run_.folder / "pipeline.yaml"
    gates = {"held_out_auroc_min": 0.1, "held_out_ece_max": 0.0}
    path.write_text(yaml.safe_dump(run_.pipeline() | {"registry": {"name": "lungs", "gates": gates}}))
    result = results_sections.result(read_evidence(run_.folder)).body
    assert "not in lungs: its gates are missed" in result
    assert "held_out_ece_max" in result
    assert "held_out_auroc_min" not in result
    note_registration(run_.folder, "lungs", "7", "champion")
    assert "lungs version 7 (champion)" in results_sections.result(read_evidence(run_.folder)).body
    assert "held_out_ece_max" not in results_sections.result(read_evidence(run_.folder, TRAIN[0])).body


def test_pages_have_numbers_on_paper_and_heat_maps_scroll_beside_their_names(whole):
    css = re.sub(r"\s+", " ", whole[1].raw[: whole[1].raw.index("</style>")])
    assert re.search(r"@page \{[^}]*@bottom-right \{ content: counter\(page\)", css)
    assert re.search(r"\.heat th:first-child \{ position: sticky", css)
    assert ".stack, .scroll { overflow-x: auto" in css  # a wide table never widens the page


def test_a_reliability_diagram_says_what_noise_alone_would_do(whole):
    folder, page, summary = whole
    curves = json.loads((folder / "curves.json").read_text())["sites"]
    for name in summary["sites"]:
        bins = curves[name]["calibration"]["after"]
        assert 1 < len(bins["count"]) <= 10
        assert min(bins["groups"]) >= 5
        assert sum(bins["count"]) == 120
        said = next(label for label in page.labels if label.startswith(f"Reliability at {name}:"))
        assert f"noise alone would give {summary['sites'][name]['ece_noise']:.3f}." in said
