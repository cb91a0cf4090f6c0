"""What the runs of a study are dealt: read once, kept as long as there is room."""

import yaml

from medfl.data import catalog
from medfl.study import deals
from medfl.study.deals import Deals
from medfl.study.study_file import load_study
from tests.tiny import write_tiny


def test_a_catalog_is_read_once_and_a_deal_that_was_let_go_is_dealt_again(tmp_path, monkeypatch):
    write_tiny(tmp_path)
    study = {"name": "tiny", "pipeline": "tiny.yaml", "seeds": [1, 2], "methods": {"fedavg": []}, "brackets": False}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    read, pipeline_catalog = [], catalog.pipeline_catalog
    monkeypatch.setattr(catalog, "pipeline_catalog", lambda pipeline: read.append(1) or pipeline_catalog(pipeline))
    monkeypatch.setattr(deals, "KEPT_PARTITIONS", 1)
    runs = load_study(tmp_path / "study.yaml").runs
    dealt = Deals(tmp_path)
    first, second, again = (dealt.partition(run) for run in (runs[0], runs[1], runs[0]))
    assert again is not first
    assert [list(share.rows) for share in again.sites] == [list(share.rows) for share in first.sites]
    assert dealt.partition(runs[0]) is again
    assert second.sites[0].catalog is first.sites[0].catalog
    assert len(read) == 1
    assert dealt.deal(runs[0]).digest != dealt.deal(runs[1]).digest
