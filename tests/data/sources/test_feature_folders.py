import pytest

from medfl.data.partition import make_partition
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from tests.bags import table
from tests.data.test_render_bags import plan, write_site


def entries(pipeline):
    [share] = make_partition(pipeline).sites
    return share


def test_rows_without_features_are_refused_or_left_out_and_the_rest_is_counted(tmp_path):
    root = write_site(tmp_path / "site")
    rows = (root / "slides.csv").read_text().splitlines()
    table(root / "slides.csv", *rows[:-1], "p9,gone,a")
    with pytest.raises(MedflError, match=r"^site north: 1 of 18 slides of .*slides.csv have no features in .*: gone; "):
        make_partition(plan(tmp_path, root))
    partition = make_partition(plan(tmp_path, root, {"on_bad_image": "skip"}))
    assert len(partition.sites[0].rows) == 17
    assert partition.left_out() == [
        "site north: Left out: 1 files of features that no row names (s17).",
        "site north: Left out: 1 slides of slides.csv without features (gone).",
    ]


def test_a_table_of_other_slides(tmp_path):
    root = write_site(tmp_path / "site")
    table(root / "slides.csv", "patient,slide,label", "p1,x1,a")
    with pytest.raises(MedflError, match=r"none of the 1 slides of .* has features in .*, which has those of s0, s1"):
        make_partition(plan(tmp_path, root))


def test_words_of_a_site_are_mapped_and_unknown_ones_refused(tmp_path):
    root = write_site(tmp_path / "site")
    rows = (root / "slides.csv").read_text().replace(",a\n", ",benign\n")
    (root / "slides.csv").write_text(rows)
    with pytest.raises(MedflError, match=r'the label "benign" of .* is no class'):
        make_partition(plan(tmp_path, root))
    assert len(entries(plan(tmp_path, root, site={"labels": {"benign": "a"}})).rows) == 18


def test_tables_may_lie_elsewhere_relative_to_the_file_that_names_them(tmp_path):
    root = write_site(tmp_path / "site")
    (root / "slides.csv").rename(tmp_path / "labels of ours.csv")
    with pytest.raises(MedflError, match="nothing says what the slides"):
        make_partition(plan(tmp_path, root))
    site = {"data": {"root": str(root), "features": {"table": "labels of ours.csv"}}}
    pipeline = plan(tmp_path, root, {"features": {"label": "label"}}, site)
    assert pipeline.train_sites[0].data.features.table == str(tmp_path / "labels of ours.csv")
    assert len(entries(pipeline).rows) == 18


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("model.mil=null", "dim` is the length of a feature vector"),
        ("model={backbone: test_byobnet}", "gives bags of feature vectors, and the model sees images"),
        (
            "data.source=tissue",
            "reads bags of feature vectors, and `data.source: tissue` gives images",
        ),
        ("model.dim=null", "`dim` is missing"),
        ("model.backbone=resnet18", "`backbone` is for networks that see images"),
        ("model.args={hidden: 3}", "`args.hidden` is written `hidden`, beside `mil`"),
        ("training.compile=true", "`training.compile` is for images of one size"),
        ("training.augment={brightness: 0.1}", "`training.augment.brightness` is for images"),
        ("data.render=[Flip]", "`data.render` is for images"),
    ],
)
def test_keys_that_say_something_of_images_are_refused(tmp_path, key, reason):
    plan(tmp_path, tmp_path)
    with pytest.raises(MedflError, match=reason):
        load_pipeline(tmp_path / "p.yaml", [key])


def test_dropout_of_tiles_is_for_bags(tmp_path):
    plan(tmp_path, tmp_path)
    keys = ["training.augment={bag_dropout: 0.1}", "model={backbone: test_byobnet}", "data.source=folder"]
    with pytest.raises(MedflError, match=r"`training.augment.bag_dropout` leaves out tiles of a bag"):
        load_pipeline(tmp_path / "p.yaml", keys)
