"""The page of reliability says what the committed soak says, and the soak sees what is torn."""

from benchmarks import soak
from benchmarks.pages import rewritten


def test_the_generated_part_of_the_page_is_that_of_the_table():
    text = soak.PAGE.read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in text for name in soak.PARTS)
    assert rewritten(text, soak.PARTS) == text


def test_every_kill_of_the_committed_soak_ended_in_the_same_run():
    rows = soak.read(soak.RESULT)
    assert len(rows) >= 50
    assert {row["phase"] for row in rows} <= set(soak.PHASES)
    assert {(row["whole"], row["resumed"], row["equal"]) for row in rows} == {("True",) * 3}


def test_torn_files_are_seen_and_a_torn_last_line_is_none(tmp_path):
    (tmp_path / "rounds.jsonl").write_text('{"round": 0}\n{"rou')
    (tmp_path / "summary.json.tmp").write_text("{")
    assert soak.damaged(tmp_path) == []
    (tmp_path / "rounds.jsonl").write_text('{"rou\n{"round": 0}\n')
    (tmp_path / "summary.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"12345678")
    found = [line.partition(":")[0] for line in soak.damaged(tmp_path)]
    assert found == ["model.safetensors", "rounds.jsonl", "summary.json"]


def test_what_a_killed_run_was_doing(tmp_path):
    assert soak.phase(tmp_path) == "starting"
    (tmp_path / "pipeline.yaml").touch()
    assert soak.phase(tmp_path) == "training"
    (tmp_path / "rounds.jsonl").write_text("{}\n")
    assert soak.phase(tmp_path) == "writing"
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.json").write_text('{"round": 9}')
    assert soak.phase(tmp_path) == "closing"
    (tmp_path / "summary.json").touch()
    assert soak.phase(tmp_path) == "tracking"
