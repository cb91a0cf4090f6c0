"""Whether a run has come to a result."""

from medfl.runs.verdict import why_unmeasured, why_untrained


def record(t, counted, *failures):
    return {"round": t, "counted": counted, "failures": [{"site": site, "reason": reason} for site, reason in failures]}


def test_a_run_is_trained_where_a_round_before_the_selected_one_counted():
    lost = [record(0, False, ("a", "no"), ("b", "off")), record(1, False, ("a", "no"), ("b", "gone")), record(2, False)]
    assert "(round 1: a: no; b: gone)" in why_untrained(lost, 2)
    assert why_untrained([record(0, True), record(1, False), record(2, False)], 2) is None
    assert "round 1 counted" in why_untrained([record(0, False), record(1, True), record(2, False)], 1)
    assert "the run began with" in why_untrained([record(0, True), record(1, False)], 0)
    assert why_untrained([], 3) is not None


def test_a_model_is_measured_where_a_site_of_every_role_is():
    roles = {"a": "train", "b": "train", "c": "held_out"}
    failures = [{"site": "c", "reason": "scores are not finite"}, {"site": "a", "reason": "away"}]
    assert why_unmeasured(roles, ["a", "c"], failures) is None
    assert why_unmeasured({"a": "train"}, ["a"], ()) is None
    assert why_unmeasured(roles, ["a", "b"], failures) == (
        "no held-out site could be measured on test data (c: scores are not finite)"
    )
    assert why_unmeasured(roles, [], failures).startswith("no site could be measured")
    assert "none answered" in why_unmeasured(roles, ["c"], ())
