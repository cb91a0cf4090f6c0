"""The page of scale says what the committed measurements say, and they hold what is promised."""

from benchmarks import scale
from benchmarks.pages import rewritten


def test_the_generated_parts_of_the_page_are_those_of_the_tables():
    text = scale.PAGE.read_text(encoding="utf-8")
    assert rewritten(text, scale.PARTS) == text


def test_what_the_committed_measurements_hold():
    rows = {(row["method"], row["backbone"], row["sites"]): row for row in scale.read("deployed.csv")}
    for row in rows.values():
        assert abs(float(row["deployed_s"]) - float(row["in_process_s"]) - float(row["more_s"])) < 2e-4
    assert float(rows["fedavg", "resnet18", "4"]["more_s"]) <= 3.0
    assert float(rows["fedavg", scale.SMALL, "4"]["deployed_s"]) <= 0.3
    large = rows["fedavg", "vit_large_patch16_224", "2"]
    assert float(large["server_mib"]) * 2**20 <= 2.5 * 4 * int(large["parameters"])
    server = [row for row in scale.read("server.csv") if row["method"] == "fedavg"]
    assert server[0]["sites"] == "20"
    assert scale.flat(server, "anonymous_mib") <= 1.05
    assert scale.flat(server, "peak_mib") <= 1.05


def test_a_simulated_server_plays_whole_rounds(monkeypatch):
    monkeypatch.setattr(scale, "SITES", 2)
    monkeypatch.setattr(scale, "BACKBONE", scale.SMALL)
    rows = scale.serve(["scaffold"], 2)
    assert [row["round"] for row in rows] == [0, 1]
    assert all(row["peak_mib"] >= row["resident_mib"] >= row["anonymous_mib"] > 0 for row in rows)


def test_seconds_a_round_leave_the_start_and_the_last_measurement_out(monkeypatch):
    clock = iter([0.0, 9.0, 10.0, 12.0, 14.0, 30.0])
    monkeypatch.setattr(scale.time, "perf_counter", lambda: next(clock))

    def play(watcher):
        for _ in range(5):
            watcher.round({}, 4)

    assert scale.seconds_a_round(play) == (9.0, 2.0)
